//! Calls that wait: for the ledger's lock, for a thread.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use connectors::{ErrorKind, LocalCpuBackend, MemoryObj, PoolAllocator};
use futures::future::join_all;

use super::{Place, files, key};

/// Holds the lock of the store's ledger until it is dropped.
fn hold(dir: &Path) -> File {
    let ledger = File::open(dir.join(".kvconn-quota")).unwrap();
    ledger.lock().unwrap();
    ledger
}

/// The threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_that_waits_for_the_ledgers_lock_ends_within_its_timeout() {
    let place = Place::new();
    let store = place.open("?capacity=100000&timeout_ms=300").await;
    store.put(&key(0), MemoryObj::from(vec![1; 100])).await.unwrap();
    let held = hold(&place.dir());
    let start = Instant::now();
    let (others, store) = (1..5, &store);
    let puts = others.map(async |n| store.put(&key(n), MemoryObj::from(vec![1; 100])).await);
    for put in join_all(puts).await {
        assert_eq!(put.unwrap_err().kind(), ErrorKind::Timeout);
    }
    assert_eq!(store.remove(&key(0)).await.unwrap_err().kind(), ErrorKind::Timeout);
    let items: Vec<_> = (0..20).map(|n| (key(n), MemoryObj::from(vec![1; 100]))).collect();
    assert!(store.batched_put(&items).await.iter().all(Result::is_err));
    // Reads need no lock.
    assert!(store.get(&key(0)).await.unwrap().is_some());
    store.close().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(15), "nothing waits for 30 seconds");
    drop(held);
    let store = place.open("?capacity=100000").await;
    store.put(&key(1), MemoryObj::from(vec![1; 100])).await.unwrap();
    assert_eq!(files(&place.dir()).iter().filter(|name| name.ends_with(".tmp")).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_calls_hold_neither_threads_nor_memory() {
    for options in ["?capacity=100000000", ""] {
        let place = Place::new();
        let pool = PoolAllocator::new(64 << 20);
        let backend = LocalCpuBackend::with_allocator(pool.clone());
        let store = connectors::builder(&place.url(options)).local_cpu_backend(backend.clone()).open().await.unwrap();
        store.put(&key(0), MemoryObj::from(vec![1; 100])).await.unwrap();
        let held = options.contains("capacity").then(|| hold(&place.dir()));
        let (new, missing) = (key(1), key(2));
        let before = threads();
        let mut most = 0;
        for n in 0..3000 {
            let Ok(memory) = backend.allocate(&connectors::ChunkLayout::binary(64 << 10)).await else {
                panic!("{n} cancelled calls hold {:?}", pool.stats())
            };
            let mut put = Box::pin(store.put(&new, memory.freeze()));
            let _ = futures::poll!(&mut put);
            drop(put);
            let mut remove = Box::pin(store.remove(&missing));
            let _ = futures::poll!(&mut remove);
            drop(remove);
            if n % 100 == 0 {
                most = most.max(threads());
            }
        }
        assert!(most < before + 40, "{options}: {before} threads became {most}");
        // Without the lock.
        store.close().await.unwrap();
        drop(held);
        assert_eq!(pool.stats().in_use, 0, "{options}");
        let left: Vec<_> = files(&place.dir()).into_iter().filter(|name| name.ends_with(".tmp")).collect();
        assert!(left.is_empty(), "{options}: {left:?}");
    }
}
