//! Records the threads that take memory. A chunk without metadata gets its memory on the thread that reads it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use connectors::{ChunkAllocator, ChunkLayout, LocalCpuBackend, MemoryObjMut, PoolAllocator, Result};
use futures::future::BoxFuture;

/// The threads that have taken memory.
pub(crate) type Threads = Arc<Mutex<HashSet<ThreadId>>>;

/// A pool of 64 MiB, and the threads that take its memory.
pub(crate) fn backend() -> (LocalCpuBackend, Threads) {
    let threads = Threads::default();
    (LocalCpuBackend::with_allocator(Recorder(PoolAllocator::new(64 << 20), threads.clone())), threads)
}

struct Recorder(PoolAllocator, Threads);

impl ChunkAllocator for Recorder {
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
