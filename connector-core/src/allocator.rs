//! The memory that `get` reads into.

mod pool;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::chunk::{ChunkLayout, MemoryObjMut};
use crate::config::LMCacheEngineConfig;
use crate::layer::local_wait;
use crate::{Error, ErrorKind, ErrorStatus, Hint, Result};

pub use pool::{PoolAllocator, PoolStats};
pub(crate) use pool::{PoolRegion, pool_totals};

/// A source of memory for chunks.
///
/// Each allocator decides how it waits for memory. A dropped future gives up its place and releases its memory.
///
/// # Errors of every method
/// `PoolFull`, marked [temporary](Error::is_temporary), if other chunks hold the memory now. `TooLarge` if the chunk,
/// or all chunks of [`allocate_many`](Self::allocate_many) together, are larger than the whole pool. `Unsupported` for
/// a layout that it cannot hold.
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

    /// The number of leading chunks that fit into the whole memory together, if nothing else uses it. All of them if
    /// the allocator does not know its size.
    fn fitting(&self, layouts: &[ChunkLayout]) -> usize {
        layouts.len()
    }

    /// Returns memory that no chunk uses to the system.
    fn trim(&self) {}
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
            None => local_wait(self.0.allocate(layout)).await,
        }
    }

    /// Whether a call for memory may wait or block, so that [`try_allocate`](Self::try_allocate) gives `None`.
    pub fn waits(&self) -> bool {
        match self.0.try_allocate(&ChunkLayout::binary(0)) {
            Some(Ok(memory)) => {
                // The pool must not keep memory that no chunk needed.
                memory.discard();
                false
            }
            Some(Err(_)) => false,
            None => true,
        }
    }

    /// Memory for the chunks of a batch, which a store reads into.
    ///
    /// Takes all memory at once. The batch may need more than the whole pool, or other chunks may hold memory for too
    /// long. Then only the leading chunks that fit get memory.
    ///
    /// A batch calls this before it takes a connection, a thread or a lock, and while it holds no other memory.
    /// Otherwise a call that waits for memory would stop the calls that give it back.
    ///
    /// # Errors
    /// Of a chunk: `TooLarge` if it is larger than the whole pool. `PoolFull` if other calls hold the memory.
    /// `PoolFull` with the status [`Persistent`](crate::ErrorStatus::Persistent) if the batch's own leading chunks hold
    /// it.
    pub async fn reserve(&self, layouts: &[ChunkLayout]) -> Vec<Result<MemoryObjMut>> {
        let fits_alone = |layout: &ChunkLayout| self.0.fitting(std::slice::from_ref(layout)) == 1;
        let possible: Vec<ChunkLayout> = layouts.iter().filter(|layout| fits_alone(layout)).cloned().collect();
        let (now, over) = possible.split_at(self.0.fitting(&possible));
        let mut memory: Vec<_> = match self.allocate_many(now).await {
            Ok(memory) => memory.into_iter().map(Ok).collect(),
            Err(e) => self.leading(now, &e),
        };
        memory.extend(over.iter().map(|layout| Err(over_capacity(layout))));
        if possible.len() == layouts.len() {
            return memory;
        }
        let (mut memory, mut answers) = (memory.into_iter(), Vec::with_capacity(layouts.len()));
        for layout in layouts {
            if fits_alone(layout) {
                answers.extend(memory.next());
            } else {
                // The allocator's own error, with both sizes.
                answers.push(self.allocate(layout).await);
            }
        }
        answers
    }

    /// Memory for the leading chunks that get it at once, and `e` for the others.
    fn leading(&self, layouts: &[ChunkLayout], e: &Error) -> Vec<Result<MemoryObjMut>> {
        let at_once = |layout| self.0.try_allocate(layout).and_then(Result::ok);
        let memory = layouts.iter().map_while(at_once).map(Ok);
        memory.chain(std::iter::repeat_with(|| Err(e.clone()))).take(layouts.len()).collect()
    }

    /// Returns memory that no chunk uses to the system. A store calls this when it closes.
    pub fn trim(&self) {
        self.0.trim();
    }

    /// Memory for several chunks, all or none.
    ///
    /// # Errors
    /// `PoolFull` and `TooLarge` with both sizes; see [`ChunkAllocator`].
    pub async fn allocate_many(&self, layouts: &[ChunkLayout]) -> Result<Vec<MemoryObjMut>> {
        local_wait(self.0.allocate_many(layouts)).await
    }
}

impl fmt::Debug for LocalCpuBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalCpuBackend(..)")
    }
}

/// The error for chunks that need blocks of `wanted` bytes while `room` of `capacity` are free.
fn no_memory(layouts: &[ChunkLayout], wanted: usize, room: usize, capacity: usize) -> Error {
    let bytes = layouts.iter().fold(0_usize, |sum, layout| sum.saturating_add(layout.len));
    let what = match layouts.len() {
        1 => format!("a chunk of {bytes} bytes"),
        n => format!("{n} chunks of {bytes} bytes"),
    };
    if wanted > capacity {
        let (are, hint) = match layouts.len() {
            1 => ("is", larger_pool("")),
            _ => ("are", larger_pool(FEWER_CHUNKS)),
        };
        let message = format!("{what} {are} larger than the whole pool of {capacity} bytes");
        Error::new(ErrorKind::TooLarge, message).with_hint(hint)
    } else {
        let message = format!("no memory for {what}: {room} of the pool's {capacity} bytes are free");
        Error::new(ErrorKind::PoolFull, message)
            .temporary(true)
            .with_hint(larger_pool("drop chunks that are no longer needed, or "))
    }
}

/// The error for a chunk of a batch whose leading chunks fill the whole pool. No retry helps while the batch holds
/// them.
fn over_capacity(layout: &ChunkLayout) -> Error {
    let message = format!("no memory for a chunk of {} bytes: the chunks before it fill the whole pool", layout.len);
    Error::new(ErrorKind::PoolFull, message).with_status(ErrorStatus::Persistent).with_hint(larger_pool(FEWER_CHUNKS))
}

const FEWER_CHUNKS: &str = "ask for fewer chunks at a time, or ";

/// How to get a larger pool, after another way out.
fn larger_pool(instead: &str) -> Hint {
    Hint::each(
        format!("{instead}raise `max_local_cpu_size`, or the capacity of the `LocalCpuBackend`"),
        format!("{instead}raise `pool_bytes`"),
        format!("{instead}raise `max_local_cpu_size` in the file of `--config`"),
    )
}
