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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use connector_core::{
    CacheKey, ChunkLayout, ConnectorContext, Error, ErrorKind, LMCacheMetadata, LocalCpuBackend, MemoryObj,
    MemoryObjMut, Result,
};

use super::connection::Connection;

/// The memory that a chunk is read into.
pub(crate) trait Destination: Send {
    /// The result: the chunk, or its length if it is in the caller's memory.
    type Chunk: Send;

    /// The size of memory that exists before the answer; 0 if it is allocated for the answer.
    fn capacity(&self) -> usize;

    /// The server answered without a chunk.
    fn unused(&mut self) {}

    /// Reads the announced payload, which has the layout's length.
    ///
    /// # Errors
    /// The outer error comes from the connection, the inner one from the memory.
    fn read(
        &mut self,
        connection: &mut Connection,
        layout: ChunkLayout,
    ) -> impl Future<Output = Result<Result<Self::Chunk>>> + Send;
}

/// The memory of a store's reads.
pub(crate) struct Memory {
    backend: LocalCpuBackend,
    pub(crate) metadata: Option<Arc<LMCacheMetadata>>,
    /// Whether the allocator may wait or block.
    waits: bool,
    /// Whether a chunk came that did not have the layout of its reserved memory.
    is_irregular: AtomicBool,
}

/// Memory for one chunk, reserved or taken when the chunk comes. A read that fails keeps none of it.
pub(crate) struct Place<'a> {
    store: &'a Memory,
    memory: Option<MemoryObjMut>,
}

/// A reserved block is exchanged for a smaller one if the chunk leaves at least this much of it unused.
const WORTH_A_CHANGE: usize = 64 << 10;

impl Memory {
    pub(crate) fn new(ctx: &ConnectorContext) -> Self {
        let backend = ctx.local_cpu_backend().clone();
        let (waits, is_irregular) = (backend.waits(), AtomicBool::new(false));
        Self { backend, metadata: ctx.metadata().cloned(), waits, is_irregular }
    }

    /// A place that takes memory when the chunk comes. `None` if the allocator may wait.
    pub(crate) fn at_once(&self) -> Option<Place<'_>> {
        (!self.waits).then(|| self.place(None))
    }

    /// A place for each chunk. `None` if the batch must ask for the lengths first.
    ///
    /// # Errors
    /// `PoolFull` after the allocator has waited.
    pub(crate) async fn reserve_full(&self, keys: &[CacheKey]) -> Result<Option<Vec<Place<'_>>>> {
        // A layer's chunk is much shorter than the metadata's.
        let is_full = |key: &CacheKey| key.layer_id().is_none();
        let Some(metadata) = self.metadata.as_ref().filter(|_| keys.iter().all(is_full)) else {
            return Ok((!self.waits).then(|| keys.iter().map(|_| self.place(None)).collect()));
        };
        if self.waits && self.is_irregular.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let layouts = vec![metadata.chunk_layout().full.clone(); keys.len()];
        match self.backend.allocate_many(&layouts).await {
            Ok(memory) => Ok(Some(memory.into_iter().map(|memory| self.place(Some(memory))).collect())),
            Err(e) if self.waits && e.kind() == ErrorKind::PoolFull => Err(e),
            Err(_) => Ok(None),
        }
    }

    /// A place for each chunk of these layouts. `None` is a missing chunk.
    pub(crate) async fn reserve(&self, layouts: Vec<Result<Option<ChunkLayout>>>) -> Vec<Result<Place<'_>>> {
        let stored: Vec<ChunkLayout> = layouts.iter().flatten().flatten().cloned().collect();
        let mut reserved = self.backend.reserve(&stored).await.into_iter();
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

    /// Whether the allocator may wait, so that only a reservation gives memory.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only `redis` asks again"))]
    pub(crate) fn waits(&self) -> bool {
        self.waits
    }

    /// Returns unused memory to the system.
    pub(crate) fn trim(&self) {
        self.backend.trim();
    }

    fn place(&self, memory: Option<MemoryObjMut>) -> Place<'_> {
        Place { store: self, memory }
    }
}

impl Place<'_> {
    /// Memory for the layout, reserved or new.
    ///
    /// # Errors
    /// The outer error comes from the connection, the inner one from the memory.
    async fn memory(&mut self, connection: &mut Connection, layout: &ChunkLayout) -> Result<Result<MemoryObjMut>> {
        if self.store.waits {
            let is_made_for = |memory: &mut MemoryObjMut| memory.layout() == layout;
            return Ok(self.memory.take_if(is_made_for).ok_or_else(|| {
                self.store.is_irregular.store(true, Ordering::Relaxed);
                not_reserved()
            }));
        }
        let reserved = self.capacity();
        if reserved < layout.len {
            // An announced length takes no memory before its first byte.
            connection.payload_starts().await?;
        } else if reserved - layout.len < WORTH_A_CHANGE.max(reserved / 4) {
            return Ok(self.memory.take().ok_or_else(not_reserved));
        }
        Ok(match (self.store.backend.try_allocate(layout), self.memory.take()) {
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

impl Destination for Place<'_> {
    type Chunk = MemoryObj;

    fn capacity(&self) -> usize {
        self.memory.as_ref().map_or(0, MemoryObjMut::capacity)
    }

    fn unused(&mut self) {
        self.memory = None;
    }

    async fn read(&mut self, connection: &mut Connection, layout: ChunkLayout) -> Result<Result<MemoryObj>> {
        let memory = match self.memory(connection, &layout).await? {
            Ok(memory) => self.memory.insert(memory),
            Err(e) => return connection.refuse(e).await,
        };
        memory.set_layout(layout)?;
        connection.payload(memory).await?;
        Ok(self.memory.take().map(MemoryObjMut::freeze).ok_or_else(not_reserved))
    }
}

impl Drop for Place<'_> {
    /// The read failed, or was dropped.
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            memory.discard();
        }
    }
}

/// The caller's memory, and the number of bytes in it. `SizeMismatch` if they do not fit.
impl Destination for &mut MemoryObjMut {
    type Chunk = usize;

    fn capacity(&self) -> usize {
        self.len()
    }

    async fn read(&mut self, connection: &mut Connection, layout: ChunkLayout) -> Result<Result<usize>> {
        let len = layout.len;
        match self.set_layout(layout) {
            Ok(()) => connection.payload(self).await.map(|()| Ok(len)),
            Err(e) => connection.refuse(e).await,
        }
    }
}
