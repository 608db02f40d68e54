//! Chunks in this process's memory, up to a number of bytes, with least-recently-used eviction.

use std::sync::{Mutex, MutexGuard, PoisonError};

use connector_core::{CacheKey, Error, ErrorKind, MemoryObj, Result};
use lru::LruCache;

use crate::copies::Copies;

/// The smallest average size of a chunk, in bytes. It bounds the number of chunks, because keys and map entries need
/// memory, too.
const MIN_AVERAGE: u64 = 512;

/// The bound on the number of chunks is at least this.
const MIN_MAX_CHUNKS: usize = 1024;

pub(crate) struct LruChunks {
    capacity: u64,
    max_chunks: usize,
    copies: Copies,
    state: Mutex<State>,
}

struct State {
    chunks: LruCache<CacheKey, MemoryObj>,
    bytes: u64,
}

impl LruChunks {
    pub(crate) fn new(capacity: u64) -> Self {
        let state = State { chunks: LruCache::unbounded(), bytes: 0 };
        let max_chunks = usize::try_from(capacity / MIN_AVERAGE).unwrap_or(usize::MAX).max(MIN_MAX_CHUNKS);
        Self { capacity, max_chunks, copies: Copies::new(capacity), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Whether the key is stored. Does not count as a use of the chunk.
    pub(crate) fn contains(&self, key: &CacheKey) -> bool {
        self.lock().chunks.contains(key)
    }

    pub(crate) fn get(&self, key: &CacheKey) -> Option<MemoryObj> {
        self.lock().chunks.get(key).cloned()
    }

    /// Refuses a chunk that is larger than the store.
    pub(crate) fn check(&self, chunk: &MemoryObj) -> Result<()> {
        let bytes = chunk.len() as u64;
        if bytes <= self.capacity {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::TooLarge,
            format!("a chunk of {bytes} bytes is larger than the whole store of {} bytes", self.capacity),
        )
        .with_hint("open it with a larger `capacity`"))
    }

    /// Stores a copy: the chunk may be in the caller's pool.
    pub(crate) fn put(&self, key: &CacheKey, chunk: &MemoryObj) -> Result<()> {
        self.check(chunk)?;
        let copy = self.copies.copy(chunk)?;
        // Chunks to drop after the lock: to free memory may be a system call.
        let mut gone = Vec::new();
        let mut state = self.lock();
        if let Some(old) = state.chunks.put(key.clone(), copy) {
            state.bytes -= old.len() as u64;
            gone.push(old);
        }
        state.bytes += chunk.len() as u64;
        while state.bytes > self.capacity || state.chunks.len() > self.max_chunks {
            let Some((_, oldest)) = state.chunks.pop_lru() else { break };
            state.bytes -= oldest.len() as u64;
            gone.push(oldest);
        }
        drop(state);
        drop(gone);
        Ok(())
    }

    pub(crate) fn remove(&self, key: &CacheKey) -> bool {
        let mut state = self.lock();
        let gone = state.chunks.pop(key);
        if let Some(chunk) = &gone {
            state.bytes -= chunk.len() as u64;
        }
        drop(state);
        gone.is_some()
    }

    pub(crate) fn keys(&self, prefix: &str) -> Vec<CacheKey> {
        let state = self.lock();
        state.chunks.iter().map(|(key, _)| key).filter(|k| k.as_str().starts_with(prefix)).cloned().collect()
    }
}
