//! The threads that move one batch.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use connectors::{ChunkAllocator, ChunkLayout, LocalCpuBackend, MemoryObjMut, PoolAllocator, Result};
use futures::future::BoxFuture;

use super::*;

/// Records which threads take memory: the thread that reads a chunk does.
struct Seen(PoolAllocator, Arc<Mutex<HashSet<ThreadId>>>);

impl ChunkAllocator for Seen {
    fn try_allocate(&self, layout: &ChunkLayout) -> Option<Result<MemoryObjMut>> {
        self.1.lock().unwrap().insert(thread::current().id());
        self.0.try_allocate(layout)
    }

    fn allocate<'a>(&'a self, layout: &'a ChunkLayout) -> BoxFuture<'a, Result<MemoryObjMut>> {
        self.0.allocate(layout)
    }

    fn allocate_many<'a>(&'a self, layouts: &'a [ChunkLayout]) -> BoxFuture<'a, Result<Vec<MemoryObjMut>>> {
        self.0.allocate_many(layouts)
    }
}

#[tokio::test]
async fn the_runtimes_threads_move_a_batch_even_if_the_caller_has_one_thread() {
    let fake = server();
    let seen = Arc::new(Mutex::new(HashSet::new()));
    let backend = LocalCpuBackend::with_allocator(Seen(PoolAllocator::new(64 << 20), seen.clone()));
    let store = connectors::builder(&url_at(&fake.endpoint(), "")).local_cpu_backend(backend).open().await.unwrap();
    let items: Vec<_> = (0..16).map(|n| (key(n), MemoryObj::from(bytes(MIB, n as usize)))).collect();
    assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
    let keys: Vec<_> = items.iter().map(|(key, _)| key.clone()).collect();
    // Objects may come one after the other. In a hundred batches, some come at the same time.
    for _ in 0..100 {
        let chunks = store.batched_get(&keys).await;
        assert!(chunks.iter().zip(&items).all(|(chunk, (_, put))| chunk.as_ref().unwrap().as_ref() == Some(put)));
        if seen.lock().unwrap().len() > 1 {
            return;
        }
    }
    panic!("one thread moves every chunk");
}
