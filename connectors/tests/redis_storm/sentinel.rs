//! Masters that sentinels replace.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kvconn_redis_server::{Reply, SentinelGroup};
use tokio::runtime::Handle;

use crate::storm::{LONG, Length, OPTIONS, SHORT, Storm, Trouble, rage};

struct Sentinels(SentinelGroup);

impl Trouble for Sentinels {
    fn round(&mut self, storms: &[Arc<Storm>], runtime: &Handle) {
        let record = &storms[0].record;
        // The old master takes puts until the sentinels reach it, and then loses them.
        let new = record.losing(|| self.0.failover());
        println!("server {new} is the master");
        record.losing(|| self.the_master_is_lost(storms, runtime, SentinelGroup::kill, SentinelGroup::restart));
        record.losing(|| self.the_master_is_lost(storms, runtime, SentinelGroup::pause, SentinelGroup::cont));
    }
}

impl Sentinels {
    /// Loses the master until the sentinels have replaced it.
    fn the_master_is_lost(
        &mut self,
        storms: &[Arc<Storm>],
        runtime: &Handle,
        lose: fn(&mut SentinelGroup, usize),
        find: fn(&mut SentinelGroup, usize),
    ) {
        let lost = self.0.master_index();
        let old = self.address();
        lose(&mut self.0, lost);
        let start = Instant::now();
        let recover = |storm: &Arc<Storm>| {
            let storm = storm.clone();
            runtime.spawn(async move { storm.recovers(0).await })
        };
        let recoveries: Vec<_> = storms.iter().map(recover).collect();
        while self.address() == old {
            thread::sleep(Duration::from_millis(10));
        }
        let servers_took = start.elapsed();
        for recovery in recoveries {
            let recovery = runtime.block_on(recovery).expect("the store recovers");
            println!("without server {lost}, the servers took {servers_took:?}, the store {recovery:?}");
            // Of twice the servers' time, the rest is for a busy machine.
            assert!(recovery < 2 * servers_took + Duration::from_secs(10), "the store recovers too late");
        }
        self.0.wait_until_master_changes();
        find(&mut self.0, lost);
        // The sentinels make the old master a replica before the next failover.
        self.0.wait_until_agreed();
    }

    /// The master's address, by a sentinel.
    fn address(&self) -> Reply {
        self.0.sentinel(0).cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "redismaster"])
    }
}

async fn storm(length: Length) {
    let servers = SentinelGroup::start(3, 2, &[]);
    let urls = [format!("{}?{OPTIONS}", servers.url("redis-sentinel"))];
    rage(&urls, length, Sentinels(servers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "storm: ./tests/run --full runs it"]
async fn sentinels_in_a_storm_serve_right_chunks_or_errors() {
    storm(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "storm: ./tests/run --full runs it"]
async fn sentinels_in_a_long_storm_serve_right_chunks_or_errors() {
    storm(LONG).await;
}
