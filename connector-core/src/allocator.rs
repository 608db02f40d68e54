//! The memory that `get` reads into.

mod pool;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::chunk::{ChunkLayout, MemoryObjMut};
use crate::config::LMCacheEngineConfig;
use crate::{Error, ErrorKind, Result};

pub use pool::{PoolAllocator, PoolStats};

/// A source of memory for chunks.
///
/// Each allocator decides how it waits for memory. A dropped future gives up its place and releases its memory.
///
/// # Errors of every method
/// `PoolFull`, marked [temporary](Error::is_temporary), if other chunks hold the memory now. `TooLarge` if the chunk is larger
/// than the whole pool. `Unsupported` for a layout that it cannot hold.
pub trait ChunkAllocator: Send + Sync + 'static {
    /// Memory for one chunk at once, without blocking. `None` if this allocator must wait or block: then call
    /// [`allocate`](Self::allocate).
    fn try_allocate(&self, layout: &ChunkLayout) -> Option<Result<MemoryObjMut>> {
        let _ = layout;
        None
    }

    /// Memory for one chunk. Its bytes are unspecified.
    fn allocate<'a>(&'a self, layout: &'a ChunkLayout) -> BoxFuture<'a, Result<MemoryObjMut>>;

    /// Memory for several chunks, all or none. An allocator must not hold a part of the memory while it waits for the rest,
    /// because two such batches would deadlock.
    fn allocate_many<'a>(&'a self, layouts: &'a [ChunkLayout]) -> BoxFuture<'a, Result<Vec<MemoryObjMut>>>;
}

/// The memory that a connector reads into: a handle over some [`ChunkAllocator`], by default a [`PoolAllocator`].
///
/// ```
/// # async fn f() -> connector_core::Result<()> {
/// use connector_core::{ChunkLayout, LocalCpuBackend};
/// let backend = LocalCpuBackend::with_capacity(64 << 20);
/// let mut chunk = backend.allocate(&ChunkLayout::binary(4 << 20)).await?;
/// chunk.fill(7);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LocalCpuBackend(Arc<dyn ChunkAllocator>);

impl LocalCpuBackend {
    /// A pool of `bytes` bytes. It takes memory from the system when needed, and keeps it.
    pub fn with_capacity(bytes: usize) -> Self {
        Self::with_allocator(PoolAllocator::new(bytes))
    }

    /// A pool of the size that LMCache's configuration gives (`max_local_cpu_size`, 5 GiB unless set).
    pub fn from_config(config: &LMCacheEngineConfig) -> Self {
        Self::with_capacity(config.max_local_cpu_bytes())
    }

    /// Memory of another allocator.
    pub fn with_allocator(allocator: impl ChunkAllocator) -> Self {
        Self(Arc::new(allocator))
    }

    /// Memory at once, or `None` if the allocator must wait or block: see [`ChunkAllocator::try_allocate`]. For work
    /// that already runs on a blocking thread.
    pub fn try_allocate(&self, layout: &ChunkLayout) -> Option<Result<MemoryObjMut>> {
        self.0.try_allocate(layout)
    }

    /// Memory for one chunk. Its bytes are unspecified.
    ///
    /// # Errors
    /// `PoolFull` and `TooLarge` with both sizes; see [`ChunkAllocator`].
    pub async fn allocate(&self, layout: &ChunkLayout) -> Result<MemoryObjMut> {
        match self.0.try_allocate(layout) {
            Some(answer) => answer,
            None => self.0.allocate(layout).await,
        }
    }

    /// Memory for several chunks, all or none.
    ///
    /// # Errors
    /// `PoolFull` and `TooLarge` with both sizes; see [`ChunkAllocator`].
    pub async fn allocate_many(&self, layouts: &[ChunkLayout]) -> Result<Vec<MemoryObjMut>> {
        self.0.allocate_many(layouts).await
    }
}

impl fmt::Debug for LocalCpuBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalCpuBackend(..)")
    }
}

/// The error for a chunk that needs `block` bytes while `room` of `capacity` are free.
fn no_memory(chunk: usize, block: usize, room: usize, capacity: usize) -> Error {
    if block > capacity {
        let message = format!("a chunk of {chunk} bytes is larger than the whole pool of {capacity} bytes");
        Error::new(ErrorKind::TooLarge, message).with_hint("raise `max_local_cpu_size`")
    } else {
        let message = format!("no memory for a chunk of {chunk} bytes: {room} of the pool's {capacity} bytes are free");
        Error::new(ErrorKind::PoolFull, message)
            .temporary(true)
            .with_hint("drop chunks that are no longer needed, or raise `max_local_cpu_size`")
    }
}
