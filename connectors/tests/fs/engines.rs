//! `layout=vllm` and `layout=sglang`: files that another engine reads and writes.

use std::path::Path;
use std::time::Duration;

use connectors::fs::{FindingKind, ScrubOptions, scrub};
use connectors::{
    CacheKey, Connector, Dtype, ErrorKind, LMCacheEngineConfig, LMCacheMetadata, LayerGroup, MemoryObj, MemoryObjMut,
};

use super::quota::{backdate, ledger};
use super::{Place, bytes, files, key, keys};

/// A layout, a key of number `n`, and the path of its file.
#[derive(Clone, Copy)]
struct Engine {
    layout: &'static str,
    key: fn(u32) -> CacheKey,
    path: fn(u32) -> String,
}

const ENGINES: [Engine; 2] = [
    Engine {
        layout: "vllm",
        key: |n| format!("org_m_0123456789ab@0000000b@1@{n:08x}").parse().unwrap(),
        path: |n| {
            let hash = format!("{n:08x}");
            format!("org_m_0123456789ab_r11/{}/{}_g1/{hash}.bin", &hash[..3], &hash[3..5])
        },
    },
    Engine {
        layout: "sglang",
        key: |n| format!("org-m_3_8@00000000@0@{n:08x}@deepseek_v4_c4_indexer").parse().unwrap(),
        path: |n| format!("{n:08x}.deepseek_v4_c4_indexer_org-m_3_8.bin"),
    },
];

impl Engine {
    async fn open(self, place: &Place, options: &str) -> Connector {
        place.open(&format!("?layout={}{options}", self.layout)).await
    }

    /// Writes a file as the engine does.
    fn write(self, place: &Place, n: u32, bytes: &[u8]) {
        let path = place.dir().join((self.path)(n));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn file(self, place: &Place, n: u32) -> std::path::PathBuf {
        place.dir().join((self.path)(n))
    }
}

#[tokio::test]
async fn files_of_the_engine_are_chunks_and_chunks_are_files_of_the_engine() {
    for engine in ENGINES {
        for options in
            ["", "&use_odirect=true", "&namespace=a", "&relative_tmp_dir=tmp&fsync=full", "&capacity=1000000"]
        {
            // A disk and tmpfs take different ways.
            for dir in [std::env::temp_dir(), "/dev/shm".into()] {
                let root = Place(tempfile::tempdir_in(dir).unwrap());
                let store = engine.open(&root, options).await;
                let place = if options == "&namespace=a" { root.dir().join("a") } else { root.dir() };
                let file = |n: u32| place.join((engine.path)(n));
                assert_eq!(store.get(&(engine.key)(1)).await.unwrap(), None);
                assert!(keys(&store, "").await.is_empty() && !root.dir().exists());
                for (n, len) in [(1, 8192), (2, 5000), (0xabcd_ef01, 0)] {
                    store.put(&(engine.key)(n), MemoryObj::from(bytes(len, n))).await.unwrap();
                    assert!(std::fs::read(file(n)).unwrap() == bytes(len, n), "{options}");
                }
                std::fs::create_dir_all(file(3).parent().unwrap()).unwrap();
                std::fs::write(file(3), bytes(4096, 3)).unwrap();
                let all: Vec<_> = [1, 2, 0xabcd_ef01, 3].map(engine.key).into();
                let mut listed: Vec<_> = all.iter().map(ToString::to_string).collect();
                listed.sort();
                assert_eq!(keys(&store, "").await, listed);
                assert_eq!(keys(&store, all[0].as_str()).await, [all[0].as_str()]);
                assert_eq!(store.batched_contains(&all).await.unwrap(), 4);
                let got = store.batched_get(&all).await;
                assert!(got[3].as_ref().unwrap().as_deref() == Some(&bytes(4096, 3)[..]));
                assert!(store.exists(&all[3]).await.unwrap() && store.remove(&all[3]).await.unwrap());
                assert!(
                    !file(3).exists() && !store.exists(&all[3]).await.unwrap() && !store.remove(&all[3]).await.unwrap()
                );
                let names: Vec<_> = files(&place).into_iter().filter(|name| name.ends_with(".tmp")).collect();
                assert!(names.is_empty(), "{names:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_file_of_another_length_than_the_memory_is_a_miss_and_without_a_length_it_is_what_is_there() {
    // The metadata of an LMCache engine says nothing about these files.
    let group = LayerGroup { kv_size: 2, num_layers: 3, hidden_dim: 8, dtype: Dtype::Bfloat16 };
    let metadata = LMCacheMetadata::new("m", 1, 0, 16, &[group]).unwrap();
    for engine in ENGINES {
        for dir in [std::env::temp_dir(), "/dev/shm".into()] {
            let place = Place(tempfile::tempdir_in(dir).unwrap());
            let url = place.url(&format!("?layout={}", engine.layout));
            let store = connectors::builder(&url).metadata(metadata.clone()).open().await.unwrap();
            let can = store.capabilities();
            assert!(can.exact_length && can.object_keys_only && !can.keeps_layout && can.max_key_bytes.is_none());
            let key = (engine.key)(7);
            engine.write(&place, 7, &bytes(1000, 7));
            for (len, hit) in [(999, false), (1000, true), (1001, false), (0, false), (2000, false)] {
                let mut memory = MemoryObjMut::zeroed(len);
                let answer = store.get_into(&key, &mut memory).await.unwrap();
                assert_eq!(answer, hit.then_some(1000), "{len}");
                assert!(!memory.is_taken() && memory.len() == len && (*memory == bytes(1000, 7)[..]) == hit);
                let mut batch = [(key.clone(), MemoryObjMut::zeroed(len)), (key.clone(), MemoryObjMut::zeroed(1000))];
                let answers = store.batched_get_into(&mut batch).await;
                assert_eq!(
                    answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
                    [hit.then_some(1000), Some(1000)]
                );
            }
            assert_eq!(store.get(&key).await.unwrap().as_deref(), Some(&bytes(1000, 7)[..]));
        }
    }
}

#[tokio::test]
async fn keys_that_the_engine_cannot_name_are_refused_in_every_operation() {
    let cases = [
        ("vllm", "m@1@0@1@half", "stores only object keys"),
        ("sglang", "m@1@0@1@half@3", "stores only object keys"),
        ("vllm", "org/m@00000000@0@ff", "vLLM writes `_` in place of `/`"),
        ("sglang", "org/m@00000000@0@ff", "SGLang writes `-` in place of `/`"),
        ("vllm", "m@00000000@0@ff@salt", "hashes include the salt"),
        ("vllm", "m@-0000001@0@ff", "negative rank"),
        ("sglang", "m@00000001@0@ff", "the end of the model's name"),
        ("sglang", "m@00000000@1@ff", "the end of the model's name"),
        ("sglang", "m@00000000@0@ff@new_pool", "read back as `pool_m@00000000@0@ff@new`"),
        ("sglang", "indexer_m@00000000@0@ff@deepseek_v4_c4", "read back as `m@00000000@0@ff@deepseek_v4_c4_indexer`"),
    ];
    for (layout, text, why) in cases {
        let place = Place::new();
        let store = place.open(&format!("?layout={layout}")).await;
        let key: CacheKey = text.parse().unwrap();
        let chunk = MemoryObj::from(vec![1; 9]);
        for answer in [
            store.put(&key, chunk.clone()).await,
            store.get(&key).await.map(drop),
            store.get_into(&key, &mut MemoryObjMut::zeroed(9)).await.map(drop),
            store.exists(&key).await.map(drop),
            store.remove(&key).await.map(drop),
            store.batched_put(&[(key.clone(), chunk.clone())]).await.remove(0),
            store.batched_get(&[key.clone(), key.clone()]).await.remove(1).map(drop),
        ] {
            let e = answer.unwrap_err();
            assert!(e.kind() == ErrorKind::InvalidKey && e.to_string().contains(why), "{text}: {e}");
        }
    }
    for (engine, longest, tail) in [(ENGINES[0], 251, "0000000b@0@ff"), (ENGINES[1], 248, "00000000@0@ff")] {
        let place = Place::new();
        let store = engine.open(&place, "").await;
        for (len, fits) in [(longest, true), (longest + 1, false)] {
            let key: CacheKey = format!("{}@{tail}", "m".repeat(len)).parse().unwrap();
            match store.put(&key, MemoryObj::from(vec![1; 9])).await {
                Ok(()) => assert!(fits && store.exists(&key).await.unwrap()),
                Err(e) => assert!(!fits && e.to_string().contains("256 bytes") && e.to_string().contains("255"), "{e}"),
            }
        }
    }
}

#[tokio::test]
async fn options_that_the_files_cannot_have_are_refused() {
    for layout in ["vllm", "sglang"] {
        let place = Place::new();
        let mut layerwise = LMCacheEngineConfig::default();
        layerwise.use_layerwise = true;
        let two = format!("fs://{},{}?layout={layout}", place.text("a"), place.text("b"));
        for (url, config, why) in [
            (place.url(&format!("?layout={layout}&save_chunk_meta=true")), Default::default(), "have no header"),
            (place.url(&format!("?layout={layout}")), layerwise, "layerwise mode has no object keys"),
            (two, Default::default(), "takes one base path"),
            (place.url("?layout=vlm"), Default::default(), "vllm"),
        ] {
            let e = connectors::builder(&url).config(config).open().await.unwrap_err();
            assert!(e.kind() == ErrorKind::InvalidOption && e.to_string().contains(why), "{url}: {e}");
        }
        place.open(&format!("?layout={layout}&save_chunk_meta=false")).await;
    }
}

/// Files beside the chunks that are none, and must stay.
fn foreign(engine: Engine, place: &Place) -> Vec<&'static str> {
    let names: &[&str] = match engine.layout {
        "vllm" => &[
            "org_m_0123456789ab/config.json",
            "org_m_0123456789ab/000/00_g0/00000000.bin",
            "org_m_0123456789ab_r11/notes.txt",
            "org_m_0123456789ab_r11/000/00000002.bin",
            "org_m_0123456789ab_r11/000/00_g1/ffff0000.bin",
            "org_m_0123456789ab_r11/000/00_g1/0000000A.bin",
            "org_m_0123456789ab_r11/000/00_g01/00000000.bin",
            "org_m_0123456789ab_r011/000/00_g1/00000000.bin",
            "org_m_0123456789ab_r11/0000/0_g1/00000000.bin",
            "00000000_m.bin",
        ],
        _ => &[
            "notes.txt",
            "0000000A_m_0_1.bin",
            "000_m_0_1.bin",
            "m_0_1.bin",
            "00000001_m.bin.data",
            "x/00000001_m.bin",
        ],
    };
    for name in names {
        let path = place.dir().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, [0; 3000]).unwrap();
    }
    names.to_vec()
}

#[tokio::test]
async fn other_files_are_never_listed_counted_or_removed_and_a_scrub_names_them() {
    for engine in ENGINES {
        let place = Place::new();
        let names = foreign(engine, &place);
        let store = engine.open(&place, "&capacity=5000").await;
        for n in 0..20 {
            store.put(&(engine.key)(n), MemoryObj::from(bytes(1000, n))).await.unwrap();
        }
        let left = keys(&store, "").await.len() as u64;
        assert!(left >= 4 && ledger(&place.dir()) == Some(left * 1000), "{left}");
        assert!(names.iter().all(|name| place.dir().join(name).exists()));
        let unfinished = match engine.layout {
            "vllm" => "org_m_0123456789ab_r11/000/00_g1/00000001.bin_123.tmp",
            _ => ".0123456789abcdef0123456789abcdef.tmp",
        };
        let left_behind = ".kvconn-4711-00112233445566ff-7.tmp";
        for name in [unfinished, left_behind] {
            let path = place.dir().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, [0; 9]).unwrap();
        }
        let url = place.url(&format!("?layout={}", engine.layout));
        let options = ScrubOptions { remove: true, min_age: Duration::ZERO };
        let report = scrub(&connectors::builder(&url).build().unwrap(), &options).unwrap();
        assert_eq!((report.chunks, report.chunk_bytes), (left, left * 1000));
        let of = |kind| {
            let found = report.findings.iter().filter(|f| f.kind == kind);
            let mut names: Vec<_> =
                found.map(|f| f.path.strip_prefix(place.dir()).unwrap().to_str().unwrap().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(of(FindingKind::Unfinished), [unfinished]);
        assert_eq!(of(FindingKind::LeftBehind), [left_behind]);
        // A directory that is not of the store is not entered.
        let outside = ["org_m_0123456789ab/", "0000/", "x/"];
        let mut expected: Vec<_> =
            names.into_iter().filter(|name| !outside.iter().any(|dir| name.contains(dir))).collect();
        expected.sort_unstable();
        assert_eq!(of(FindingKind::Foreign), expected);
        assert!(place.dir().join(unfinished).exists() && !place.dir().join(left_behind).exists());
    }
}

#[tokio::test]
async fn no_symlink_leads_to_a_chunk() {
    let engine = ENGINES[0];
    let place = Place::new();
    engine.write(&place, 1, b"in the store");
    let outside = place.path("outside");
    for (level, name) in [
        ("org_m_0123456789ab_r11", "000/00_g1/00000001.bin"),
        ("org_m_0123456789ab_r11/000", "00_g1/00000001.bin"),
        ("org_m_0123456789ab_r11/000/00_g1", "00000001.bin"),
        ("org_m_0123456789ab_r11/000/00_g1/00000001.bin", ""),
    ] {
        let link = place.dir().join(level);
        std::fs::rename(&link, &outside).unwrap();
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        let store = engine.open(&place, "&capacity=1000").await;
        let key = (engine.key)(1);
        assert!(!store.exists(&key).await.unwrap() && store.get(&key).await.unwrap().is_none(), "{level}");
        assert_eq!(store.get_into(&key, &mut MemoryObjMut::zeroed(12)).await.unwrap(), None);
        assert!(!store.remove(&key).await.unwrap() && keys(&store, "").await.is_empty());
        let put = store.put(&key, MemoryObj::from(b"over it".to_vec())).await;
        match name {
            // A put replaces a link under the chunk's own name.
            "" => {
                put.unwrap();
                assert_eq!(std::fs::read(&link).unwrap(), b"over it");
                assert_eq!(std::fs::read(&outside).unwrap(), b"in the store");
                return;
            }
            _ => {
                let e = put.unwrap_err().to_string();
                assert!(e.contains("ot a directory") && e.contains("follows no link"), "{e}");
            }
        }
        assert_eq!(std::fs::read(outside.join(name)).unwrap(), b"in the store");
        let url = place.url("?layout=vllm");
        let report = scrub(&connectors::builder(&url).build().unwrap(), &ScrubOptions::default()).unwrap();
        assert!(report.findings.iter().any(|f| f.path == link && f.kind == FindingKind::Foreign), "{report:?}");
        std::fs::remove_file(&link).unwrap();
        std::fs::rename(&outside, &link).unwrap();
    }
}

#[tokio::test]
async fn a_capacity_holds_over_restarts_handles_and_files_of_the_engine() {
    for engine in ENGINES {
        let place = Place::new();
        for n in 0..10 {
            engine.write(&place, n, &bytes(1000, n));
            backdate(&engine.file(&place, n), 1000 - u64::from(n));
        }
        let all = |store: Connector| async move { keys(&store, "").await.len() };
        let (first, second) =
            (engine.open(&place, "&capacity=8000").await, engine.open(&place, "&capacity=8000").await);
        first.get(&(engine.key)(0)).await.unwrap().unwrap();
        first.close().await.unwrap();
        second.put(&(engine.key)(10), MemoryObj::from(bytes(1000, 10))).await.unwrap();
        assert_eq!(all(second.clone()).await, 7, "a tenth is made free");
        assert!(second.exists(&(engine.key)(0)).await.unwrap(), "a get is a use");
        assert!(!second.exists(&(engine.key)(1)).await.unwrap() && !engine.file(&place, 1).exists());
        let third = engine.open(&place, "&capacity=8000").await;
        for n in 20..60 {
            let store = if n % 2 == 0 { &second } else { &third };
            store.put(&(engine.key)(n), MemoryObj::from(bytes(1000, n))).await.unwrap();
            assert_eq!(ledger(&place.dir()), Some(all(third.clone()).await as u64 * 1000));
            assert!(all(third.clone()).await <= 8);
        }
        // SGLang's `clear` removes the ledger, too.
        std::fs::remove_file(place.dir().join(".kvconn-quota")).unwrap();
        third.put(&(engine.key)(60), MemoryObj::from(bytes(1000, 60))).await.unwrap();
        assert_eq!(ledger(&place.dir()), Some(all(third).await as u64 * 1000));
    }
}

#[tokio::test]
async fn chunks_go_to_the_layout_of_lmcache_and_back() {
    for engine in ENGINES {
        let (place, other, back) = (Place::new(), Place::new(), Place::new());
        for n in 0..5 {
            engine.write(&place, n, &bytes(500, n));
        }
        let (from, between, to) = (engine.open(&place, "").await, other.open("").await, engine.open(&back, "").await);
        for (source, target) in [(&from, &between), (&between, &to)] {
            for text in keys(source, "").await {
                let key: CacheKey = text.parse().unwrap();
                target.put(&key, source.get(&key).await.unwrap().unwrap()).await.unwrap();
            }
        }
        for n in 0..5 {
            assert!(std::fs::read(engine.file(&back, n)).unwrap() == bytes(500, n));
        }
    }
}

#[tokio::test]
async fn a_directory_that_goes_away_is_made_again_by_the_next_put_and_a_base_path_is_not() {
    let engine = ENGINES[0];
    let place = Place::new();
    let store = engine.open(&place, "").await;
    let chunk = || MemoryObj::from(bytes(10, 1));
    store.put(&(engine.key)(1), chunk()).await.unwrap();
    std::fs::remove_dir_all(place.dir().join("org_m_0123456789ab_r11")).unwrap();
    assert_eq!(store.get(&(engine.key)(1)).await.unwrap(), None);
    assert!(keys(&store, "").await.is_empty());
    store.put(&(engine.key)(1), chunk()).await.unwrap();
    assert_eq!(store.get(&(engine.key)(1)).await.unwrap(), Some(chunk()));
    std::fs::remove_dir_all(place.dir()).unwrap();
    assert!(store.put(&(engine.key)(1), chunk()).await.is_err() && !Path::new(&place.dir()).exists());
    // An engine key's own refusal does not depend on the disk.
    assert_eq!(store.exists(&key(1)).await.unwrap_err().kind(), ErrorKind::InvalidKey);
}
