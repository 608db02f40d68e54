//! The counters of each server.

use std::time::{Duration, Instant};

use connectors::{CacheKey, MemoryObj};
use kvconn_redis_server::{RedisCluster, RedisServer};

use crate::{counters, recorder};

fn key(n: u32) -> CacheKey {
    format!("m@1@0@{n:x}@half").parse().expect("a key")
}

/// The sum of the counters whose name starts with `name`, and whose labels hold all of `labels`.
fn sum(name: &str, labels: &[&str]) -> u64 {
    let all = counters(name);
    let wanted = |text: &String| labels.iter().all(|label| text.contains(label));
    all.iter().filter(|(text, _)| wanted(text)).map(|(_, n)| n).sum()
}

#[tokio::test]
async fn requests_connections_and_errors_of_a_server_are_counted() {
    recorder();
    let mut redis = RedisServer::start(&[]);
    let address = redis.address().to_string();
    let (node, instance) = (format!("node={address}"), format!("instance={address}"));
    let labels = ["connector=kvconn.resp/RESPConnector", &node, &instance];
    let store = connectors::open(&redis.url("resp")).await.expect("the store opens");
    assert_eq!(sum("kvconn_node_connections_opened_total", &labels), 1);
    assert_eq!(sum("kvconn_node_requests_total", &labels), 0, "the greeting does not count");
    store.put(&key(1), MemoryObj::from(vec![1; 10])).await.expect("it is stored");
    store.get(&key(1)).await.expect("it is read").expect("it is there");
    store.batched_exists(&[key(1), key(2), key(3)]).await;
    assert_eq!(sum("kvconn_node_requests_total", &labels), 5);
    assert_eq!(sum("kvconn_node_connections_opened_total", &labels), 2, "one for chunks, one for everything else");
    assert_eq!(sum("kvconn_node_errors_total", &labels), 0);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    store.put(&key(2), MemoryObj::from(vec![1; 10])).await.expect_err("the server is full");
    assert_eq!(sum("kvconn_node_errors_total", &["kind=store_full", &node, &instance]), 1);
    redis.kill9();
    store.get(&key(1)).await.expect_err("the server is away");
    assert!(sum("kvconn_node_errors_total", &["kind=unavailable", &node]) >= 1);
}

#[tokio::test]
async fn each_node_of_a_cluster_has_its_own_counters() {
    recorder();
    let cluster = RedisCluster::start(3, 0, &[]);
    let store = connectors::open(&(cluster.url("redis-cluster") + "?min_idle=2")).await.expect("the store opens");
    let instance = format!("instance={}", cluster.url("").trim_start_matches("://"));
    assert!(sum("kvconn_topology_refreshes_total", &["result=ok", &instance]) >= 1);
    store.ping().await.expect("the cluster answers");
    for i in cluster.masters() {
        let node = format!("node={}", cluster.node(i).address());
        assert!(sum("kvconn_node_requests_total", &[&node, &instance]) > 0, "{:?}", counters("kvconn_node"));
        // Two for chunks, opened ahead, and one for the ping.
        let deadline = Instant::now() + Duration::from_secs(60);
        while sum("kvconn_node_connections_opened_total", &[&node, &instance]) < 3 {
            assert!(Instant::now() < deadline, "{:?}", counters("kvconn_node"));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    assert_eq!(sum("kvconn_node_errors_total", &[&instance]), 0);
}

#[tokio::test]
async fn redirections_of_a_cluster_are_counted() {
    recorder();
    let cluster = RedisCluster::start(3, 0, &[]);
    let store = connectors::open(&(cluster.url("resp") + "?cluster=true")).await.expect("the store opens");
    let instance = format!("instance={}", cluster.url("").trim_start_matches("://"));
    let (from, to) = (cluster.masters()[0], cluster.masters()[1]);
    let first = *cluster.slots_of(from)[0].start();
    (first..first + 200).for_each(|slot| cluster.move_slot(slot, from, to));
    let node = format!("node={}", cluster.node(from).address());
    for n in 0..400 {
        store.exists(&key(n)).await.expect("the cluster answers");
    }
    assert!(sum("kvconn_redirects_total", &["kind=moved", &node, &instance]) >= 1, "{:?}", counters("redirects"));
    assert_eq!(sum("kvconn_node_errors_total", &[&instance]), 0, "a redirection is not an error");
}
