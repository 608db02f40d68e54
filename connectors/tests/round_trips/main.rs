//! The round trips of each operation on a redis or valkey server, over TLS and on a cluster. A proxy in front of each node
//! counts them: a round trip starts when the client sends bytes after it received bytes of a reply.
//!
//! The proxies delay each byte, so that requests that do not wait for an answer are sent before one comes.
#![forbid(unsafe_code)]

mod network;

use connectors::{CacheKey, MemoryObj, MemoryObjMut};
use kvconn_redis_server::{RedisCluster, RedisServer};

use network::Network;

/// Enough for several chunks on each connection.
const BATCH: u64 = 24;
const LEN: usize = 20_000;
/// A number without a chunk.
const MISSING: u64 = 1000;

/// The most round trips.
struct Trips {
    // Of one key, together on all connections.
    exists: usize,
    get: usize,
    miss: usize,
    put: usize,
    remove: usize,
    ping: usize,
    // Of a batch, on the connection with the most. All other batches take one.
    batched_put: usize,
    get_prefix: usize,
}

/// Keys that lie on all nodes of a cluster.
fn key(n: u64) -> CacheKey {
    let n = (n + 1) * 0x9e37_79b9;
    format!("org/model@1@0@{n:x}@bfloat16").parse().expect("a key")
}

fn chunk(n: u64) -> MemoryObj {
    MemoryObj::from(vec![n as u8; LEN])
}

async fn count(network: &Network, expected: &Trips) {
    let store = &network.store;
    let (one, missing) = (key(1), key(MISSING));
    let keys: Vec<CacheKey> = (0..BATCH).map(key).collect();
    let items: Vec<_> = (0..BATCH).map(|n| (key(n), chunk(n))).collect();
    let mut memory: Vec<_> = (0..BATCH).map(|n| (key(n), MemoryObjMut::zeroed(LEN))).collect();

    // Opens all connections, and measures the round trip.
    for _ in 0..2 {
        assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
        assert_eq!(store.batched_contains(&keys).await.unwrap(), keys.len());
    }

    let exists = network.trips(async { assert!(store.exists(&one).await.unwrap()) }).await;
    let get = network.trips(async { assert!(store.get(&one).await.unwrap().is_some()) }).await;
    let into = async |memory: &mut MemoryObjMut| assert_eq!(store.get_into(&one, memory).await.unwrap(), Some(LEN));
    let get_into = network.trips(into(&mut memory[1].1)).await;
    let miss = network.trips(async { assert!(store.get(&missing).await.unwrap().is_none()) }).await;
    let put = network.trips(async { store.put(&one, chunk(1)).await.unwrap() }).await;
    let remove = network.trips(async { assert!(store.remove(&one).await.unwrap()) }).await;
    let ping = network.trips(async { store.ping().await.unwrap() }).await;
    let total = |trips: &[usize]| trips.iter().sum::<usize>();
    for (what, trips, expected) in [
        ("exists", exists, expected.exists),
        ("get", get, expected.get),
        ("get_into", get_into, expected.get),
        ("get of a miss", miss, expected.miss),
        ("put", put, expected.put),
        ("remove", remove, expected.remove),
        ("ping", ping, expected.ping),
    ] {
        assert!((1..=expected).contains(&total(&trips)), "{what}: {trips:?}, at most {expected} in all");
    }

    let all_put = async { assert!(store.batched_put(&items).await.iter().all(Result::is_ok)) };
    let put = network.trips(all_put).await;
    let exists = network.trips(async { assert!(store.batched_exists(&keys).await.iter().all(Result::is_ok)) }).await;
    let contains = network.trips(async { assert_eq!(store.batched_contains(&keys).await.unwrap(), keys.len()) }).await;
    let get = network.trips(async { assert!(store.batched_get(&keys).await.iter().all(Result::is_ok)) }).await;
    let prefix = network.trips(async { assert_eq!(store.get_prefix(&keys).await.unwrap().len(), keys.len()) }).await;
    let all_into = async |memory: &mut [_]| {
        let answers = store.batched_get_into(memory).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap() == Some(LEN)));
    };
    let get_into = network.trips(all_into(&mut memory)).await;
    let all_removed = async { assert!(store.batched_remove(&keys).await.into_iter().all(Result::unwrap)) };
    let remove = network.trips(all_removed).await;
    for (what, trips, most) in [
        ("batched_put", put, expected.batched_put),
        ("batched_exists", exists, 1),
        ("batched_contains", contains, 1),
        ("batched_get", get, 1),
        ("get_prefix", prefix, expected.get_prefix),
        ("batched_get_into", get_into, 1),
        ("batched_remove", remove, 1),
    ] {
        assert_eq!(trips.iter().max(), Some(&most), "{what}: {trips:?}");
    }
}

/// One server has both values of a redis chunk, so that one command moves them. A miss asks for their types.
const REDIS: Trips = Trips { miss: 2, ..PLAIN };
const PLAIN: Trips = Trips { exists: 1, get: 1, miss: 1, put: 1, remove: 1, ping: 1, batched_put: 1, get_prefix: 1 };

async fn on_one_server(scheme: &str, expected: Trips) {
    let server = RedisServer::start(&[]);
    count(&Network::before(&server, scheme).await, &expected).await;
}

async fn over_tls(scheme: &str, expected: Trips) {
    let server = RedisServer::start_tls(&[]);
    count(&Network::before_tls(&server, scheme).await, &expected).await;
}

async fn on_a_cluster(scheme: &str, expected: Trips) {
    let cluster = RedisCluster::start(3, 0, &[]);
    count(&Network::before_nodes(&cluster, scheme).await, &expected).await;
}

#[tokio::test]
async fn redis() {
    on_one_server("redis", REDIS).await;
}

#[tokio::test]
async fn resp() {
    on_one_server("resp", PLAIN).await;
}

#[tokio::test]
async fn valkey() {
    on_one_server("valkey", PLAIN).await;
}

#[tokio::test]
async fn redis_over_tls() {
    over_tls("redis", REDIS).await;
}

#[tokio::test]
async fn resp_over_tls() {
    over_tls("resp", PLAIN).await;
}

/// The two values of most chunks lie on two nodes, which answer at the same time. A put asks for the old header first, and
/// writes the new one last, so it takes three round trips, one after the other. Two of them are on the connection that moves
/// headers. So are the two of `get_prefix`, which asks for the run before it reads the chunks.
#[tokio::test]
async fn redis_on_a_cluster() {
    on_a_cluster(
        "redis",
        Trips { exists: 2, get: 2, miss: 4, put: 3, remove: 2, ping: 3, batched_put: 2, get_prefix: 2 },
    )
    .await;
}

#[tokio::test]
async fn resp_on_a_cluster() {
    on_a_cluster("resp", Trips { ping: 3, ..PLAIN }).await;
}
