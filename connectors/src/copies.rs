//! Copies of chunks for stores in memory. A store must copy a chunk, because it may be in the caller's pool.

use connector_core::{MemoryObj, MemoryObjMut, PoolAllocator, Result};

/// Copies of at least this size use a pool: new memory from the system costs more than the copy.
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
        // The chunk is small, or the pool is full because readers still hold evicted chunks.
        let mut copy = MemoryObjMut::from(chunk.to_vec());
        copy.set_layout(chunk.layout().clone())?;
        Ok(copy.freeze())
    }
}
