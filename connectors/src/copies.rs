//! Copies of chunks that a store keeps: a chunk that is put may be a view of somebody's pool.

use connector_core::{MemoryObj, MemoryObjMut, PoolAllocator, Result};

/// Chunks from this size on live in reused blocks: fresh memory of the system costs more than the copy into it.
const POOLED_BYTES: usize = 64 << 10;

/// Memory for about `capacity` bytes of copies.
pub(crate) struct Copies(PoolAllocator);

impl Copies {
    pub(crate) fn new(capacity: u64) -> Self {
        Self(PoolAllocator::new(usize::try_from(capacity).unwrap_or(usize::MAX)))
    }

    pub(crate) fn copy(&self, chunk: &MemoryObj) -> Result<MemoryObj> {
        if chunk.len() >= POOLED_BYTES
            && let Ok(mut copy) = self.0.allocate_now(chunk.layout())
        {
            copy.copy_from_slice(chunk);
            return Ok(copy.freeze());
        }
        // A small chunk, or readers hold blocks of chunks that are gone.
        let mut copy = MemoryObjMut::from(chunk.to_vec());
        copy.set_layout(chunk.layout().clone())?;
        Ok(copy.freeze())
    }
}
