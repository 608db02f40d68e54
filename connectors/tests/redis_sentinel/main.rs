//! Stores behind real sentinels: masters that fail over, die or pause, and sentinels that are away.
#![forbid(unsafe_code)]

#[path = "../checked/mod.rs"]
mod checked;
mod failover;
mod login;
mod partition;
mod replicas;
mod wrong;

use connectors::{Connector, Result};
use kvconn_redis_server::{RedisServer, Reply, SentinelGroup};

use crate::checked::{chunk, key, version};

async fn open(url: &str) -> Connector {
    connectors::open(url).await.unwrap_or_else(|e| panic!("the store opens: {e:?}"))
}

async fn put(store: &Connector, n: u64, version: u64) -> Result<()> {
    store.put(&key(n), chunk(n, version, 1000)).await
}

/// The stored version.
///
/// # Panics
/// If the chunk is not this key's, or not whole.
async fn get(store: &Connector, n: u64) -> Result<Option<u64>> {
    Ok(store.get(&key(n)).await?.map(|chunk| version(n, &chunk)))
}

/// How often the server ran this command.
fn calls(server: &RedisServer, command: &str) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let stats = String::from_utf8_lossy(stats.bytes().expect("INFO is text")).into_owned();
    let start = format!("cmdstat_{command}:calls=");
    let count = stats.lines().find_map(|line| line.strip_prefix(&start));
    count.map_or(0, |rest| rest.split(',').next().and_then(|n| n.parse().ok()).expect("a number"))
}

/// The number of kvconn's connections to the server.
fn connections(server: &RedisServer) -> usize {
    let list = server.cli(&["CLIENT", "LIST"]);
    let list = String::from_utf8_lossy(list.bytes().expect("a text")).into_owned();
    list.lines().filter(|line| line.contains("name=kvconn")).count()
}

/// Waits until `n` replicas have every put so far.
fn replicas_have_all(group: &SentinelGroup, n: i64) {
    let mut client = group.master().client();
    // `WAIT` counts from the last write of its own connection.
    assert_eq!(client.command(&["SET", "marker", ""]).expect("the master answers"), Reply::Simple("OK".into()));
    let reached = client.command(&["WAIT", &n.to_string(), "20000"]).expect("the master answers");
    assert_eq!(reached.integer(), Some(n), "the replicas have all");
}
