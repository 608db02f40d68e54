//! The memory that chunks are read into.
//!
//! No call waits for memory while it holds a connection. A batch reserves its memory at once, because two batches that
//! each hold a part would wait for each other:
//!
//! | the allocator | with the engine's metadata | without |
//! |---|---|---|
//! | has memory at once | a batch reserves full chunks; a single chunk takes memory when it comes | each chunk takes memory when it comes |
//! | may wait | reserves full chunks | asks for the lengths first |
//!
//! If that memory does not suffice, the call gives its memory back, asks for the lengths, and reserves exactly these.
//! The call does the same if reserved memory has another layout than the chunk, because LMCache's memory keeps its
//! layout. The next calls then ask for the lengths at once.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use connector_core::{
    CacheKey, ChunkLayout, ConnectorContext, Error, ErrorKind, LMCacheMetadata, LocalCpuBackend, MemoryObj,
    MemoryObjMut, Result,
};

/// The memory of a store's reads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Memory(Arc<Shared>);

struct Shared {
    backend: LocalCpuBackend,
    metadata: Option<Arc<LMCacheMetadata>>,
    /// Whether the allocator may wait or block.
    waits: bool,
    /// Whether a chunk came that did not have the layout of its reserved memory.
    is_irregular: AtomicBool,
}

/// Memory for one chunk, reserved or taken when the chunk comes. A read that fails keeps none of it.
pub(crate) struct Place {
    store: Memory,
    memory: Option<MemoryObjMut>,
}

/// A reserved block is exchanged for a smaller one if the chunk leaves at least this much of it unused.
const WORTH_A_CHANGE: usize = 64 << 10;

impl Memory {
    pub(crate) fn new(ctx: &ConnectorContext) -> Self {
        let backend = ctx.local_cpu_backend().clone();
        let (waits, is_irregular) = (backend.waits(), AtomicBool::new(false));
        Self(Arc::new(Shared { backend, metadata: ctx.metadata().cloned(), waits, is_irregular }))
    }

    /// The engine's description of its cache, if it gave one.
    #[cfg(any(feature = "__cloud", feature = "resp"))]
    pub(crate) fn metadata(&self) -> Option<&LMCacheMetadata> {
        self.0.metadata.as_deref()
    }

    /// A place that takes memory when the chunk comes. `None` if the allocator may wait.
    pub(crate) fn at_once(&self) -> Option<Place> {
        (!self.0.waits).then(|| self.place(None))
    }

    /// A place for each chunk. `None` if the batch must ask for the lengths first.
    ///
    /// # Errors
    /// `PoolFull` after the allocator has waited.
    pub(crate) async fn reserve_full(&self, keys: &[CacheKey]) -> Result<Option<Vec<Place>>> {
        // A layer's chunk is much shorter than the metadata's.
        let is_full = |key: &CacheKey| key.layer_id().is_none();
        let Some(metadata) = self.0.metadata.as_ref().filter(|_| keys.iter().all(is_full)) else {
            return Ok((!self.0.waits).then(|| keys.iter().map(|_| self.place(None)).collect()));
        };
        if self.0.waits && self.0.is_irregular.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let layouts = vec![metadata.chunk_layout().full.clone(); keys.len()];
        match self.0.backend.allocate_many(&layouts).await {
            Ok(memory) => Ok(Some(memory.into_iter().map(|memory| self.place(Some(memory))).collect())),
            Err(e) if self.0.waits && e.kind() == ErrorKind::PoolFull => Err(e),
            Err(_) => Ok(None),
        }
    }

    /// A place for each chunk of these layouts. `None` is a missing chunk.
    pub(crate) async fn reserve(&self, layouts: Vec<Result<Option<ChunkLayout>>>) -> Vec<Result<Place>> {
        let stored: Vec<ChunkLayout> = layouts.iter().flatten().flatten().cloned().collect();
        let mut reserved = self.0.backend.reserve(&stored).await.into_iter();
        let places = layouts.into_iter().map(|layout| match layout? {
            Some(_) => reserved.next().transpose().map(|memory| self.place(memory)),
            None => Ok(self.place(None)),
        });
        places.collect()
    }

    /// Whether a call must ask again, with reserved memory.
    pub(crate) fn is_short<T>(answer: &Result<T>) -> bool {
        answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::PoolFull)
    }

    /// Returns unused memory to the system.
    pub(crate) fn trim(&self) {
        self.0.backend.trim();
    }

    fn place(&self, memory: Option<MemoryObjMut>) -> Place {
        Place { store: self.clone(), memory }
    }
}

impl Place {
    /// The size of reserved memory; 0 if it is allocated for the chunk.
    pub(crate) fn capacity(&self) -> usize {
        self.memory.as_ref().map_or(0, MemoryObjMut::capacity)
    }

    /// The layout of reserved memory.
    #[cfg(feature = "redis")]
    pub(crate) fn layout(&self) -> Option<&ChunkLayout> {
        self.memory.as_ref().map(MemoryObjMut::layout)
    }

    /// The chunk of [`chunk`](Self::chunk), with a layout of the same length that came later.
    ///
    /// # Errors
    /// `PoolFull` for memory that keeps its layout, as LMCache's does.
    #[cfg(feature = "redis")]
    pub(crate) fn with_layout(&self, chunk: MemoryObj, layout: ChunkLayout) -> Result<MemoryObj> {
        if self.store.0.waits && *chunk.layout() != layout {
            self.store.0.is_irregular.store(true, Ordering::Relaxed);
            return Err(not_reserved());
        }
        chunk.with_layout(layout)
    }

    /// Gives reserved memory back: the server has no chunk.
    #[cfg(any(feature = "redis", feature = "resp"))]
    pub(crate) fn unused(&mut self) {
        self.memory = None;
    }

    /// Memory of this layout, reserved or new. `starts` waits for the chunk's first byte.
    ///
    /// # Errors
    /// The outer error comes from `starts`, the inner one from the memory.
    pub(crate) async fn memory(
        &mut self,
        layout: ChunkLayout,
        starts: impl Future<Output = Result<()>>,
    ) -> Result<Result<&mut MemoryObjMut>> {
        match self.find(&layout, starts).await? {
            Ok(memory) => {
                let memory = self.memory.insert(memory);
                Ok(memory.set_layout(layout).map(|()| memory))
            }
            Err(e) => Ok(Err(e)),
        }
    }

    /// The chunk that was read into the memory.
    ///
    /// # Errors
    /// `PoolFull` if the pool has no free memory.
    pub(crate) fn chunk(&mut self) -> Result<MemoryObj> {
        self.memory.take().map(MemoryObjMut::freeze).ok_or_else(not_reserved)
    }

    async fn find(
        &mut self,
        layout: &ChunkLayout,
        starts: impl Future<Output = Result<()>>,
    ) -> Result<Result<MemoryObjMut>> {
        if self.store.0.waits {
            let is_made_for = |memory: &mut MemoryObjMut| memory.layout() == layout;
            return Ok(self.memory.take_if(is_made_for).ok_or_else(|| {
                self.store.0.is_irregular.store(true, Ordering::Relaxed);
                not_reserved()
            }));
        }
        let reserved = self.capacity();
        if self.memory.is_none() || reserved < layout.len {
            // An announced length takes no memory before its first byte.
            starts.await?;
        } else if reserved - layout.len < WORTH_A_CHANGE.max(reserved / 4) {
            return Ok(self.memory.take().ok_or_else(not_reserved));
        }
        Ok(match (self.store.0.backend.try_allocate(layout), self.memory.take()) {
            (Some(Ok(exact)), _) => Ok(exact),
            (_, Some(memory)) if reserved >= layout.len => Ok(memory),
            (Some(Err(e)), _) => Err(e),
            (None, _) => Err(not_reserved()),
        })
    }
}

fn not_reserved() -> Error {
    Error::new(ErrorKind::PoolFull, "a chunk came that does not fit its reserved memory").temporary(true)
}

impl Drop for Place {
    /// The read failed, or was dropped.
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            memory.discard();
        }
    }
}
