//! `namespace`: a directory in each base path.

use connectors::fs::{ScrubOptions, scrub};
use connectors::{Connector, ErrorKind, MemoryObj};

use super::{Place, bytes, chunk_bytes, file_name, files, key, keys, kv};

async fn open(place: &Place, namespace: &str, options: &str) -> Connector {
    place.open(&format!("?namespace={namespace}{options}")).await
}

#[tokio::test]
async fn handles_of_different_namespaces_never_meet() {
    for options in ["", "&capacity=100000", "&relative_tmp_dir=tmp&fsync=full", "&save_chunk_meta=false"] {
        let place = Place::new();
        let (a, b) = (open(&place, "a", options).await, open(&place, "b", options).await);
        let plain = place.open(&options.replacen('&', "?", 1)).await;
        assert_eq!((a.get(&key(1)).await.unwrap(), keys(&a, "").await.len()), (None, 0));
        assert!(!place.dir().exists(), "reads make no directory");
        for (store, seed) in [(&a, 1), (&b, 2), (&plain, 3)] {
            assert!(!store.exists(&key(1)).await.unwrap());
            store.put(&key(1), MemoryObj::from(bytes(500, seed))).await.unwrap();
        }
        for (store, seed) in [(&a, 1), (&b, 2), (&plain, 3)] {
            assert_eq!(store.get(&key(1)).await.unwrap().as_deref(), Some(&bytes(500, seed)[..]), "{options}");
            assert_eq!(keys(store, "").await, [key(1).as_str()]);
            store.ping().await.unwrap();
        }
        assert!(a.remove(&key(1)).await.unwrap() && !a.remove(&key(1)).await.unwrap());
        assert!(b.exists(&key(1)).await.unwrap() && plain.exists(&key(1)).await.unwrap());
        let found = files(&place.dir());
        let chunks = |names: &[String]| names.iter().filter(|name| name.ends_with(".data")).count();
        assert!(found.contains(&"a".to_owned()) && found.contains(&"b".to_owned()) && chunks(&found) == 1, "{found:?}");
        let counts = [("a", 0), ("b", 1)].map(|(dir, count)| chunks(&files(&place.dir().join(dir))) == count);
        assert_eq!(counts, [true, true]);
    }
}

#[tokio::test]
async fn a_quota_and_a_scrub_stay_inside_their_namespace() {
    let place = Place::new();
    let (a, b) = (open(&place, "a", "&capacity=5000").await, open(&place, "b", "&capacity=3000").await);
    let plain = place.open("?capacity=2000").await;
    for n in 0..20 {
        for store in [&a, &b, &plain] {
            store.put(&key(n), MemoryObj::from(bytes(472, n))).await.unwrap();
        }
    }
    let counts = [keys(&a, "").await.len(), keys(&b, "").await.len(), keys(&plain, "").await.len()];
    assert!(counts[0] > counts[1] && counts[1] > counts[2] && counts[2] > 0, "{counts:?}");
    for (dir, capacity) in [(place.dir(), 2000), (place.dir().join("a"), 5000), (place.dir().join("b"), 3000)] {
        assert!(dir.join(".kvconn-quota").exists() && chunk_bytes(&dir) <= capacity);
    }
    std::fs::write(place.dir().join("a/notes.txt"), "x").unwrap();
    for (options, findings, chunks) in
        [("?namespace=a", 1, counts[0]), ("?namespace=b", 0, counts[1]), ("", 0, counts[2])]
    {
        let store = connectors::builder(&place.url(options)).build().unwrap();
        let report = scrub(&store, &ScrubOptions::default()).unwrap();
        assert_eq!((report.findings.len(), report.chunks), (findings, chunks as u64), "{options}: {report:?}");
    }
}

#[tokio::test]
async fn several_base_paths_and_extra_config_take_a_namespace() {
    let place = Place::new();
    let url = format!("fs://{},{}", place.text("a"), place.text("b"));
    let config = connectors::LMCacheEngineConfig::default().with_extra_config("fs_connector_namespace", "team-a.v2");
    let store = connectors::builder(&url).config(config).open().await.unwrap();
    for n in 0..4 {
        store.put(&key(n), kv(1, n)).await.unwrap();
    }
    for dir in ["a", "b"] {
        assert_eq!(
            (files(&place.path(dir)), files(&place.path(dir).join("team-a.v2")).len()),
            (vec!["team-a.v2".to_owned()], 2)
        );
    }
    for wrong in ["", "..", "a%2Fb", ".x"] {
        let e = connectors::open(&place.url(&format!("?namespace={wrong}"))).await.unwrap_err();
        assert!(e.kind() == ErrorKind::InvalidOption && e.to_string().contains("namespace"), "{wrong}: {e}");
    }
}

#[tokio::test]
async fn a_namespace_that_is_a_symlink_leads_nowhere() {
    let place = Place::new();
    let outside = place.path("outside");
    std::fs::create_dir(&outside).unwrap();
    let store = open(&place, "a", "").await;
    store.put(&key(1), kv(1, 1)).await.unwrap();
    std::fs::rename(place.dir().join("a"), place.dir().join("moved")).unwrap();
    std::fs::copy(place.dir().join("moved").join(file_name(1)), outside.join(file_name(1))).unwrap();
    std::os::unix::fs::symlink(&outside, place.dir().join("a")).unwrap();
    // For a handle that is open, and for a new one.
    assert!(store.get(&key(1)).await.is_err() && store.exists(&key(1)).await.is_err());
    assert!(store.put(&key(2), kv(1, 1)).await.is_err() && store.remove(&key(1)).await.is_err());
    let e = connectors::open(&place.url("?namespace=a")).await.unwrap_err();
    assert!(e.to_string().contains(&place.dir().join("a").display().to_string()), "{e}");
    assert_eq!(files(&outside), [file_name(1)]);
}
