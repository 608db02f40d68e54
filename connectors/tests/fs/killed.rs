//! Writers that are killed at random times.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use connectors::LocalCpuBackend;
use connectors::fs::{FindingKind, ScrubOptions, scrub};

use super::child::{self, KEYS};
use super::{Place, Random, chunk_bytes, files, quota};

/// Starts `times` writers, one after the other. Kills every second one within ten milliseconds after it is ready, and the others
/// within ten milliseconds after their first chunk. Gives the last version of each key that a writer reported.
fn kill_writers(url: &str, times: u64, mut after_each: impl FnMut()) -> BTreeMap<u32, u64> {
    let mut random = Random::new(std::process::id().into());
    let mut put = BTreeMap::new();
    for run in 0..times {
        // Each starts with another key.
        let first_version = run * 1_000_007;
        let mut writer = child::command("put_until_killed", url, first_version).spawn().unwrap();
        let mut lines = child::lines(&mut writer);
        let first = if run % 2 == 1 { lines.find(|line| line.starts_with("put ")) } else { None };
        std::thread::sleep(Duration::from_micros(random.below(10_000)));
        writer.kill().unwrap();
        for line in first.into_iter().chain(lines) {
            let words: Vec<&str> = line.split(' ').collect();
            let ["put", of, version] = words[..] else { continue };
            put.insert(of.parse().unwrap(), version.parse().unwrap());
        }
        writer.wait().unwrap();
        after_each();
    }
    put
}

async fn scrub_all(url: &str, remove: bool) -> connectors::fs::ScrubReport {
    let store = connectors::builder(url).local_cpu_backend(LocalCpuBackend::with_capacity(0)).build().unwrap();
    scrub(&store, &ScrubOptions { remove, min_age: Duration::ZERO }).unwrap()
}

/// Kills writers and checks the store. Gives the number of temporary files that they left.
async fn kill_and_look(options: &str, times: u64) -> usize {
    let place = Place::new();
    let store = place.open(options).await;
    for of in 0..KEYS {
        store.put(&child::key(&store, of), child::chunk(of, 0)).await.unwrap();
    }
    let put = kill_writers(&place.url(options), times, || {});
    assert!(!put.is_empty(), "every writer was killed before it wrote");
    for of in 0..KEYS {
        let found = store.get(&child::key(&store, of)).await.unwrap().expect("the chunk was put");
        let (found, put) = (child::version(of, &found), put.get(&of).copied().unwrap_or(0));
        assert!(found >= put, "key {of}: {put} was put, {found} is there");
    }
    let left = files(&place.dir()).iter().filter(|name| name.starts_with(".kvconn-")).count();
    let seen = scrub_all(&place.url(options), false).await;
    assert!(seen.findings.iter().all(|f| f.kind == FindingKind::LeftBehind && !f.removed), "{seen:?}");
    assert_eq!((seen.chunks, seen.being_written, seen.findings.len()), (KEYS.into(), 0, left));
    assert_eq!(scrub_all(&place.url(options), true).await.left().count(), 0);
    assert!(files(&place.dir()).iter().all(|name| !name.starts_with('.')), "only chunks are left");
    assert_eq!(scrub_all(&place.url(options), true).await.findings, []);
    left
}

#[tokio::test]
async fn chunks_of_200_killed_writers_are_whole_and_scrub_finds_what_they_left_behind() {
    let left = kill_and_look("", 200).await;
    assert!(left > 0, "no writer was killed while it wrote");
}

#[tokio::test]
async fn chunks_of_killed_writers_are_whole_with_o_direct() {
    kill_and_look("?save_chunk_meta=false&use_odirect=true", 60).await;
}

#[tokio::test]
async fn chunks_of_killed_writers_are_whole_in_the_files_of_other_engines() {
    kill_and_look("?layout=vllm", 40).await;
    kill_and_look("?layout=sglang", 40).await;
}

#[tokio::test]
async fn killed_writers_leave_a_quota_that_holds() {
    for options in ["?capacity=300000", "?capacity=300000&layout=vllm", "?capacity=300000&layout=sglang"] {
        kill_and_sum(options).await;
    }
}

async fn kill_and_sum(options: &str) {
    let place = Place::new();
    let mut sums = Vec::new();
    kill_writers(&place.url(options), 40, || sums.push(chunk_bytes(&place.dir())));
    assert!(sums.iter().all(|sum| *sum <= 300_000) && sums.iter().any(|sum| *sum > 200_000), "{sums:?}");

    let store = place.open(options).await;
    store.put(&child::key(&store, 1), child::chunk(1, 1)).await.unwrap();
    // The put's upkeep may still remove chunks, and then writes the sum.
    let deadline = Instant::now() + Duration::from_secs(60);
    while quota::ledger(&place.dir()) != Some(chunk_bytes(&place.dir())) {
        assert!(Instant::now() < deadline, "{:?} {}", quota::ledger(&place.dir()), chunk_bytes(&place.dir()));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for of in 0..KEYS {
        if let Some(found) = store.get(&child::key(&store, of)).await.unwrap() {
            child::version(of, &found);
        }
    }
    scrub_all(&place.url(options), true).await;
    assert!(files(&place.dir()).iter().all(|name| !name.starts_with('.') || name == ".kvconn-quota"));
}
