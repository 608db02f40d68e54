//! Copies of chunks for stores in memory. A store must copy a chunk, because it may be in the caller's pool.

use connector_core::{MemoryObj, MemoryObjMut, PoolAllocator, Result};

/// Copies of at least this size use a pool: new memory from the system costs more than the copy.
const POOLED_BYTES: usize = 64 << 10;

/// The smallest average size of a chunk, in bytes.
const MIN_AVERAGE: u64 = 512;

/// The bound on the number of chunks is at least this.
const MIN_MAX_CHUNKS: usize = 1024;

/// The most chunks in `capacity` bytes of memory. It bounds the memory of their keys and map entries.
pub(crate) fn most_chunks(capacity: u64) -> usize {
    usize::try_from(capacity / MIN_AVERAGE).unwrap_or(usize::MAX).max(MIN_MAX_CHUNKS)
}

/// Memory for `capacity` bytes of copies.
pub(crate) struct Copies {
    capacity: usize,
    pool: PoolAllocator,
}

impl Copies {
    pub(crate) fn new(capacity: u64) -> Self {
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        Self { capacity, pool: PoolAllocator::new(capacity) }
    }

    /// Returns free memory to the system, until it fits into the capacity beside `in_use` bytes of copies. The pool
    /// does not count copies outside of it. Call this after a change.
    pub(crate) fn trim(&self, in_use: u64) {
        self.pool.trim(self.capacity.saturating_sub(usize::try_from(in_use).unwrap_or(usize::MAX)));
    }

    /// The free bytes that the pool keeps.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> u64 {
        self.pool.stats().kept as u64
    }

    pub(crate) fn copy(&self, chunk: &MemoryObj) -> Result<MemoryObj> {
        if chunk.len() >= POOLED_BYTES
            && let Ok(mut copy) = self.pool.allocate_now(chunk.layout())
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
