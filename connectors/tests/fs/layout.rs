//! Where chunks are stored, and the URLs that open the store.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use connectors::{
    CacheKey, ChunkLayout, Dtype, ErrorKind, LMCacheEngineConfig, LMCacheMetadata, LayerGroup, ListEntry, MemoryObj,
    MemoryObjMut,
};
use futures::{StreamExt, TryStreamExt};

use super::{Place, file_name, files, key, keys, kv, object_key};

#[tokio::test]
async fn raw_files_take_their_layout_from_the_metadata() {
    let place = Place::new();
    let group = LayerGroup { kv_size: 2, num_layers: 3, hidden_dim: 8, dtype: Dtype::Bfloat16 };
    let metadata = LMCacheMetadata::new("facebook/opt-125m", 1, 0, 16, &[group]).unwrap();
    let url = format!("{}?save_chunk_meta=false", place.url(""));
    let connector = connectors::builder(&url).metadata(metadata.clone()).open().await.unwrap();
    assert!(!connector.capabilities().keeps_layout);
    for (tokens, key) in [(16, key(1)), (5, key(2)), (16, object_key(1))] {
        connector.put(&key, kv(tokens, 1)).await.unwrap();
        assert_eq!(connector.get(&key).await.unwrap(), Some(kv(tokens, 1)));
    }
    let file = place.dir().join(file_name(2));
    assert_eq!(std::fs::read(&file).unwrap(), &*kv(5, 1));

    // A put refuses a chunk that a get could not give back.
    let e = connector.put(&key(3), MemoryObj::from(vec![0; 7])).await.unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidInput && e.to_string().contains("one token has 96 bytes"), "{e}");
    std::fs::write(&file, [0; 7]).unwrap();
    assert_eq!(connector.get(&key(2)).await.unwrap_err().kind(), ErrorKind::Corrupt);

    let without = connectors::open(&url).await.unwrap();
    assert_eq!(without.get(&key(1)).await.unwrap().unwrap().layout(), &ChunkLayout::binary(16 * 96));
}

#[tokio::test]
async fn of_keys_that_share_a_file_name_all_but_one_are_refused_in_every_operation() {
    let key = |model: &str| -> CacheKey { format!("{model}@1@0@1@half").parse().unwrap() };
    for (kept, refused) in [("a/b", "a-SEP-b"), ("x/SEP-y", "x-SEP/y"), ("x/SEP-y", "x-SEP-SEP-y")] {
        let (kept, refused) = (key(kept), key(refused));
        for options in ["", "?save_chunk_meta=false"] {
            let place = Place::new();
            let connector = place.open(options).await;
            connector.put(&kept, MemoryObj::from(vec![1; 9])).await.unwrap();
            let mut memory = MemoryObjMut::zeroed(9);
            for answer in [
                connector.put(&refused, MemoryObj::from(vec![2; 9])).await,
                connector.get(&refused).await.map(drop),
                connector.get_into(&refused, &mut memory).await.map(drop),
                connector.exists(&refused).await.map(drop),
                connector.remove(&refused).await.map(drop),
                connector.batched_exists(&[kept.clone(), refused.clone()]).await.remove(1).map(drop),
                connector.batched_get(&[kept.clone(), refused.clone()]).await.remove(1).map(drop),
                connector.batched_put(&[(refused.clone(), MemoryObj::from(vec![2; 9]))]).await.remove(0),
            ] {
                let e = answer.unwrap_err();
                assert!(e.kind() == ErrorKind::InvalidKey && e.to_string().contains("the store cannot name it"), "{e}");
            }
            assert!(!memory.is_taken());
            assert_eq!(connector.get(&kept).await.unwrap(), Some(MemoryObj::from(vec![1; 9])));
            assert_eq!(keys(&connector, "").await, [kept.as_str()]);
        }
    }
}

#[tokio::test]
async fn marks_of_older_versions_and_files_of_lmcache_are_read_as_the_key_with_slashes() {
    let place = Place::new();
    let connector = place.open("").await;
    connector.put(&key(1), kv(1, 1)).await.unwrap();
    let file = place.dir().join(file_name(1));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o1644)).unwrap();
    assert_eq!(connector.get(&key(1)).await.unwrap(), Some(kv(1, 1)));
    // An older version's mark of another key with the same file name.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let other = b"facebook-SEP-opt-125m@1@0@1@half";
    let marked = rustix::fs::setxattr(&file, "user.kvconn.key", other, rustix::fs::XattrFlags::empty());
    assert!(matches!(marked, Ok(()) | Err(rustix::io::Errno::OPNOTSUPP)), "{marked:?}");
    assert_eq!(connector.get(&key(1)).await.unwrap(), Some(kv(1, 1)));
    assert!(connector.exists(&key(1)).await.unwrap());
    // As LMCache writes the file of a model named `a-SEP-b`.
    std::fs::rename(&file, place.dir().join("a-SEP-b@1@0@1@half.data")).unwrap();
    assert_eq!(keys(&connector, "").await, ["a/b@1@0@1@half"]);
    assert_eq!(connector.get(&"a/b@1@0@1@half".parse().unwrap()).await.unwrap(), Some(kv(1, 1)));
}

#[tokio::test]
async fn several_base_paths_share_the_chunks_by_hash() {
    let place = Place::new();
    let connector = connectors::open(&format!("fs://host:0{},{}", place.text("a"), place.text("b"))).await.unwrap();
    for n in 0..10 {
        connector.put(&key(n), kv(1, n)).await.unwrap();
    }
    for (dir, parity) in [("a", 0), ("b", 1)] {
        let found = files(&place.path(dir));
        let expected: Vec<_> =
            (0..10).filter(|n| n % 2 == parity).map(|n| format!("facebook-SEP-opt-125m@1@0@{n:x}@half.data")).collect();
        assert_eq!(found, expected);
    }
    assert_eq!(keys(&connector, "").await.len(), 10);
}

#[tokio::test]
async fn takes_several_base_paths_in_an_external_url_if_the_comma_is_escaped() {
    let place = Place::new();
    let url = |comma: &str| {
        let (a, b) = (place.text("a"), place.text("b"));
        format!("external://localhost:0/kvconn.fs/?connector_name=FSConnector&base_path={a}{comma}{b}")
    };
    connectors::open(&url("%2C")).await.unwrap().put(&key(1), kv(1, 1)).await.unwrap();
    assert_eq!(files(place.0.path()), ["a", "b"]);
    let e = connectors::open(&url(",")).await.unwrap_err();
    assert!(e.to_string().contains("only one host") && e.to_string().contains("%2C"), "{e}");
}

#[tokio::test]
async fn opens_by_every_url_that_names_it() {
    let place = Place::new();
    let path = place.text("fs");
    let config = LMCacheEngineConfig::default()
        .with_extra_config("remote_storage_plugin.fs.primary.base_path", path.as_str())
        .with_extra_config("remote_storage_plugin.mine.module_path", "kvconn.fs")
        .with_extra_config("remote_storage_plugin.mine.class_name", "FSConnector")
        .with_extra_config("remote_storage_plugin.other.url", format!("fs://{path}"))
        .with_extra_config("fs_base_path", path.as_str());
    for url in [
        format!("fs://{path}"),
        format!("fs://localhost:0{path}"),
        format!("external://localhost:0/kvconn.fs/?connector_name=FSConnector&base_path={path}"),
        format!("external://localhost:0/kvconn.fs/?connector_name=FSConnector&path={path}"),
        "plugin://fs.primary".to_owned(),
        "plugin://mine".to_owned(),
        "plugin://other".to_owned(),
        "plugin://fs".to_owned(),
    ] {
        let connector = connectors::builder(&url).config(config.clone()).open().await.unwrap();
        connector.put(&key(1), kv(1, 7)).await.unwrap();
        connector.ping().await.unwrap();
        assert_eq!(connector.name(), "kvconn.fs/FSConnector");
        std::fs::remove_file(Path::new(&path).join(file_name(1))).expect(&url);
    }
}

#[tokio::test]
async fn a_look_into_a_store_that_is_not_there_leaves_none_behind() {
    let place = Place::new();
    let connector = place.open("").await;
    assert_eq!(connector.get(&key(1)).await.unwrap(), None);
    assert!(keys(&connector, "").await.is_empty());
    connector.ping().await.unwrap();
    // Now it cannot be made.
    std::fs::write(place.text("fs"), "").unwrap();
    let e = connector.ping().await.unwrap_err();
    assert!(e.to_string().contains(&place.text("fs")), "{e}");
    std::fs::remove_file(place.text("fs")).unwrap();
    assert!(!Path::new(&place.text("fs")).exists());

    std::fs::write(place.text("file"), "").unwrap();
    let e = connectors::open(&format!("fs://{}/store", place.text("file"))).await.unwrap_err();
    assert!(e.to_string().contains(&format!("below `{}`: not a directory", place.text("file"))), "{e}");
}

#[tokio::test]
async fn a_base_path_that_cannot_be_made_concerns_only_its_own_keys() {
    let place = Place::new();
    let store = connectors::open(&format!("fs://{},{}", place.text("a"), place.text("b"))).await.unwrap();
    std::fs::write(place.path("b"), "a file").unwrap();
    let put = store.batched_put(&(0..4).map(|n| (key(n), kv(1, n))).collect::<Vec<_>>()).await;
    assert_eq!(put.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, false]);
    std::fs::remove_file(place.path("b")).unwrap();
    store.put(&key(1), kv(1, 1)).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(1, 1)));
}

#[tokio::test]
async fn a_store_that_must_exist_has_its_base_path_and_its_namespace() {
    let place = Place::new();
    let open = async |options| connectors::builder(&place.url(options)).existing(true).open().await;
    for options in ["", "?namespace=a"] {
        let e = open(options).await.unwrap_err();
        assert!(e.kind() == ErrorKind::Io && e.to_string().contains("cannot open the store"), "{e}");
    }
    place.open("").await.put(&key(1), kv(1, 1)).await.unwrap();
    assert!(open("").await.is_ok() && open("?namespace=a").await.is_err());
    place.open("?namespace=a").await.put(&key(1), kv(1, 1)).await.unwrap();
    assert!(open("?namespace=a").await.is_ok());
}

#[tokio::test]
async fn a_listing_with_sizes_gives_the_length_and_the_time_of_each_file() {
    let engine: CacheKey = "m_0_1@00000000@0@00ff".parse().unwrap();
    for (options, key, name, header) in [
        ("", key(1), file_name(1), 28),
        ("?save_chunk_meta=false", key(1), file_name(1), 0),
        ("", object_key(1), "facebook-SEP-opt-125m@0x01000100@0@00000001.data".to_owned(), 0),
        ("?layout=vllm", engine.clone(), "m_0_1_r0/00f/f_g0/00ff.bin".to_owned(), 0),
        ("?layout=sglang", engine, "00ff_m_0_1.bin".to_owned(), 0),
    ] {
        let place = Place::new();
        let connector = place.open(options).await;
        connector.put(&key, kv(5, 1)).await.unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        std::fs::File::options().write(true).open(place.dir().join(name)).unwrap().set_modified(at).unwrap();
        let entries: Vec<ListEntry> = connector.list_entries(key.model_name().unwrap()).try_collect().await.unwrap();
        assert_eq!(entries, [ListEntry::new(key.clone()).with_size(480 + header).with_modified(at)], "{options}");
        let page = connector.list_page("", None, 1).await.unwrap();
        assert_eq!((page.entries, page.next), (entries, None));
        assert_eq!(connector.list_entries("x").count().await, 0);
    }
}
