//! Memory and allocations of listings and batches with many keys.
#![expect(unsafe_code, reason = "the counter is the global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use connectors::{CacheKey, Connector, MemoryObj, MemoryObjMut};
use futures::StreamExt;
use kvconn_redis_server::{RedisCluster, RedisServer};

struct Counting;

/// The bytes of all threads that are allocated, and the most of them.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Relaxed);
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller keeps `alloc`'s promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps `dealloc`'s promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The tests count the bytes of all threads, so they run one after another.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The allocations of a call: their number, the bytes at the peak, and the bytes that it kept.
struct Used {
    count: usize,
    peak: usize,
    kept: isize,
}

async fn used<T>(call: impl Future<Output = T>) -> (T, Used) {
    let (count, live) = (COUNT.load(Relaxed), LIVE.load(Relaxed));
    PEAK.store(live, Relaxed);
    let value = call.await;
    let peak = PEAK.load(Relaxed).saturating_sub(live);
    let kept = LIVE.load(Relaxed) as isize - live as isize;
    (value, Used { count: COUNT.load(Relaxed) - count, peak, kept })
}

fn key(n: usize) -> CacheKey {
    format!("org/model@1@0@{n:016x}@bfloat16").parse().expect("a key")
}

fn keys(n: usize) -> Vec<CacheKey> {
    (0..n).map(key).collect()
}

async fn open(url: &str) -> Connector {
    connectors::open(url).await.unwrap_or_else(|e| panic!("the store opens: {e}"))
}

/// Puts the chunks of these keys, 1000 at a time.
async fn fill(store: &Connector, keys: &[CacheKey]) {
    let chunk = MemoryObj::from(vec![7; 16]);
    for part in keys.chunks(1000) {
        let items: Vec<_> = part.iter().map(|key| (key.clone(), chunk.clone())).collect();
        store.batched_put(&items).await.into_iter().for_each(|put| put.expect("it fits"));
    }
}

/// Counts the entries of a listing.
async fn listed(store: &Connector) -> (usize, Used) {
    used(store.list_entries("").map(|entry| entry.expect("it lists")).count()).await
}

#[tokio::test]
async fn a_listing_of_redis_takes_the_same_memory_for_any_number_of_keys() {
    let _alone = ALONE.lock().await;
    for scheme in ["redis", "resp"] {
        let server = RedisServer::start(&[]);
        let store = open(&server.url(scheme)).await;
        let keys = keys(24_000);
        fill(&store, &keys[..4_000]).await;
        listed(&store).await;
        let few = listed(&store).await;
        fill(&store, &keys[4_000..]).await;
        let many = listed(&store).await;
        println!("{scheme}: {} bytes for {} keys, {} for {}", few.1.peak, few.0, many.1.peak, many.0);
        assert_eq!((few.0, many.0), (4_000, 24_000));
        // The hashes of the last keys take up to 300 kB. All keys would take 4 MB.
        assert!(many.1.peak < few.1.peak + (512 << 10), "{scheme}: {} and {} bytes", few.1.peak, many.1.peak);
    }
}

#[tokio::test]
#[ignore = "slow: ./tests/run --full runs it"]
async fn a_listing_of_a_million_keys_takes_no_more_memory() {
    let _alone = ALONE.lock().await;
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    let keys = keys(1_000_000);
    fill(&store, &keys[..24_000]).await;
    listed(&store).await;
    let few = listed(&store).await;
    fill(&store, &keys[24_000..]).await;
    let many = listed(&store).await;
    println!("{} bytes for {} keys, {} for {}", few.1.peak, few.0, many.1.peak, many.0);
    assert_eq!(many.0, 1_000_000);
    assert!(many.1.peak < few.1.peak + (256 << 10), "{} and {} bytes", few.1.peak, many.1.peak);
}

#[tokio::test]
async fn a_listing_of_tiered_takes_at_most_100_bytes_for_a_chunk_of_the_front() {
    let _alone = ALONE.lock().await;
    let store = open("tiered://?front=memory://&back=memory://").await;
    let n = 20_000;
    fill(&store, &keys(n)).await;
    let (found, used) = listed(&store).await;
    println!("{} bytes a key", used.peak / n);
    assert_eq!(found, n);
    // `tiered` remembers the keys of the front. The listing of each `memory` has a slice of 4096 keys.
    assert!(used.peak <= 100 * n, "{} bytes a key", used.peak / n);
}

#[tokio::test]
async fn stores_keep_few_bytes_for_a_chunk() {
    let _alone = ALONE.lock().await;
    let n = 20_000;
    // `tiered` and `audit` are over a store that keeps nothing.
    for (url, most) in [
        ("memory://", 400),
        ("tiered://?front=blackhole://a&back=blackhole://b", 1),
        ("tiered://?front=blackhole://a&back=blackhole://b&mode=write_back", 1),
        ("audit://?actual_remote_url=blackhole://a", 1),
        // Up to `max_checksums` of them.
        ("audit://?actual_remote_url=blackhole://a&verify=true", 400),
    ] {
        let store = open(url).await;
        fill(&store, &keys(2000)).await;
        let ((), used) = used(async { fill(&store, &keys(n)).await }).await;
        let each = used.kept / n as isize;
        println!("{url}: {each} bytes a chunk");
        assert!(each <= most, "{url}: {each} bytes a chunk");
    }
}

/// The allocations, and the bytes at the peak, of each call with `n` keys.
async fn calls(store: &Connector, n: usize) -> Vec<(&'static str, Used)> {
    let keys = keys(n);
    let chunk = MemoryObj::from(vec![7; 16]);
    let items: Vec<_> = keys.iter().map(|key| (key.clone(), chunk.clone())).collect();
    let mut requests: Vec<_> = keys.iter().map(|key| (key.clone(), MemoryObjMut::zeroed(16))).collect();
    let mut all = Vec::new();
    let (put, u) = used(store.batched_put(&items)).await;
    put.into_iter().for_each(|put| put.expect("it fits"));
    all.push(("put", u));
    let (exist, u) = used(store.batched_exists(&keys)).await;
    assert!(exist.into_iter().all(|exists| exists.expect("an answer")));
    all.push(("exists", u));
    let (run, u) = used(store.batched_contains(&keys)).await;
    assert_eq!(run.expect("an answer"), n);
    all.push(("contains", u));
    let (got, u) = used(store.batched_get(&keys)).await;
    assert!(got.into_iter().all(|got| got.expect("an answer").as_deref() == Some(&chunk[..])));
    all.push(("get", u));
    let (got, u) = used(store.batched_get_into(&mut requests)).await;
    assert!(got.into_iter().all(|got| got.expect("an answer") == Some(16)));
    all.push(("get_into", u));
    let (run, u) = used(store.get_prefix(&keys)).await;
    assert_eq!(run.expect("an answer").len(), n);
    all.push(("get_prefix", u));
    let (removed, u) = used(store.batched_remove(&keys)).await;
    assert!(removed.into_iter().all(|removed| removed.expect("an answer")));
    all.push(("remove", u));
    all
}

/// A batch of 10,000 keys allocates about ten times as much as one of 1000.
async fn batches_are_linear(urls: &[String]) {
    let _alone = ALONE.lock().await;
    for url in urls {
        let store = open(url).await;
        calls(&store, 1000).await;
        let few = calls(&store, 1000).await;
        let many = calls(&store, 10_000).await;
        for ((call, few), (_, many)) in few.into_iter().zip(many) {
            println!(
                "{url} {call}: {} allocations and {} bytes a key, and {} and {} with 1000 keys",
                many.count / 10_000,
                many.peak / 10_000,
                few.count / 1000,
                few.peak / 1000
            );
            // 1000 for the connections and tasks that a longer batch adds.
            assert!(many.count <= 11 * few.count + 1000, "{url} {call}: {} and {}", few.count, many.count);
            // A list that grows has room for up to twice its entries. Quadratic memory would be 100 times as much.
            assert!(many.peak <= 20 * few.peak + (64 << 10), "{url} {call}: {} and {} bytes", few.peak, many.peak);
        }
    }
}

#[tokio::test]
async fn a_batch_of_10000_keys_allocates_ten_times_as_much_as_one_of_1000() {
    let server = RedisServer::start(&[]);
    let tiered = "tiered://?front=memory://&back=memory://&mode=write_back".into();
    batches_are_linear(&["memory://".into(), server.url("redis"), tiered]).await;
}

#[tokio::test]
#[ignore = "slow: ./tests/run --full runs it"]
async fn a_batch_of_10000_keys_is_linear_in_every_store() {
    let (server, cluster, dir) =
        (RedisServer::start(&[]), RedisCluster::start(3, 0, &[]), tempfile::tempdir().unwrap());
    let urls = [
        format!("fs://{}", dir.path().display()),
        server.url("resp"),
        format!("{}?cluster=true", cluster.url("resp")),
        cluster.url("redis-cluster"),
        "tiered://?front=memory://&back=memory://".into(),
    ];
    batches_are_linear(&urls).await;
}
