//! Futures that are dropped at any await.

use std::time::Duration;

use connectors::{LocalCpuBackend, MemoryObj, PoolAllocator};

use super::{Place, Random, bytes, files, key, keys};

const KEYS: u64 = 16;
const VERSIONS: u64 = 4;

/// Starts gets, puts and get_intos, drops most of them after a few polls, and checks that every value is whole.
async fn drop_many(place: Place, options: &str, times: u64) {
    let pool = PoolAllocator::new(32 << 20);
    let backend = LocalCpuBackend::with_allocator(pool.clone());
    let store = connectors::builder(&place.url(options)).local_cpu_backend(backend.clone()).open().await.unwrap();
    let values: Vec<Vec<Vec<u8>>> = (0..KEYS)
        .map(|k| (0..VERSIONS).map(|v| bytes((k * 4096 + v * 1000) as usize, (k * 10 + v) as u32)).collect())
        .collect();
    let mut random = Random::new(20_260_101);
    for _ in 0..times {
        let (k, version) = (random.below(KEYS), random.below(VERSIONS) as usize);
        let (key, versions) = (key(k as u32), &values[k as usize]);
        let is_one = |found: &[u8]| versions.iter().any(|value| value == found);
        // One of eight runs to its end.
        let polls = if random.below(8) == 0 { u64::MAX } else { random.below(4) };
        let mut memory = backend.allocate(&connectors::ChunkLayout::binary(70_000)).await.unwrap();
        match random.below(3) {
            0 => drop(some_polls(store.put(&key, MemoryObj::from(versions[version].clone())), polls).await),
            1 => {
                if let Some(found) = some_polls(store.get(&key), polls).await {
                    assert!(found.unwrap().is_none_or(|found| is_one(&found)), "a get of key {k}");
                }
            }
            _ => {
                if let Some(found) = some_polls(store.get_into(&key, &mut memory), polls).await {
                    assert!(found.unwrap().is_none_or(|len| len == memory.len() && is_one(&memory)), "key {k}");
                }
            }
        }
    }
    for (k, versions) in values.iter().enumerate() {
        let found = store.get(&key(k as u32)).await.unwrap().expect("some put of it ended");
        assert!(versions.iter().any(|value| *value == *found), "key {k} is whole");
    }
    assert_eq!(keys(&store, "").await.len(), KEYS as usize);
    let closed = tokio::time::timeout(Duration::from_secs(60), store.close()).await;
    closed.expect("nothing hangs").unwrap();
    assert_eq!(pool.stats().in_use, 0);
    let left: Vec<_> = files(&place.dir()).into_iter().filter(|name| name.ends_with(".tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The future's answer, if it is ready after at most `polls` polls.
async fn some_polls<T>(future: impl Future<Output = T>, polls: u64) -> Option<T> {
    let mut future = Box::pin(future);
    if polls == u64::MAX {
        return Some(future.await);
    }
    for _ in 0..polls {
        if let std::task::Poll::Ready(answer) = futures::poll!(&mut future) {
            return Some(answer);
        }
        tokio::task::yield_now().await;
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_dropped_futures_tear_no_chunk_and_leave_no_file_or_memory() {
    drop_many(Place::new(), "", 10_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_futures_on_tmpfs_tear_no_chunk_and_leave_no_file_or_memory() {
    drop_many(Place(tempfile::tempdir_in("/dev/shm").unwrap()), "", 3_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_futures_with_options_tear_no_chunk_and_leave_no_file_or_memory() {
    for options in ["?capacity=9000000", "?save_chunk_meta=false&use_odirect=true"] {
        drop_many(Place::new(), options, 2_000).await;
    }
}

#[test]
fn a_listing_that_is_held_and_not_polled_holds_no_thread() {
    use futures::StreamExt;
    let place = Place::new();
    let key = |n: u32| -> connectors::CacheKey { format!("m@1@0@{n:x}@half").parse().unwrap() };
    // One blocking thread: a listing that held it would block everything else.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        let store = place.open("").await;
        store.put(&key(0), MemoryObj::from(vec![1])).await.unwrap();
        for n in 1..3000 {
            let name = |n| place.dir().join(format!("m@1@0@{n:x}@half.data"));
            std::fs::hard_link(name(0), name(n)).unwrap();
        }
        let mut held = store.list("");
        assert!(held.next().await.unwrap().is_ok());
        assert_eq!(store.list("").count().await, 3000);
        assert_eq!(store.batched_get(&[key(7), key(8)]).await.into_iter().flatten().flatten().count(), 2);
        assert_eq!(held.count().await, 2999);
    });
}
