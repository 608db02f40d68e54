//! The server dies, stops, is full, forgets, and has values that are not chunks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use connectors::{Error, ErrorKind, MemoryObjMut};
use futures::StreamExt;
use kvconn_redis_server::{RedisServer, Reply};
use tokio::task::JoinSet;

use crate::store::{Kind, Store, is_lost, key, until};

const MIB: usize = 1 << 20;

pub(crate) async fn a_server_that_is_killed_under_load_is_an_error_until_it_is_back(kind: Kind) {
    let mut server = RedisServer::start(&[]);
    let store = Arc::new(Store::open(&server.url(kind.scheme)).await);
    for n in 0..16 {
        store.put(n, 1, 4 * MIB).await.unwrap();
    }
    let running = Arc::new(AtomicUsize::new(0));
    let mut calls = JoinSet::new();
    for task in 0..8 {
        let (store, running) = (store.clone(), running.clone());
        calls.spawn(async move {
            // Half of the tasks read, half write, until the server is gone.
            for n in (0..16).cycle() {
                let answer = if task % 2 == 0 {
                    store.get(n).await.map(|found| assert_eq!(found, Some(1)))
                } else {
                    store.put(100 + n, n, 4 * MIB).await
                };
                running.fetch_add(1, Ordering::SeqCst);
                answer?;
            }
            Ok::<_, Error>(())
        });
    }
    until("the load runs", async || running.load(Ordering::SeqCst) >= 24).await;
    server.kill9();
    while let Some(ended) = calls.join_next().await {
        is_lost(ended.expect("no call panics"));
    }
    is_lost(store.get(1).await);
    is_lost(store.connector.ping().await);
    is_lost(store.put(1, 1, MIB).await);
    for answer in store.batched_get(&[1, 2, 3]).await {
        is_lost(answer);
    }
    server.restart();
    store.is_back().await;
    assert_eq!(store.get(1).await.unwrap(), None, "the server saves nothing");
    store.is_right().await;
    store.leaks_nothing().await;
}

pub(crate) async fn a_server_that_restarted_between_calls_is_not_noticed(kind: Kind) {
    let mut server = RedisServer::start(&[]);
    let store = Store::open(&server.url(kind.scheme)).await;
    let numbers: Vec<u64> = (0..32).collect();
    for round in 0..3 {
        for answer in store.batched_get(&numbers).await {
            assert_eq!(answer.unwrap(), None, "round {round}");
        }
        store.put(1, 1, MIB).await.unwrap();
        server.restart();
        match round {
            0 => assert_eq!(store.get(1).await.unwrap(), None),
            1 => assert!(!store.connector.exists(&key(1)).await.unwrap()),
            _ => store.put(2, 2, MIB).await.unwrap(),
        }
    }
    store.is_right().await;
    store.leaks_nothing().await;
}

pub(crate) async fn a_stopped_server_is_a_timeout_until_it_continues(kind: Kind) {
    let server = RedisServer::start(&[]);
    let store = Store::open(&format!("{}?io_timeout_ms=1000&connect_timeout_ms=1000", server.url(kind.scheme))).await;
    store.put(1, 1, 4 * MIB).await.unwrap();
    server.stop_signal();
    is_lost(store.get(1).await);
    // Longer than the kernel's buffers for a server that does not read.
    is_lost(store.put(2, 1, 64 * MIB).await);
    is_lost(store.connector.exists(&key(1)).await);
    is_lost(store.connector.remove(&key(3)).await);
    is_lost(store.connector.ping().await);
    is_lost(store.connector.list("").next().await.expect("a listing that fails says so"));
    for answer in store.batched_get(&[1, 2, 3]).await {
        is_lost(answer);
    }
    server.cont();
    store.is_back().await;
    assert_eq!(store.get(1).await.unwrap(), Some(1));
    assert!(store.get(2).await.unwrap().is_none(), "half a request stores nothing");
    store.is_right().await;
    store.leaks_nothing().await;
}

pub(crate) async fn a_value_over_the_limit_is_an_error_and_the_next_call_is_right(kind: Kind) {
    let server = RedisServer::start(&[]);
    let writer = Store::open(&server.url(kind.scheme)).await;
    writer.put(1, 1, 3 * MIB).await.unwrap();
    writer.put(2, 1, MIB / 2).await.unwrap();
    let store = Store::open(&format!("{}?max_value_bytes={MIB}", server.url(kind.scheme))).await;
    for _ in 0..3 {
        let e = store.get(1).await.expect_err("the value is over the limit");
        assert!(!matches!(e.kind(), ErrorKind::Timeout | ErrorKind::Other), "{e:?}");
        assert_eq!(store.get(2).await.unwrap(), Some(1));
    }
    let answers = store.batched_get(&[2, 1, 2, 2]).await;
    assert!(answers[1].is_err() && [0, 2, 3].iter().all(|&i| matches!(answers[i], Ok(Some(1)))), "{answers:?}");
    store.put(3, 1, 2 * MIB).await.expect_err("a get could not give it back");
    let mut small = MemoryObjMut::zeroed(1000);
    let e = store.connector.get_into(&key(2), &mut small).await.expect_err("the chunk does not fit");
    assert_eq!(e.kind(), ErrorKind::SizeMismatch);
    store.leaks_nothing().await;
}

pub(crate) async fn a_value_of_another_type_is_an_error_and_the_next_call_is_right(kind: Kind) {
    let server = RedisServer::start(&[]);
    let store = Store::open(&server.url(kind.scheme)).await;
    store.put(1, 1, 1000).await.unwrap();
    store.put(2, 1, 1000).await.unwrap();
    let value = (kind.value_key)(&key(1));
    server.cli(&["DEL", &value]);
    server.cli(&["RPUSH", &value, "not", "a chunk"]);
    let e = store.get(1).await.expect_err("a list is not a chunk");
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    let answers = store.batched_get(&[2, 1, 2]).await;
    assert!(answers[1].is_err() && [0, 2].iter().all(|&i| matches!(answers[i], Ok(Some(1)))), "{answers:?}");
    store.put(1, 2, 1000).await.unwrap();
    assert_eq!(store.get(1).await.unwrap(), Some(2));
    store.is_right().await;
    store.leaks_nothing().await;
}

pub(crate) async fn a_full_server_is_store_full_and_still_answers(kind: Kind) {
    let server = RedisServer::start(&["--maxmemory", "24mb", "--maxmemory-policy", "noeviction"]);
    let store = Store::open(&server.url(kind.scheme)).await;
    let mut stored = 0;
    let e = loop {
        match store.put(stored, 1, MIB).await {
            Ok(()) => stored += 1,
            Err(e) => break e,
        }
    };
    assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::StoreFull, true), "{e}");
    assert!(e.hint().is_some(), "the error has a hint: {e:?}");
    assert!((8..=24).contains(&stored), "{stored} MiB were stored");
    for n in 0..stored {
        assert_eq!(store.get(n).await.unwrap(), Some(1));
    }
    assert_eq!(store.get(stored).await.unwrap(), None, "a failed put leaves nothing");
    for n in 0..stored {
        assert!(store.connector.remove(&key(n)).await.unwrap());
    }
    store.is_right().await;
    store.leaks_nothing().await;
}

pub(crate) async fn eviction_under_writers_never_tears_a_chunk(kind: Kind) {
    const READS: usize = 100_000;
    const KEYS: u64 = 2000;
    const BATCH: usize = 25;
    // Room for about a half of the chunks.
    let server = RedisServer::start(&["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]);
    let store = Arc::new(Store::open(&server.url(kind.scheme)).await);
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..3 {
        let (store, done) = (store.clone(), done.clone());
        writers.spawn(async move {
            let mut random = fastrand::Rng::with_seed(writer);
            let mut written = 0;
            while !done.load(Ordering::SeqCst) {
                let n = random.u64(..KEYS);
                // Different lengths reveal a reader that mixes two versions.
                store.put(n, random.u64(..), random.usize(20_000..80_000)).await.unwrap_or_else(|e| panic!("{e:?}"));
                written += 1;
            }
            written
        });
    }
    let evicted = async || evicted(&server);
    until("the server evicts", async || evicted().await > 0).await;
    let mut readers = JoinSet::new();
    for reader in 0..4 {
        let store = store.clone();
        readers.spawn(async move {
            let mut random = fastrand::Rng::with_seed(100 + reader);
            let (mut hits, mut misses) = (0, 0);
            while hits + misses < READS / 4 {
                let numbers: Vec<_> = std::iter::repeat_with(|| random.u64(..KEYS)).take(BATCH).collect();
                // `batched_get` checks the bytes of each chunk.
                for answer in store.batched_get(&numbers).await {
                    match answer.unwrap_or_else(|e| panic!("{e:?}")) {
                        Some(_) => hits += 1,
                        None => misses += 1,
                    }
                }
                // A single get is another code path.
                match store.get(numbers[0]).await.unwrap_or_else(|e| panic!("{e:?}")) {
                    Some(_) => hits += 1,
                    None => misses += 1,
                }
            }
            (hits, misses)
        });
    }
    let (mut hits, mut misses) = (0, 0);
    while let Some(read) = readers.join_next().await {
        let read: (usize, usize) = read.expect("every chunk is whole");
        (hits, misses) = (hits + read.0, misses + read.1);
    }
    done.store(true, Ordering::SeqCst);
    while let Some(written) = writers.join_next().await {
        assert!(written.expect("every put works") > 0_u32);
    }
    assert!(hits + misses >= READS && hits > READS / 10 && misses > READS / 10, "{hits} hits, {misses} misses");
    store.leaks_nothing().await;
}

fn evicted(server: &RedisServer) -> u64 {
    let Reply::Bulk(Some(info)) = server.cli(&["INFO", "stats"]) else { panic!("INFO is text") };
    let info = String::from_utf8_lossy(&info).into_owned();
    let line = info.lines().find_map(|line| line.strip_prefix("evicted_keys:"));
    line.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("INFO counts evictions: {info}"))
}
