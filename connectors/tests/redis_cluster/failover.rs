//! Masters die, stop, and hand over to their replicas.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvconn_redis_server::RedisCluster;
use tokio::task::JoinSet;

use crate::checked::{is_lost, key, until};
use crate::store::{Kind, Store, calls};

/// Numbers of keys on each of the three masters.
fn numbers(kind: Kind, cluster: &RedisCluster) -> [Vec<u64>; 3] {
    [0, 1, 2].map(|at| kind.numbers_at(cluster, at, 10))
}

pub(crate) async fn a_killed_master_costs_only_its_chunks_until_its_replica_takes_over(kind: Kind) {
    let mut cluster = RedisCluster::start(3, 1, &["--cluster-require-full-coverage", "no"]);
    let store = Store::open(&kind.url(&cluster, "&breaker_failures=3&min_reconnect_interval=60")).await;
    let [dead, other, third] = numbers(kind, &cluster);
    let all = [&dead[..], &other, &third].concat();
    assert!(store.batched_put(&all, 1, 20_000).await.iter().all(Result::is_ok));
    for i in 0..3 {
        // Until the replica has them.
        cluster.wait_for_replica(i);
    }
    cluster.kill(0);
    for (at, answer) in store.batched_get(&all).await.into_iter().enumerate() {
        match answer {
            // The two halves of a chunk of `redis` lie on two nodes.
            Err(e) => is_lost::<()>(Err(e)),
            Ok(version) => assert!(version == Some(1) && at >= dead.len(), "{at}: {version:?}"),
        }
    }
    for answer in store.batched_get(&dead).await {
        is_lost(answer);
    }
    let whole = tokio::task::spawn_blocking(move || {
        cluster.wait_until_whole();
        cluster
    });
    let cluster = whole.await.expect("the replica takes over");
    until("the store finds the new master", async || store.connector.ping().await.is_ok()).await;
    for answer in store.batched_get(&all).await {
        assert_eq!(answer.unwrap(), Some(1));
    }
    store.is_right().await;
    store.leaks_nothing().await;
    drop(cluster);
}

pub(crate) async fn a_stopped_master_costs_one_timeout_and_comes_back(kind: Kind) {
    let mut cluster = RedisCluster::start(3, 0, &["--cluster-require-full-coverage", "no"]);
    let options = "&io_timeout_ms=2000&connect_timeout_ms=2000&breaker_failures=3&min_reconnect_interval=60";
    let store = Store::open(&kind.url(&cluster, options)).await;
    let [stopped, other, third] = numbers(kind, &cluster);
    let all = [&stopped[..], &other, &third].concat();
    assert!(store.batched_put(&all, 1, 20_000).await.iter().all(Result::is_ok));
    cluster.pause(0);
    is_lost(store.get(stopped[0]).await);
    let begin = Instant::now();
    for _ in 0..10 {
        for &n in &stopped {
            is_lost(store.get(n).await);
        }
        for answer in store.batched_get(&stopped).await {
            is_lost(answer);
        }
    }
    // If each call waited for a timeout, they would take minutes.
    assert!(begin.elapsed() < Duration::from_secs(30), "110 calls took {:?}", begin.elapsed());
    let mut found = 0;
    for &n in other.iter().chain(&third) {
        match store.get(n).await {
            Ok(version) => {
                assert_eq!(version, Some(1));
                found += 1;
            }
            // The header's node is the stopped one.
            Err(e) => is_lost::<()>(Err(e)),
        }
    }
    assert!(found >= 5, "{found} of 20 chunks of other nodes were found");
    cluster.cont(0);
    until("the node is back", async || store.connector.ping().await.is_ok()).await;
    for answer in store.batched_get(&all).await {
        assert_eq!(answer.unwrap(), Some(1));
    }
    store.is_right().await;
    store.leaks_nothing().await;
}

pub(crate) async fn a_planned_failover_fails_no_call(kind: Kind) {
    let cluster = RedisCluster::start(3, 1, &[]);
    let store = Arc::new(Store::open(&kind.url(&cluster, "")).await);
    let done = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for caller in 0..4_u64 {
        let (store, done) = (store.clone(), done.clone());
        callers.spawn(async move {
            let some: Vec<u64> = (0..24).map(|n| n * 4 + caller).collect();
            let mut calls = 0_u64;
            while !done.load(Ordering::SeqCst) {
                calls += 1;
                for answer in store.batched_put(&some, calls, 10_000).await {
                    answer.unwrap_or_else(|e| panic!("{e:?}"));
                }
                for answer in store.batched_get(&some).await {
                    assert_eq!(answer.unwrap_or_else(|e| panic!("{e:?}")), Some(calls));
                }
                assert!(store.connector.exists(&key(some[0])).await.unwrap_or_else(|e| panic!("{e:?}")));
            }
            calls
        });
    }
    let failed_over = tokio::task::spawn_blocking(move || {
        let first = cluster.failover(0);
        cluster.failover(1);
        assert_eq!(cluster.failover(first), 0, "and back");
        cluster
    });
    let cluster = failed_over.await.expect("replicas take over");
    done.store(true, Ordering::SeqCst);
    while let Some(calls) = callers.join_next().await {
        assert!(calls.expect("every call succeeds") > 0);
    }
    store.is_right().await;
    store.leaks_nothing().await;
    drop(cluster);
}

pub(crate) async fn a_cluster_that_is_down_fails_in_time_and_comes_back(kind: Kind) {
    // Without a replica and without full coverage, the whole cluster refuses calls.
    let mut cluster = RedisCluster::start(3, 0, &[]);
    let store = Store::open(&kind.url(&cluster, "&connect_timeout_ms=500&io_timeout_ms=1000")).await;
    let [first, other, _] = numbers(kind, &cluster);
    store.put(other[0], 1, 1000).await.unwrap();
    cluster.kill(0);
    until("the cluster is down", async || {
        let info = cluster.node(1).cli(&["CLUSTER", "INFO"]);
        String::from_utf8_lossy(info.bytes().expect("text")).contains("cluster_state:fail")
    })
    .await;
    is_lost(store.get(other[0]).await);
    is_lost(store.put(first[0], 1, 1000).await);
    for answer in store.batched_get(&[first, other].concat()).await {
        is_lost(answer);
    }
    let whole = tokio::task::spawn_blocking(move || {
        cluster.restart(0);
        cluster.wait_until_whole();
        cluster
    });
    let cluster = whole.await.expect("the node is back");
    until("the store finds it", async || store.connector.ping().await.is_ok()).await;
    store.is_right().await;
    store.leaks_nothing().await;
    drop(cluster);
}

pub(crate) async fn reads_go_to_replicas_and_else_to_the_master(kind: Kind) {
    let mut cluster = RedisCluster::start(3, 1, &[]);
    let store = Store::open(&kind.url(&cluster, "&replica_reads=true")).await;
    let all: Vec<u64> = (0..60).collect();
    assert!(store.batched_put(&all, 1, 5000).await.iter().all(Result::is_ok));
    for i in 0..3 {
        cluster.wait_for_replica(i);
    }
    let reads = |cluster: &RedisCluster, nodes: std::ops::Range<usize>| -> u64 {
        nodes
            .map(|i| ["get", "mget", "strlen"].map(|command| calls(cluster.node(i), command)).iter().sum::<u64>())
            .sum()
    };
    let right = async || {
        for answer in store.batched_get(&all).await {
            assert_eq!(answer.unwrap(), Some(1));
        }
        for &n in &all[..10] {
            assert_eq!(store.get(n).await.unwrap(), Some(1));
            assert!(store.connector.exists(&key(n)).await.unwrap());
        }
    };
    right().await;
    // The masters give the headers of `redis`.
    let (by_masters, by_replicas) = (reads(&cluster, 0..3), reads(&cluster, 3..6));
    assert!(by_replicas >= all.len() as u64 && by_replicas >= by_masters, "{by_replicas}, and {by_masters} by masters");
    for replica in 3..6 {
        cluster.kill(replica);
    }
    right().await;
    assert!(reads(&cluster, 0..3) >= by_masters + all.len() as u64);
    store.leaks_nothing().await;
}
