//! The options.

use std::fs::File;
use std::io::{IoSliceMut, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use connectors::{CacheKey, ErrorKind, LMCacheEngineConfig, LocalCpuBackend, MemoryObj, MemoryObjMut, PoolAllocator};

use super::{Place, bytes, file_name, files, key, keys, kv, object_key};

#[tokio::test]
async fn opens_with_every_setting_that_lmcache_has_for_it() {
    let place = Place::new();
    let config = LMCacheEngineConfig::default()
        .with_extra_config("fs_connector_read_ahead_size", 8192)
        .with_extra_config("fs_connector_use_odirect", true)
        .with_extra_config("save_chunk_meta", false)
        .with_extra_config("fs_connector_relative_tmp_dir", "tmp");
    let connector = connectors::builder(&place.url("")).config(config).open().await.unwrap();
    connector.put(&key(1), kv(1, 1)).await.unwrap();
    assert_eq!(connector.batched_get(&[key(1), key(1)]).await.remove(1).unwrap().as_deref(), Some(&*kv(1, 1)));
}

#[tokio::test]
async fn save_chunk_meta_comes_from_the_configuration_and_layerwise_forces_it() {
    let place = Place::new();
    for (yaml, keeps) in [
        ("extra_config: {save_chunk_meta: false}", false),
        ("{}", true),
        ("{use_layerwise: true, extra_config: {save_chunk_meta: false}}", true),
    ] {
        let config = LMCacheEngineConfig::from_yaml(yaml).unwrap();
        let connector = connectors::builder(&place.url("")).config(config).open().await.unwrap();
        assert_eq!(connector.capabilities().keeps_layout, keeps, "{yaml}");
    }
}

#[tokio::test]
async fn relative_tmp_dir_is_where_files_are_written() {
    let place = Place::new();
    let url = format!("{}?relative_tmp_dir=being/written", place.url(""));
    let connector = connectors::open(&url).await.unwrap();
    connector.put(&key(1), kv(1, 7)).await.unwrap();
    assert_eq!(files(&place.0.path().join("fs/being/written")), [""; 0]);
    assert_eq!(keys(&connector, "").await, ["facebook/opt-125m@1@0@1@half"]);
    for outside in ["/tmp", "../up"] {
        let e = connectors::open(&format!("{}?relative_tmp_dir={outside}", place.url(""))).await.unwrap_err();
        assert!(e.to_string().contains("is not below the base path"), "{e}");
    }
}

#[tokio::test]
async fn with_use_odirect_values_of_every_size_and_memory_come_back() {
    for dir in [std::env::temp_dir(), "/dev/shm".into()] {
        let place = Place(tempfile::tempdir_in(dir).unwrap());
        let pool = PoolAllocator::new(64 << 20);
        let backend = LocalCpuBackend::with_allocator(pool.clone());
        let url = place.url("?save_chunk_meta=false&use_odirect=true");
        let store = connectors::builder(&url).local_cpu_backend(backend.clone()).open().await.unwrap();
        let cached = place.open("?save_chunk_meta=false").await;
        for len in [0, 1, 4096, 65_536, 70_000, (1 << 20) + 4096, 3 << 20] {
            let content = bytes(len, len as u32);
            let mut aligned = backend.allocate(&connectors::ChunkLayout::binary(len)).await.unwrap();
            aligned.copy_from_slice(&content);
            for (n, chunk) in [(1, aligned.freeze()), (2, MemoryObj::from(content.clone()))] {
                for key in [key(n), object_key(n)] {
                    store.put(&key, chunk.clone()).await.unwrap();
                    // Through the page cache, and with O_DIRECT.
                    assert!(cached.get(&key).await.unwrap().unwrap() == chunk, "{len}");
                    assert!(store.get(&key).await.unwrap().unwrap() == chunk, "{len}");
                    let mut odd = MemoryObjMut::zeroed(len + 1);
                    assert_eq!(store.get_into(&key, &mut odd).await.unwrap(), Some(len));
                    assert!(*odd == *chunk, "{len}");
                    assert!(store.exists(&key).await.unwrap());
                }
            }
        }
        let all: Vec<CacheKey> = vec![key(1), key(3), key(2)];
        let found = store.batched_get(&all).await;
        assert!(found[0].is_ok() && matches!(found[1], Ok(None)) && found[2].is_ok());
        drop(found);
        store.close().await.unwrap();
        assert_eq!(pool.stats().in_use, 0);
    }
}

/// Whether the page cache has all of the file. tmpfs does not support the call, and is the page cache.
fn is_cached(path: &Path) -> bool {
    let file = File::open(path).unwrap();
    let mut buffer = vec![0; file.metadata().unwrap().len() as usize];
    let slices = &mut [IoSliceMut::new(&mut buffer)];
    match rustix::io::preadv2(&file, slices, 0, rustix::io::ReadWriteFlags::NOWAIT) {
        Ok(n) => n as u64 == file.metadata().unwrap().len(),
        Err(e) => e == rustix::io::Errno::OPNOTSUPP,
    }
}

/// Whether a file can be read past the page cache: not on tmpfs, nor if the file system refuses.
fn can_bypass_the_cache(path: &Path) -> bool {
    const TMPFS: i128 = 0x0102_1994;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECT;
    i128::from(rustix::fs::statfs(path).unwrap().f_type) != TMPFS
        && rustix::fs::open(path, flags, rustix::fs::Mode::empty()).is_ok()
}

#[tokio::test]
async fn a_direct_read_leaves_nothing_in_the_page_cache() {
    let place = Place::new();
    let direct = place.open("?save_chunk_meta=false&use_odirect=true").await;
    let cached = place.open("?save_chunk_meta=false").await;
    let path = place.dir().join(file_name(1));
    for (store, bypasses) in [(direct, true), (cached, false)] {
        store.put(&key(1), MemoryObj::from(bytes(1 << 20, 1))).await.unwrap();
        store.get(&key(1)).await.unwrap().unwrap();
        assert_eq!(is_cached(&path), !(bypasses && can_bypass_the_cache(&path)), "bypasses the cache: {bypasses}");
    }
}

#[tokio::test]
async fn o_direct_with_headers_is_refused_with_a_hint() {
    let config = |yaml| LMCacheEngineConfig::from_yaml(yaml).unwrap();
    for (options, yaml, hint) in [
        ("?use_odirect=true", "{}", "set `save_chunk_meta=false`"),
        ("?use_odirect=true&save_chunk_meta=true", "{}", "set `save_chunk_meta=false`"),
        ("?use_odirect=true&save_chunk_meta=false", "use_layerwise: true", "turn off `use_layerwise`"),
    ] {
        let e = connectors::builder(&Place::new().url(options)).config(config(yaml)).open().await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidOption);
        assert!(e.to_string().contains("use_odirect") && e.to_string().contains(hint), "{e}");
    }
}

#[tokio::test]
async fn every_fsync_policy_stores_and_another_word_is_refused() {
    for policy in ["never", "file", "full"] {
        let place = Place::new();
        let store = place.open(&format!("/deep/er?fsync={policy}&relative_tmp_dir=t")).await;
        for n in 0..3 {
            store.put(&key(n), kv(3, n)).await.unwrap();
        }
        assert!(store.remove(&key(0)).await.unwrap());
        assert_eq!((store.get(&key(1)).await.unwrap(), keys(&store, "").await.len()), (Some(kv(3, 1)), 2));
    }
    let e = connectors::open(&Place::new().url("?fsync=always")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidOption);
    assert!(["never", "file", "full", "always"].iter().all(|word| e.to_string().contains(word)), "{e}");
}

#[tokio::test]
async fn a_read_ahead_of_any_size_gives_the_same_bytes() {
    let place = Place::new();
    for size in [0, 1, 4096, 4999, 5000, 5001, u64::MAX] {
        for meta in [true, false] {
            let store = place.open(&format!("?read_ahead_size={size}&save_chunk_meta={meta}")).await;
            store.put(&key(1), MemoryObj::from(bytes(5000, 1))).await.unwrap();
            for found in store.batched_get(&[key(1), key(1)]).await {
                assert_eq!(found.unwrap().as_deref(), Some(&bytes(5000, 1)[..]), "{size}");
            }
        }
    }
}

#[tokio::test]
async fn a_temporary_directory_on_another_file_system_is_refused() {
    let place = Place::new();
    std::fs::create_dir(place.dir()).unwrap();
    std::os::unix::fs::symlink("/proc", place.dir().join("tmp")).unwrap();
    let e = connectors::open(&place.url("?relative_tmp_dir=tmp")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidOption);
    assert!(e.to_string().contains("is on another file system than"), "{e}");
}

#[tokio::test]
async fn a_put_names_a_temporary_directory_that_moved_to_another_file_system() {
    let place = Place::new();
    std::fs::create_dir(place.dir()).unwrap();
    let dev = |dir: &Path| dir.metadata().map(|stat| stat.dev()).ok();
    let here = dev(&place.dir());
    let others = ["/dev/shm", env!("CARGO_TARGET_TMPDIR"), "/var/tmp", "/run/user", "/run"];
    let others = others.iter().filter(|dir| dev(Path::new(dir)).is_some_and(|dev| Some(dev) != here));
    let Some(other) = others.filter_map(|dir| tempfile::tempdir_in(dir).ok()).next() else {
        // Written directly, because the test runner hides a macro's output if the test passes.
        let missing = "NOT TESTED: a rename between file systems, because every writable directory is on one\n";
        std::io::stderr().write_all(missing.as_bytes()).unwrap();
        return;
    };
    let late = place.open("?relative_tmp_dir=tmp").await;
    std::os::unix::fs::symlink(other.path(), place.dir().join("tmp")).unwrap();
    let e = late.put(&key(1), kv(1, 1)).await.unwrap_err();
    assert!(e.to_string().contains("`relative_tmp_dir` and the directories of the chunks must be on"), "{e}");
    assert_eq!((files(other.path()).len(), files(&place.dir())), (0, vec!["tmp".to_owned()]));
}

#[tokio::test]
async fn a_name_that_is_too_long_is_refused_before_any_file_is_made() {
    let place = Place::new();
    let store = place.open("").await;
    let longest = store.capabilities().max_key_bytes.unwrap();
    let of_length = |len: usize| -> CacheKey { format!("{}@1@0@ff@half", "m".repeat(len - 12)).parse().unwrap() };
    let e = store.put(&of_length(longest + 1), kv(1, 1)).await.unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidKey && e.to_string().contains("256 bytes"), "{e}");
    assert!(!place.dir().exists());
    store.put(&of_length(longest), kv(1, 1)).await.unwrap();
    assert_eq!(files(&place.dir())[0].len(), 255);
}
