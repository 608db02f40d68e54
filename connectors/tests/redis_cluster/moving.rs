//! Slots move from node to node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use connectors::CacheKey;
use kvconn_redis_server::RedisCluster;
use tokio::task::JoinSet;

use crate::checked::{chunk, key, version};
use crate::store::{Kind, Store, all_errors, errors};

/// Keys of one slot.
fn tagged(n: u64) -> CacheKey {
    format!("{{tag}}@1@0@{n:x}@bfloat16").parse().expect("a key")
}

pub(crate) async fn chunks_of_a_slot_that_moves_are_found_on_both_sides(kind: Kind) {
    let cluster = RedisCluster::start(3, 0, &[]);
    let store = Store::open(&kind.url(&cluster, "")).await.connector;
    let slot = kind.slot(&cluster, &tagged(0));
    let from = cluster.owner(slot);
    let to = (from + 1) % 3;
    let keys: Vec<CacheKey> = (0..20).map(tagged).collect();
    let items =
        |version| keys.iter().zip(0..).map(|(key, n)| (key.clone(), chunk(n, version, 10_000))).collect::<Vec<_>>();
    assert!(store.batched_put(&items(1)).await.iter().all(Result::is_ok));
    let all_are = async |wanted: u64| {
        for (n, got) in (0..).zip(store.batched_get(&keys).await) {
            assert_eq!(version(n, &got.unwrap().expect("the chunk is there")), wanted, "{n} of a batch");
            let got = store.get(&keys[n as usize]).await.unwrap().expect("the chunk is there");
            assert_eq!(version(n, &got), wanted, "{n}");
        }
        assert!(store.batched_exists(&keys).await.into_iter().all(Result::unwrap));
    };
    cluster.begin_move(slot, from, to);
    all_are(1).await;
    assert_eq!(cluster.move_keys(slot, from, to, 10), 10);
    let asked = errors(cluster.node(from), "ASK");
    all_are(1).await;
    assert!(errors(cluster.node(from), "ASK") > asked, "half of the keys are at the other node");
    // Old and new keys, on both sides.
    assert!(store.batched_put(&items(2)).await.iter().all(Result::is_ok));
    all_are(2).await;
    store.put(&tagged(100), chunk(100, 1, 50_000)).await.unwrap();
    assert_eq!(version(100, &store.get(&tagged(100)).await.unwrap().expect("a new key")), 1);
    assert!(store.get(&tagged(101)).await.unwrap().is_none());
    assert!(!store.exists(&tagged(101)).await.unwrap());
    assert!(store.remove(&tagged(100)).await.unwrap());
    assert!(!store.remove(&tagged(100)).await.unwrap());
    while cluster.move_keys(slot, from, to, 10) > 0 {}
    all_are(2).await;
    cluster.end_move(slot, from, to);
    all_are(2).await;
    assert!(store.batched_remove(&keys).await.into_iter().all(Result::unwrap));
    assert_eq!(cluster.node(from).cli(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]).integer(), Some(0));
}

pub(crate) async fn a_moved_slot_costs_one_redirection(kind: Kind) {
    let cluster = RedisCluster::start(3, 0, &[]);
    let store = Store::open(&kind.url(&cluster, "")).await;
    let n = kind.numbers_at(&cluster, 0, 1)[0];
    store.put(n, 1, 1000).await.unwrap();
    assert_eq!(all_errors(&cluster, "MOVED"), 0);
    cluster.move_slot(kind.slot(&cluster, &key(n)), 0, 1);
    for _ in 0..50 {
        assert_eq!(store.get(n).await.unwrap(), Some(1));
    }
    let moved = all_errors(&cluster, "MOVED");
    assert!((1..=4).contains(&moved), "{moved} redirections for one slot");
}

/// The redirection of one key is an error among the answers of a batch.
pub(crate) async fn the_neighbours_of_a_moved_chunk_are_their_own(kind: Kind) {
    let cluster = RedisCluster::start(3, 0, &[]);
    for options in ["", "&ttl_sec=1000&refresh_ttl=true"] {
        let store = Store::open(&kind.url(&cluster, &format!("{options}&connections=1"))).await;
        let numbers = kind.numbers_at(&cluster, 0, 24);
        assert!(store.batched_put(&numbers, 1, 5000).await.iter().all(Result::is_ok));
        for n in [0, 1, 9, 23] {
            cluster.move_slot(kind.slot(&cluster, &key(numbers[n])), 0, 1);
        }
        for answer in store.batched_get(&numbers).await {
            assert_eq!(answer.unwrap_or_else(|e| panic!("{options}: {e:?}")), Some(1), "{options}");
        }
    }
}

pub(crate) async fn slots_that_move_under_load_fail_no_call(kind: Kind) {
    const KEYS: u64 = 2000;
    let cluster = RedisCluster::start(3, 0, &[]);
    let store = Arc::new(Store::open(&kind.url(&cluster, "")).await);
    let numbers: Vec<u64> = (0..KEYS).collect();
    assert!(store.batched_put(&numbers, 1, 5000).await.iter().all(Result::is_ok));
    let done = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for caller in 0..4_u64 {
        let (store, done) = (store.clone(), done.clone());
        callers.spawn(async move {
            let mut random = fastrand::Rng::with_seed(caller);
            let mut calls = 0_u64;
            // Each caller writes its own keys.
            while !done.load(Ordering::SeqCst) {
                let some: Vec<u64> = (0..16).map(|_| random.u64(0..KEYS / 4) * 4 + caller).collect();
                for answer in store.batched_put(&some, 1, 5000).await {
                    answer.unwrap_or_else(|e| panic!("{e:?}"));
                }
                for answer in store.batched_get(&some).await {
                    assert_eq!(answer.unwrap_or_else(|e| panic!("{e:?}")), Some(1));
                }
                store.put(some[0], 1, 5000).await.unwrap_or_else(|e| panic!("{e:?}"));
                assert_eq!(store.get(some[1]).await.unwrap_or_else(|e| panic!("{e:?}")), Some(1));
                calls += 1;
            }
            calls
        });
    }
    let cluster = tokio::task::spawn_blocking(move || {
        cluster.reshard(0, 1, 150);
        cluster.reshard(1, 2, 150);
        cluster
    });
    let cluster = cluster.await.expect("the slots move");
    done.store(true, Ordering::SeqCst);
    while let Some(calls) = callers.join_next().await {
        assert!(calls.expect("every call succeeds") > 0);
    }
    assert!(all_errors(&cluster, "MOVED") > 0);
    store.is_right().await;
    store.leaks_nothing().await;
}
