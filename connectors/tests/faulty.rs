//! `faulty://`: errors and misses at the given rates, the same in every run, and none that change the store behind.

use std::time::Duration;

use connectors::{CacheKey, Connector, ErrorKind, MemoryObj, MemoryObjMut, Result};
use futures::TryStreamExt;

fn key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().unwrap()
}

fn keys(n: u32) -> Vec<CacheKey> {
    (0..n).map(key).collect()
}

/// Chunks in the store behind, and the store with faults in front of it.
async fn stores(name: &str, chunks: u32, options: &str) -> (Connector, Connector) {
    let behind = connectors::open(&format!("memory://{name}")).await.unwrap();
    for n in 0..chunks {
        behind.put(&key(n), MemoryObj::from(n.to_le_bytes().to_vec())).await.unwrap();
    }
    (behind, connectors::open(&format!("faulty://?back=memory://{name}&{options}")).await.unwrap())
}

fn failed<T>(answers: &[Result<T>]) -> Vec<bool> {
    answers.iter().map(Result::is_err).collect()
}

#[tokio::test]
async fn errors_and_misses_have_their_rates_and_their_kind() {
    let (_behind, faulty) = stores("rates", 2000, "error_rate=0.1&miss_rate=0.3&error=store_full").await;
    let answers = faulty.batched_get(&keys(2000)).await;
    let errors: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(errors.iter().all(|e| e.kind() == ErrorKind::StoreFull && !e.is_temporary()), "{errors:?}");
    let misses = answers.iter().filter(|answer| matches!(answer, Ok(None))).count();
    assert!((120..280).contains(&errors.len()) && (400..680).contains(&misses), "{} {misses}", errors.len());
    for (n, answer) in (0_u32..).zip(&answers) {
        if let Ok(Some(chunk)) = answer {
            assert_eq!(**chunk, n.to_le_bytes());
        }
    }
}

#[tokio::test]
async fn the_faults_of_a_key_are_the_same_in_every_run_and_order() {
    let options = "error_rate=0.5&seed=7";
    let (_behind, first) = stores("order", 64, options).await;
    let rounds = [first.batched_get(&keys(64)).await, first.batched_get(&keys(64)).await];
    let rounds = rounds.map(|answers| failed(&answers));
    assert_ne!(rounds[0], rounds[1], "a second call is another draw");

    let (_, second) = stores("order", 0, options).await;
    for n in (0..64).rev() {
        for round in &rounds {
            assert_eq!(second.get(&key(n)).await.is_err(), round[n as usize], "key {n}");
        }
    }
    let (_, other) = stores("order", 0, "error_rate=0.5&seed=8").await;
    assert_ne!(failed(&other.batched_get(&keys(64)).await), rounds[0], "another seed");
}

#[tokio::test]
async fn a_put_that_fails_leaves_the_old_chunk() {
    let (behind, faulty) = stores("put", 200, "error_rate=0.5&operations=put").await;
    let items: Vec<_> = (0..200).map(|n| (key(n), MemoryObj::from(vec![9; 3]))).collect();
    let failed = failed(&faulty.batched_put(&items).await);
    assert!((50..150).contains(&failed.iter().filter(|failed| **failed).count()));
    for (n, failed) in (0_u32..).zip(failed) {
        let stored = behind.get(&key(n)).await.unwrap().unwrap();
        assert_eq!(stored.len(), if failed { 4 } else { 3 }, "key {n}");
        assert!(faulty.exists(&key(n)).await.unwrap(), "only puts fail");
    }
}

#[tokio::test]
async fn a_batch_of_reads_into_memory_fails_key_by_key() {
    let (_behind, faulty) = stores("into", 300, "error_rate=0.2&miss_rate=0.2").await;
    let mut requests: Vec<_> = (0..300).map(|n| (key(n), MemoryObjMut::zeroed(4))).collect();
    let answers = faulty.batched_get_into(&mut requests).await;
    let mut counts = [0; 3];
    for (n, (answer, (_, memory))) in (0_u32..).zip(answers.iter().zip(&requests)) {
        let (place, bytes) = match answer {
            Ok(Some(4)) => (0, n.to_le_bytes()),
            Ok(None) => (1, [0; 4]),
            Err(e) if e.is_temporary() => (2, [0; 4]),
            other => panic!("key {n}: {other:?}"),
        };
        counts[place] += 1;
        assert_eq!(**memory, bytes, "key {n}");
    }
    assert!(counts.iter().all(|count| *count > 20) && counts.iter().sum::<i32>() == 300, "{counts:?}");
}

#[tokio::test]
async fn a_run_ends_at_its_first_fault() {
    let (_behind, faulty) = stores("run", 400, "miss_rate=0.02&operations=get,exists").await;
    let run = faulty.batched_contains(&keys(400)).await.unwrap();
    assert!((1..400).contains(&run), "{run}");
    let chunks = faulty.get_prefix(&keys(400)).await.unwrap();
    assert!((1..400).contains(&chunks.len()), "{}", chunks.len());

    let (_behind, broken) = stores("run", 0, "error_rate=1").await;
    assert_eq!(broken.batched_contains(&keys(2)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(broken.get_prefix(&keys(2)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(broken.list("").try_collect::<Vec<_>>().await.is_err() && broken.ping().await.is_err());
    broken.close().await.unwrap();
}

#[tokio::test]
async fn a_retry_in_front_of_the_faults_ends_them() {
    let (_behind, faulty) = stores("retry", 100, "error_rate=0.3&retries=20&retry_max_delay_ms=1").await;
    assert!(faulty.batched_get(&keys(100)).await.iter().all(|answer| matches!(answer, Ok(Some(_)))));
}

#[tokio::test(start_paused = true)]
async fn a_batch_waits_once() {
    let (_behind, faulty) = stores("latency", 10, "latency_ms=250").await;
    let start = tokio::time::Instant::now();
    faulty.batched_get(&keys(10)).await;
    faulty.get(&key(1)).await.unwrap();
    let took = start.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_millis(510)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_wrong_option_is_refused() {
    for (url, why) in [
        ("faulty://", "does not name the store behind"),
        ("faulty://?back=memory://x&error_rate=1.5", "option `error_rate`: `1.5` is not a share from 0 to 1"),
        ("faulty://?back=memory://x&miss_rate=NaN", "option `miss_rate`"),
        ("faulty://?back=memory://x&latency_ms=-1", "option `latency_ms`: `-1` is not a number of milliseconds"),
        ("faulty://?back=memory://x&operations=get,gets", "option `operations`: name 2 is not an operation"),
        ("faulty://?back=memory://x&error=closed", "store_full"),
        ("faulty://?back=nothing", "option `back`"),
        ("faulty://h:1?back=memory://x", "faulty"),
    ] {
        let e = connectors::open(url).await.unwrap_err().to_string();
        assert!(e.contains(why), "{url}: {e}");
    }
}
