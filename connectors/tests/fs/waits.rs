//! Calls that wait: for the ledger's lock, for a thread.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use connectors::{
    ChunkAllocator, ChunkLayout, Error, ErrorKind, LocalCpuBackend, MemoryObj, MemoryObjMut, PoolAllocator, Result,
};
use futures::future::{BoxFuture, FutureExt, join, join_all};

use super::{Place, files, key};

/// Holds the lock of the store's ledger until it is dropped.
fn hold(dir: &Path) -> File {
    let ledger = File::open(dir.join(".kvconn-quota")).unwrap();
    ledger.lock().unwrap();
    ledger
}

const NAME: &str = "fs-waits";

/// The threads of the runtime with that name.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == NAME)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_that_waits_for_the_ledgers_lock_ends_within_its_timeout() {
    let place = Place::new();
    let first = place.open("?capacity=100000").await;
    first.put(&key(0), MemoryObj::from(vec![1; 100])).await.unwrap();
    let store = place.open("?capacity=100000&timeout_ms=1000").await;
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

#[test]
fn cancelled_calls_hold_neither_threads_nor_memory() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).thread_name(NAME).enable_all().build().unwrap();
    runtime.block_on(runtime.spawn(cancel_many())).unwrap();
}

async fn cancel_many() {
    for options in ["", "?capacity=100000000"] {
        let place = Place::new();
        let pool = PoolAllocator::new(64 << 20);
        let backend = LocalCpuBackend::with_allocator(pool.clone());
        let store = connectors::builder(&place.url(options)).local_cpu_backend(backend.clone()).open().await.unwrap();
        store.put(&key(0), MemoryObj::from(vec![1; 100])).await.unwrap();
        let held = options.contains("capacity").then(|| hold(&place.dir()));
        let (new, missing) = (key(1), key(2));
        let mut most = 0;
        for n in 0..5000 {
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
        // A thread counts until it has gone idle after its work, so a few more than 32 are there at times.
        assert!(most > 0 && most <= 150, "{options}: {most} threads");
        // Without the lock.
        store.close().await.unwrap();
        drop(held);
        assert_eq!(pool.stats().in_use, 0, "{options}");
        let left: Vec<_> = files(&place.dir()).into_iter().filter(|name| name.ends_with(".tmp")).collect();
        assert!(left.is_empty(), "{options}: {left:?}");
    }
}

/// Waits until a pool has memory, for ever if need be.
#[derive(Clone)]
struct Waiting(PoolAllocator);

impl ChunkAllocator for Waiting {
    fn allocate<'a>(&'a self, layout: &'a ChunkLayout) -> BoxFuture<'a, Result<MemoryObjMut>> {
        async move { self.allocate_many(std::slice::from_ref(layout)).await?.pop().ok_or_else(Error::closed) }.boxed()
    }

    fn allocate_many<'a>(&'a self, layouts: &'a [ChunkLayout]) -> BoxFuture<'a, Result<Vec<MemoryObjMut>>> {
        async move {
            loop {
                match self.0.allocate_many(layouts).await {
                    Err(e) if e.kind() == ErrorKind::PoolFull => tokio::time::sleep(Duration::from_millis(1)).await,
                    done => return done,
                }
            }
        }
        .boxed()
    }

    fn fitting(&self, layouts: &[ChunkLayout]) -> usize {
        self.0.fitting(layouts)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_batches_that_each_fit_do_not_wait_for_each_other() {
    const MIB: usize = 1 << 20;
    let place = Place::new();
    let pool = PoolAllocator::new(8 * MIB);
    let backend = LocalCpuBackend::with_allocator(Waiting(pool.clone()));
    let url = place.url("?save_chunk_meta=false");
    let store = connectors::builder(&url).local_cpu_backend(backend).open().await.unwrap();
    let keys: Vec<_> = (0..14).map(key).collect();
    let items: Vec<_> = keys.iter().map(|key| (key.clone(), MemoryObj::from(vec![3; MIB]))).collect();
    store.batched_put(&items).await.into_iter().collect::<Result<()>>().unwrap();
    let all = async |keys: &[connectors::CacheKey]| {
        let found = store.batched_get(keys).await.into_iter().collect::<Result<Vec<_>>>().unwrap();
        assert!(found.iter().all(|found| found.as_ref().is_some_and(|found| found.len() == MIB)));
    };
    let rounds = async {
        for _ in 0..20 {
            join(all(&keys[..7]), all(&keys[7..])).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), rounds).await.expect("no deadlock");

    // A batch that is larger than the pool gets its leading chunks, also if the pool does not wait.
    let backend = LocalCpuBackend::with_allocator(pool.clone());
    let at_once = connectors::builder(&url).local_cpu_backend(backend).open().await.unwrap();
    for store in [store, at_once] {
        let mut found = store.batched_get(&keys).await;
        let rest = found.split_off(8);
        assert!(found.iter().all(|found| matches!(found, Ok(Some(_)))), "{found:?}");
        assert!(rest.iter().all(|rest| rest.as_ref().is_err_and(|e| e.kind() == ErrorKind::PoolFull)), "{rest:?}");
        drop(found);
        assert_eq!(pool.stats().in_use, 0);
    }
}

#[tokio::test]
async fn a_chunk_larger_than_the_pool_or_the_store_keeps_to_its_own_item() {
    let place = Place::new();
    let backend = LocalCpuBackend::with_capacity(100_000);
    let open = async |options| {
        let url = place.url(options);
        connectors::builder(&url).local_cpu_backend(backend.clone()).open().await.unwrap()
    };
    let items: Vec<_> =
        [100, 200_000, 300].into_iter().zip(0..).map(|(len, n)| (key(n), MemoryObj::from(vec![1; len]))).collect();
    let keys: Vec<_> = items.iter().map(|(key, _)| key.clone()).collect();
    let kinds = |e: Error| e.kind();
    let put = open("?capacity=150000").await.batched_put(&items).await;
    let put: Vec<_> = put.into_iter().map(|put| put.map_err(kinds)).collect();
    assert_eq!(put, [Ok(()), Err(ErrorKind::TooLarge), Ok(())]);
    let store = open("").await;
    store.batched_put(&items).await.into_iter().collect::<Result<()>>().unwrap();
    let found = store.batched_get(&keys).await;
    let found: Vec<_> = found.into_iter().map(|found| found.map(|found| found.unwrap().len()).map_err(kinds)).collect();
    assert_eq!(found, [Ok(100), Err(ErrorKind::TooLarge), Ok(300)]);
}
