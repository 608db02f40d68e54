//! Reads from replicas.

use connectors::Connector;
use kvconn_redis_server::SentinelGroup;

use crate::checked::{key, until, within};
use crate::{calls, get, open, put, replicas_have_all};

/// A group whose replicas have 20 chunks, and a store that reads from them.
async fn replicated(sentinels: usize, replicas: usize, options: &str) -> (SentinelGroup, Connector) {
    let group = SentinelGroup::start(sentinels, replicas, &[]);
    let store = open(&format!("{}?replica_reads=true{options}", group.url("redis-sentinel"))).await;
    for n in 0..20 {
        put(&store, n, 1).await.unwrap();
    }
    replicas_have_all(&group, i64::try_from(replicas).expect("few replicas"));
    (group, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_answer_reads_and_the_master_takes_writes() {
    within(async {
        let (mut group, store) = replicated(1, 2, "").await;
        // On a busy machine, the one sentinel could think that a replica is down.
        group.sentinel(0).cli(&["SENTINEL", "SET", "redismaster", "down-after-milliseconds", "60000"]);
        until("both replicas answer", async || {
            assert_eq!(get(&store, 0).await.unwrap(), Some(1));
            group.replicas().into_iter().all(|i| calls(group.server(i), "mget") > 0)
        })
        .await;
        group.master().cli(&["CONFIG", "RESETSTAT"]);
        let keys: Vec<_> = (0..20).map(key).collect();
        assert!(store.batched_get(&keys).await.iter().all(|got| matches!(got, Ok(Some(_)))));
        assert_eq!(store.batched_contains(&keys).await.unwrap(), 20);
        assert_eq!(calls(group.master(), "mget"), 0, "the replicas answer all reads");
        // A replica that is gone costs no read.
        let [killed, paused] = group.replicas()[..] else { panic!("two replicas") };
        group.kill(killed);
        for n in 0..20 {
            assert_eq!(get(&store, n).await.unwrap(), Some(1));
        }
        group.kill(paused);
        for n in 0..20 {
            assert_eq!(get(&store, n).await.unwrap(), Some(1));
        }
        assert!(calls(group.master(), "mget") > 0, "the master answers");
        assert!(store.remove(&key(0)).await.unwrap());
        // A replica that is back answers again.
        group.restart(killed);
        until("the replica answers", async || {
            assert_eq!(get(&store, 1).await.unwrap(), Some(1));
            calls(group.server(killed), "mget") > 0
        })
        .await;
    })
    .await;
}

/// The replica still answers, and no sentinel announces its lost link.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_loses_its_master_answers_no_read_until_it_is_back() {
    within(async {
        let (group, store) = replicated(1, 1, "").await;
        let replica = group.server(group.replicas()[0]);
        until("the replica answers", async || {
            assert_eq!(get(&store, 1).await.unwrap(), Some(1));
            calls(replica, "mget") > 0
        })
        .await;
        // The master refuses this login.
        replica.cli(&["CONFIG", "SET", "masterauth", "wrong"]);
        replica.cli(&["CLIENT", "KILL", "TYPE", "master"]);
        put(&store, 1, 2).await.unwrap();
        until("the master answers", async || get(&store, 1).await.unwrap() == Some(2)).await;
        let before = calls(replica, "mget");
        for _ in 0..10 {
            assert_eq!(get(&store, 1).await.unwrap(), Some(2));
        }
        assert_eq!(calls(replica, "mget"), before);
        replica.cli(&["CONFIG", "SET", "masterauth", ""]);
        until("the replica answers again", async || {
            assert_eq!(get(&store, 1).await.unwrap(), Some(2));
            calls(replica, "mget") > before
        })
        .await;
    })
    .await;
}

/// Reads that wait for the paused replica would wait for an hour. The sentinel announces that it is down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_replica_costs_no_read() {
    within(async {
        let (mut group, store) = replicated(1, 1, "&io_timeout_ms=3600000").await;
        let replica = group.replicas()[0];
        until("the replica answers", async || {
            assert_eq!(get(&store, 1).await.unwrap(), Some(1));
            calls(group.server(replica), "mget") > 0
        })
        .await;
        group.pause(replica);
        for _ in 0..10 {
            assert_eq!(get(&store, 1).await.unwrap(), Some(1));
        }
        group.cont(replica);
        let before = calls(group.server(replica), "mget");
        until("the replica answers again", async || {
            assert_eq!(get(&store, 1).await.unwrap(), Some(1));
            calls(group.server(replica), "mget") > before
        })
        .await;
    })
    .await;
}

/// Each connection of the batch has a request in flight when the replica ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_ends_costs_a_batch_no_read() {
    within(async {
        let (mut group, store) = replicated(1, 1, "&io_timeout_ms=3600000").await;
        let replica = group.replicas()[0];
        until("the replica answers", async || {
            assert_eq!(get(&store, 1).await.unwrap(), Some(1));
            calls(group.server(replica), "mget") > 0
        })
        .await;
        // The server holds the answers back.
        group.server(replica).cli(&["CLIENT", "PAUSE", "3600000", "ALL"]);
        let batch = tokio::spawn(async move { store.batched_get(&(0..20).map(key).collect::<Vec<_>>()).await });
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        group.kill(replica);
        for (n, got) in batch.await.unwrap().into_iter().enumerate() {
            assert!(matches!(got, Ok(Some(_))), "{n}: {:?}", got.err());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_becomes_the_master_takes_writes() {
    within(async {
        let (mut group, store) = replicated(3, 1, "").await;
        tokio::task::block_in_place(|| group.failover());
        until("the store follows", async || put(&store, 2, 1).await.is_ok()).await;
        assert_eq!(get(&store, 1).await.unwrap(), Some(1));
    })
    .await;
}
