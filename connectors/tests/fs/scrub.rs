//! The findings of a scrub, and the files that it removes.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use connectors::fs::{FindingKind, ScrubOptions, ScrubReport, scrub};
use connectors::{ErrorKind, LMCacheEngineConfig, MemoryObj};

use super::{Place, bytes, file_name, files, key, kv, object_key};

const OURS: &str = ".kvconn-4711-00112233445566ff-7.tmp";

fn scrub_now(url: &str, remove: bool) -> connectors::Result<ScrubReport> {
    scrub(&connectors::builder(url).build()?, &ScrubOptions { remove, min_age: Duration::ZERO })
}

fn kinds(report: &ScrubReport) -> Vec<(FindingKind, String, u64)> {
    let name = |path: &std::path::Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut all: Vec<_> = report.findings.iter().map(|f| (f.kind, name(&f.path), f.bytes)).collect();
    all.sort_by(|a, b| a.1.cmp(&b.1));
    all
}

#[tokio::test]
async fn a_scrub_names_torn_unfinished_and_foreign_files_and_removes_none_of_them() {
    let place = Place::new();
    let store = place.open("?relative_tmp_dir=tmp&capacity=1000000").await;
    for n in 0..3 {
        store.put(&key(n), kv(5, n)).await.unwrap();
    }
    store.put(&object_key(1), MemoryObj::from(vec![1; 7])).await.unwrap();
    let whole = std::fs::read(place.dir().join(file_name(0))).unwrap();
    std::fs::write(place.dir().join(file_name(0)), &whole[..whole.len() - 1]).unwrap();
    std::fs::write(place.dir().join(file_name(1)), []).unwrap();
    std::fs::write(place.dir().join("m@1@0@5@half.tmp"), [0; 5]).unwrap();
    std::fs::write(place.dir().join("tmp/m@1@0@6@half.data"), [0; 6]).unwrap();
    std::fs::write(place.dir().join("tmp/readme"), [0; 2]).unwrap();
    std::fs::write(place.dir().join("notes.txt"), [0; 3]).unwrap();
    std::fs::create_dir(place.dir().join("m@1@0@9@half.data")).unwrap();
    std::fs::create_dir(place.dir().join("other")).unwrap();
    let directory = place.dir().join("m@1@0@9@half.data").metadata().unwrap().len();
    let all = [
        (FindingKind::Torn, file_name(0), whole.len() as u64 - 1),
        (FindingKind::Torn, file_name(1), 0),
        (FindingKind::Unfinished, "m@1@0@5@half.tmp".into(), 5),
        (FindingKind::Unfinished, "m@1@0@6@half.data".into(), 6),
        (FindingKind::Foreign, "m@1@0@9@half.data".into(), directory),
        (FindingKind::Foreign, "notes.txt".into(), 3),
        (FindingKind::Foreign, "readme".into(), 2),
    ];
    let before = files(&place.dir());
    for remove in [false, true] {
        let report = scrub_now(&place.url("?relative_tmp_dir=tmp"), remove).unwrap();
        assert_eq!(kinds(&report), all);
        assert_eq!((report.chunks, report.being_written, report.directories), (2, 0, 1));
        assert_eq!(files(&place.dir()), before);
    }
    let torn = scrub_now(&place.url("?relative_tmp_dir=tmp"), false).unwrap();
    assert!(torn.findings.iter().any(|f| f.reason.contains("its header describes a chunk of 480 bytes")), "{torn:?}");
}

#[tokio::test]
async fn neither_a_scrub_nor_exists_is_a_use() {
    let place = Place::new();
    let store = place.open("?capacity=10000").await;
    let path = place.dir().join(file_name(1));
    store.put(&key(1), kv(5, 1)).await.unwrap();
    super::quota::backdate(&path, 1000);
    let used = || path.metadata().unwrap().accessed().unwrap();
    let before = used();
    scrub_now(&place.url("?capacity=10000"), false).unwrap();
    assert!(store.exists(&key(1)).await.unwrap());
    assert_eq!(store.batched_contains(&[key(1)]).await.unwrap(), 1);
    assert_eq!(used(), before);
}

#[tokio::test]
async fn only_a_dead_writers_file_is_removed_and_only_with_remove() {
    let place = Place::new();
    place.open("").await.put(&key(1), kv(5, 1)).await.unwrap();
    let path = place.dir().join(OURS);
    std::fs::write(&path, [0; 100]).unwrap();
    let live = File::open(&path).unwrap();
    live.lock().unwrap();
    let report = scrub_now(&place.url(""), true).unwrap();
    assert_eq!((report.being_written, report.findings.len(), path.exists()), (1, 0, true), "its writer holds the lock");
    drop(live);
    let recent = ScrubOptions { remove: true, ..ScrubOptions::default() };
    let report = scrub(&connectors::builder(&place.url("")).build().unwrap(), &recent).unwrap();
    assert_eq!((report.being_written, path.exists()), (1, true), "it was changed just now");
    let report = scrub_now(&place.url(""), false).unwrap();
    assert_eq!(kinds(&report), [(FindingKind::LeftBehind, OURS.into(), 100)]);
    assert!(path.exists());
    let report = scrub_now(&place.url(""), true).unwrap();
    assert!(report.findings[0].removed && report.left().count() == 0 && !path.exists());
}

#[tokio::test]
async fn writers_and_scrubs_do_not_disturb_each_other() {
    let place = Place::new();
    let url = place.url("");
    let store = connectors::open(&url).await.unwrap();
    store.put(&key(0), kv(1, 1)).await.unwrap();
    let ended = std::sync::Arc::new(AtomicBool::new(false));
    let scrubbing = tokio::task::spawn_blocking({
        let ended = ended.clone();
        let handle = tokio::runtime::Handle::current();
        move || {
            let _inside = handle.enter();
            let mut rounds = 0;
            while !ended.load(Ordering::Acquire) {
                let report = scrub_now(&url, true).unwrap();
                assert!(report.findings.iter().all(|f| f.kind == FindingKind::LeftBehind), "{report:?}");
                rounds += 1;
            }
            rounds
        }
    });
    for n in 0..2000 {
        store.put(&key(n % 10), MemoryObj::from(bytes(300, n))).await.unwrap();
    }
    ended.store(true, Ordering::Release);
    assert!(scrubbing.await.unwrap() > 0);
    for n in 0..10 {
        assert_eq!(store.get(&key(n)).await.unwrap().as_deref(), Some(&bytes(300, 1990 + n)[..]));
    }
}

#[tokio::test]
async fn a_scrub_reads_files_as_the_store_of_that_url_does() {
    let place = Place::new();
    let raw = place.open("?save_chunk_meta=false").await;
    raw.put(&key(1), MemoryObj::from(vec![3; 50])).await.unwrap();
    assert_eq!(scrub_now(&place.url("?save_chunk_meta=false"), false).unwrap().chunks, 1);
    let report = scrub_now(&place.url(""), false).unwrap();
    assert!(report.findings[0].reason.contains("save_chunk_meta=false"), "{report:?}");
    let config = LMCacheEngineConfig::default().with_extra_config("save_chunk_meta", false);
    let store = connectors::builder(&place.url("")).config(config).build().unwrap();
    assert_eq!(scrub(&store, &ScrubOptions::default()).unwrap().chunks, 1);
    let config = LMCacheEngineConfig::default()
        .with_extra_config("remote_storage_plugin.fs.a.base_path", place.dir().to_str().unwrap())
        .with_extra_config("remote_storage_plugin.fs.a.save_chunk_meta", false);
    let store = connectors::builder("plugin://fs.a").config(config).build().unwrap();
    assert_eq!(scrub(&store, &ScrubOptions::default()).unwrap().chunks, 1);

    // A get does not find a file in the base path of another hash.
    let two = format!("fs://{},{}", place.dir().display(), place.path("b").display());
    std::fs::create_dir(place.path("b")).unwrap();
    let report = scrub_now(&format!("{two}?save_chunk_meta=false"), false).unwrap();
    assert!(report.findings[0].reason.contains("another base path"), "{report:?}");
    assert_eq!(scrub_now("memory://x", false).unwrap_err().kind(), ErrorKind::InvalidUrl);
}
