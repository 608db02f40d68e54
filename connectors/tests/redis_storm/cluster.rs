//! Clusters whose masters fail over, die and pause, while slots move.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kvconn_redis_server::{RedisCluster, Reply};
use tokio::runtime::Handle;

use crate::checked::key;
use crate::storm::{LONG, Length, OPTIONS, SHORT, Storm, Trouble, rage};

struct Cluster {
    servers: RedisCluster,
    random: fastrand::Rng,
}

impl Trouble for Cluster {
    fn round(&mut self, storms: &[Arc<Storm>], runtime: &Handle) {
        self.slots_move(8);
        let masters = self.servers.masters();
        let new = self.servers.failover(self.random.choice(masters).expect("a master"));
        println!("node {new} took over without a loss");
        self.slots_move(8);
        let record = &storms[0].record;
        record.losing(|| self.a_master_is_lost(storms, runtime, RedisCluster::kill, RedisCluster::restart));
        record.losing(|| self.a_master_is_lost(storms, runtime, RedisCluster::pause, RedisCluster::cont));
        // A pause that the other nodes do not notice.
        record.losing(|| {
            let paused = self.random.usize(..self.servers.len());
            self.servers.pause(paused);
            thread::sleep(Duration::from_millis(300));
            self.servers.cont(paused);
            self.servers.wait_until_whole();
        });
    }
}

impl Cluster {
    /// Moves slots with chunks, slowly, so that callers meet both nodes.
    fn slots_move(&mut self, count: usize) {
        for _ in 0..count {
            let mut masters = self.servers.masters();
            self.random.shuffle(&mut masters);
            let (from, to) = (masters[0], masters[1]);
            let Reply::Bulk(Some(name)) = self.servers.node(from).cli(&["RANDOMKEY"]) else { continue };
            let slot = self.servers.node(from).cli(&[&b"CLUSTER"[..], b"KEYSLOT", &name]);
            let slot = slot.integer().and_then(|slot| u16::try_from(slot).ok()).expect("a slot");
            self.servers.begin_move(slot, from, to);
            thread::sleep(Duration::from_millis(20));
            while self.servers.move_keys(slot, from, to, 1) > 0 {
                thread::sleep(Duration::from_millis(5));
            }
            self.servers.end_move(slot, from, to);
        }
        self.servers.wait_until_whole();
    }

    /// Loses a master until its replica has taken over.
    fn a_master_is_lost(
        &mut self,
        storms: &[Arc<Storm>],
        runtime: &Handle,
        lose: fn(&mut RedisCluster, usize),
        find: fn(&mut RedisCluster, usize),
    ) {
        let masters = self.servers.masters();
        let lost = *self.random.choice(&masters).expect("a master");
        let asked = *masters.iter().find(|&&i| i != lost).expect("another master");
        let keys: Vec<_> = storms.iter().map(|storm| (storm.clone(), self.key_at(lost, &storm.url))).collect();
        lose(&mut self.servers, lost);
        let start = Instant::now();
        let recoveries: Vec<_> =
            keys.into_iter().map(|(storm, n)| runtime.spawn(async move { storm.recovers(n).await })).collect();
        let servers_took = loop {
            let info = self.servers.node(asked).cli(&["CLUSTER", "INFO"]);
            let info = String::from_utf8_lossy(info.bytes().expect("a text")).into_owned();
            if info.contains("cluster_state:ok") && !self.servers.masters().contains(&lost) {
                break start.elapsed();
            }
            thread::sleep(Duration::from_millis(10));
        };
        for recovery in recoveries {
            let recovery = runtime.block_on(recovery).expect("the store recovers");
            println!("without node {lost}, the servers took {servers_took:?}, the store {recovery:?}");
            // Of twice the servers' time, the rest is for a busy machine.
            assert!(recovery < 2 * servers_took + Duration::from_secs(10), "the store recovers too late");
        }
        find(&mut self.servers, lost);
        self.servers.wait_until_whole();
    }

    /// A key with a value on the node.
    fn key_at(&self, node: usize, url: &str) -> u64 {
        let ranges = self.servers.slots_of(node);
        let is_here = |&n: &u64| {
            let name = if url.starts_with("redis") { format!("{}kv_bytes", key(n)) } else { key(n).to_string() };
            let slot = self.servers.node(node).cli(&["CLUSTER", "KEYSLOT", &name]).integer().expect("a slot");
            ranges.iter().any(|range| i64::from(*range.start()) <= slot && slot <= i64::from(*range.end()))
        };
        (0..).find(is_here).expect("a key on the node")
    }
}

async fn storm(length: Length) {
    // A busy machine delays each node, and no other node must take it to be dead.
    let servers = RedisCluster::start(3, 1, &["--cluster-node-timeout", "2000"]);
    let resp = format!("{}?cluster=true&{OPTIONS}", servers.url("resp"));
    let urls = [format!("{}?{OPTIONS}", servers.url("redis-cluster")), resp];
    rage(&urls, length, Cluster { servers, random: fastrand::Rng::with_seed(1) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "storm: ./tests/run --full runs it"]
async fn a_cluster_in_a_storm_serves_right_chunks_or_errors() {
    storm(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "storm: ./tests/run --full runs it"]
async fn a_cluster_in_a_long_storm_serves_right_chunks_or_errors() {
    storm(LONG).await;
}
