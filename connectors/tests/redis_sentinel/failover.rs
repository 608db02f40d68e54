//! Failovers under load, and without load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use connectors::{Connector, ErrorKind};
use kvconn_redis_server::{Reply, SentinelGroup};

use crate::checked::{chunk, is_lost, key, until, within};
use crate::{connections, get, open, put, replicas_have_all};

/// Puts of several callers, and the ones that the store took.
struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<tokio::task::JoinHandle<Vec<(u64, Instant)>>>,
    failures: Arc<AtomicU64>,
}

impl Load {
    fn start(store: &Connector) -> Self {
        let (stop, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = |writer: u64| {
            let (store, stop, failures) = (store.clone(), stop.clone(), failures.clone());
            tokio::spawn(async move {
                let mut taken = Vec::new();
                for n in (0..).map(|i| writer * 1_000_000 + i) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let start = Instant::now();
                    match put(&store, n, n + 1).await {
                        Ok(()) => taken.push((n, start)),
                        Err(e) => {
                            assert!(e.is_temporary(), "a failover ends: {e:?}");
                            failures.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                    }
                    // Leaves the processor to the servers.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                taken
            })
        };
        Self { writers: (1..5).map(writer).collect(), stop, failures }
    }

    /// The numbers that the store took, each with the start of its put.
    async fn end(self) -> Vec<(u64, Instant)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for writer in self.writers {
            all.extend(writer.await.expect("no error is permanent"));
        }
        all
    }
}

/// Every put that a replica has before the fault, and every put after the failover, is there at the end.
async fn loses_nothing(fault: impl FnOnce(&mut SentinelGroup) + Send) {
    let mut group = SentinelGroup::start(3, 2, &[]);
    // A longer wait than that of this test.
    let store = open(&format!("{}?io_timeout_ms=3600000", group.url("redis-sentinel"))).await;
    for n in 0..50 {
        put(&store, n, 1).await.unwrap();
    }
    replicas_have_all(&group, 2);
    let load = Load::start(&store);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (group, failed_over) = tokio::task::block_in_place(|| {
        fault(&mut group);
        (group, Instant::now())
    });
    until("the store takes puts again", async || put(&store, 1000, 1).await.is_ok()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let failures = load.failures.load(Ordering::Relaxed);
    let taken = load.end().await;
    let late: Vec<_> = taken.iter().filter(|(_, start)| *start > failed_over).collect();
    assert!(late.len() > 20, "the load went on: {} of {} puts", late.len(), taken.len());
    for n in 0..50 {
        assert_eq!(get(&store, n).await.unwrap(), Some(1), "put {n} before the failover, of {failures} failures");
    }
    for (n, _) in late {
        assert_eq!(get(&store, *n).await.unwrap(), Some(n + 1), "put {n} after the failover");
    }
    assert!(connections(group.master()) > 0, "the store uses the new master");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_failover_loses_no_put_of_the_master_that_stays() {
    within(loses_nothing(|group| {
        group.failover();
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_loses_no_put_of_the_master_that_stays() {
    within(loses_nothing(|group| {
        group.kill_master();
        group.wait_until_master_changes();
    }))
    .await;
}

/// A call that waits for the paused master would wait for an hour. Instead it ends when another server is the master.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_master_ends_its_calls_once_another_server_is_the_master() {
    within(loses_nothing(|group| {
        let old = group.master_index();
        group.pause(old);
        group.wait_until_master_changes();
        group.cont(old);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_waits_for_a_paused_master_goes_to_the_next_one() {
    within(async {
        let mut group = SentinelGroup::start(3, 1, &[]);
        let store = open(&format!("{}?io_timeout_ms=3600000", group.url("redis-sentinel"))).await;
        let items: Vec<_> = (0..64).map(|n| (key(n), chunk(n, 1, 300_000))).collect();
        assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
        replicas_have_all(&group, 1);
        group.pause(group.master_index());
        let keys: Vec<_> = items.iter().map(|(key, _)| key.clone()).collect();
        let reader = tokio::spawn({
            let (store, keys) = (store.clone(), keys.clone());
            async move { store.batched_get(&keys).await }
        });
        tokio::task::block_in_place(|| group.wait_until_master_changes());
        let found = reader.await.unwrap();
        assert!(found.iter().all(|chunk| matches!(chunk, Ok(Some(_)))), "{:?}", found.iter().find(|c| c.is_err()));
        assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
    })
    .await;
}

/// The subscription tells it, so the first call after the failover succeeds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_store_learns_of_the_next_master_and_connects_ahead() {
    within(async {
        let mut group = SentinelGroup::start(3, 1, &[]);
        let store = open(&format!("{}?min_idle=3", group.url("redis-sentinel"))).await;
        until("three are idle, and a small one", async || connections(group.master()) == 4).await;
        put(&store, 1, 1).await.unwrap();
        replicas_have_all(&group, 1);
        let old = group.master_index();
        for i in 0..3 {
            until("the store subscribes", async || subscriptions(&group, i) > 0).await;
        }
        tokio::task::block_in_place(|| group.failover());
        until("the store leaves the old master", async || connections(group.server(old)) == 0).await;
        until("three are idle at the next one", async || connections(group.master()) >= 3).await;
        assert_eq!(get(&store, 1).await.unwrap(), Some(1));
        put(&store, 2, 1).await.unwrap();
    })
    .await;
}

/// How many of kvconn's connections to the sentinel follow its announcements.
fn subscriptions(group: &SentinelGroup, i: usize) -> usize {
    let list = group.sentinel(i).cli(&["CLIENT", "LIST"]);
    let list = String::from_utf8_lossy(list.bytes().expect("a text")).into_owned();
    list.lines().filter(|line| line.contains("name=kvconn") && !line.contains(" sub=0 ")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_store_ends_its_subscriptions() {
    within(async {
        let group = SentinelGroup::start(3, 0, &[]);
        for closes in [false, true] {
            let store = open(&group.url("redis-sentinel")).await;
            until("the store subscribes", async || (0..3).all(|i| subscriptions(&group, i) > 0)).await;
            if closes {
                store.close().await.unwrap();
                assert_eq!(put(&store, 1, 1).await.unwrap_err().kind(), ErrorKind::Closed);
            } else {
                drop(store);
            }
            until("the connections end", async || (0..3).all(|i| connections(group.sentinel(i)) == 0)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_goes_on_without_sentinels_and_a_failover_after_their_return_is_followed() {
    within(async {
        let mut group = SentinelGroup::start(3, 1, &[]);
        let store = open(&group.url("redis-sentinel")).await;
        put(&store, 1, 1).await.unwrap();
        (0..3).for_each(|i| group.kill_sentinel(i));
        put(&store, 2, 1).await.unwrap();
        // The next call finds its connection cut, and no sentinel to ask.
        group.master().cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        put(&store, 3, 1).await.unwrap();
        assert_eq!(get(&store, 1).await.unwrap(), Some(1));
        tokio::task::block_in_place(|| (0..3).for_each(|i| group.restart_sentinel(i)));
        for i in 0..3 {
            let mut client = group.sentinel(i).client();
            let ready = ["SENTINEL", "CKQUORUM", "redismaster"];
            until("the sentinels are back", async || matches!(client.command(&ready), Ok(Reply::Simple(_)))).await;
        }
        group.kill_master();
        tokio::task::block_in_place(|| group.wait_until_master_changes());
        until("the store follows", async || put(&store, 4, 1).await.is_ok()).await;
        assert_eq!(get(&store, 4).await.unwrap(), Some(1));
    })
    .await;
}

/// Only one sentinel is in the URL, and it dies. Before, it named the other ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_the_url_does_not_name_are_asked_too() {
    within(async {
        let mut group = SentinelGroup::start(3, 2, &[]);
        let store = open(&group.sentinel(0).url("redis-sentinel")).await;
        put(&store, 1, 1).await.unwrap();
        group.kill_sentinel(0);
        group.kill_master();
        tokio::task::block_in_place(|| group.wait_until_master_changes());
        until("the store follows", async || put(&store, 2, 1).await.is_ok()).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_master_calls_fail_and_the_store_recovers_by_itself() {
    within(async {
        let mut group = SentinelGroup::start(1, 0, &[]);
        let store = open(&group.url("redis-sentinel")).await;
        put(&store, 1, 1).await.unwrap();
        group.kill_master();
        for _ in 0..10 {
            is_lost(put(&store, 1, 1).await);
        }
        group.restart(0);
        until("the store is back", async || put(&store, 2, 1).await.is_ok()).await;
    })
    .await;
}
