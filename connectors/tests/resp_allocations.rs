//! Counts the allocations of a call to a redis server on the calling thread. They are a few small blocks, and never
//! as long as a chunk: chunks go straight between the socket and their memory.
#![expect(unsafe_code, reason = "the counter is the global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use connectors::{CacheKey, Connector, MemoryObj, MemoryObjMut};
use kvconn_redis_server::RedisServer;

struct Counting;

thread_local! {
    // Counts only this thread: other threads wait for the sockets.
    static COUNT: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (count, bytes) = COUNT.get();
        COUNT.set((count + 1, bytes + layout.size()));
        // SAFETY: the caller keeps `alloc`'s promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of a call, and their bytes.
async fn allocations<T>(call: impl Future<Output = T>) -> (T, usize, usize) {
    let (count, bytes) = COUNT.get();
    let value = call.await;
    let (count_after, bytes_after) = COUNT.get();
    (value, count_after - count, bytes_after - bytes)
}

const MIB: usize = 1 << 20;
const BATCH: usize = 32;

fn key(n: usize) -> CacheKey {
    format!("org/model@1@0@{n:x}@bfloat16").parse().expect("a key")
}

struct Counted {
    put: (usize, usize),
    get: (usize, usize),
    get_into: (usize, usize),
    exists: (usize, usize),
    /// The allocations for one chunk of a batch, rounded up.
    batched_get_into: (usize, usize),
    /// The allocations for one key of a batch, rounded up.
    batched_exists: (usize, usize),
}

/// The second call of each kind: the first ones open connections and register metrics.
async fn count(store: &Connector) -> Counted {
    let mut counted = None;
    let chunk = MemoryObj::from((0..MIB).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
    let mut memory: Vec<_> = (0..BATCH).map(|n| (key(n), MemoryObjMut::zeroed(MIB))).collect();
    let keys: Vec<_> = (0..BATCH).map(key).collect();
    for n in 0..BATCH {
        store.put(&key(n), chunk.clone()).await.unwrap();
    }
    for _ in 0..2 {
        let put = allocations(store.put(&keys[0], chunk.clone())).await;
        put.0.unwrap();
        let got = allocations(store.get(&keys[0])).await;
        assert_eq!(got.0.unwrap().as_deref(), Some(&chunk[..]));
        let read = allocations(store.get_into(&keys[0], &mut memory[0].1)).await;
        assert_eq!(read.0.unwrap(), Some(MIB));
        let there = allocations(store.exists(&keys[0])).await;
        assert!(there.0.unwrap());
        let batch = allocations(store.batched_get_into(&mut memory)).await;
        assert!(batch.0.into_iter().all(|answer| answer.unwrap() == Some(MIB)));
        let asked = allocations(store.batched_exists(&keys)).await;
        assert!(asked.0.into_iter().all(|answer| answer.unwrap()));
        counted = Some(Counted {
            put: (put.1, put.2),
            get: (got.1, got.2),
            get_into: (read.1, read.2),
            exists: (there.1, there.2),
            batched_get_into: (batch.1.div_ceil(BATCH), batch.2.div_ceil(BATCH)),
            batched_exists: (asked.1.div_ceil(BATCH), asked.2.div_ceil(BATCH)),
        });
    }
    counted.expect("two rounds")
}

/// Bytes that a call may allocate for its future, request and answer.
const BYTES: usize = 8 << 10;

impl Counted {
    /// Each limit is one above the measured number, except for `batched_exists`.
    #[track_caller]
    fn is_at_most(&self, [put, get, get_into, exists, batched_get_into, batched_exists]: [usize; 6]) {
        for (what, counted, calls) in [
            ("put", self.put, put),
            ("get", self.get, get),
            ("get_into", self.get_into, get_into),
            ("exists", self.exists, exists),
            ("a chunk of batched_get_into", self.batched_get_into, batched_get_into),
            ("a key of batched_exists", self.batched_exists, batched_exists),
        ] {
            println!("{what}: {} allocations, {} bytes", counted.0, counted.1);
            assert!(counted.0 <= calls && counted.1 <= BYTES, "{what}: {counted:?}, over {calls} or {BYTES} bytes");
        }
    }
}

#[tokio::test]
async fn resp_allocates_little_and_never_a_chunk() {
    let server = RedisServer::start(&[]);
    count(&connectors::open(&server.url("resp")).await.unwrap()).await.is_at_most([8, 7, 6, 6, 6, 2]);
}

#[tokio::test]
async fn redis_allocates_little_and_never_a_chunk() {
    let server = RedisServer::start(&[]);
    count(&connectors::open(&server.url("redis")).await.unwrap()).await.is_at_most([10, 9, 7, 9, 8, 4]);
}
