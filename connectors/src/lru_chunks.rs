//! Chunks in this process's memory, within a number of bytes: the one that was used longest ago goes first.

use std::sync::{Mutex, MutexGuard, PoisonError};

use connector_core::{CacheKey, Error, ErrorKind, MemoryObj, Result};
use lru::LruCache;

use crate::copies::Copies;

/// What a chunk has to have on average, in bytes: its key and its place take memory too, also if it is empty.
const LEAST_AVERAGE: u64 = 512;

/// So many chunks are kept whatever their size: little enough to need no bound.
const ALWAYS_KEPT: usize = 1024;

pub(crate) struct LruChunks {
    capacity: u64,
    most_chunks: usize,
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
        let most_chunks = usize::try_from(capacity / LEAST_AVERAGE).unwrap_or(usize::MAX).max(ALWAYS_KEPT);
        Self { capacity, most_chunks, copies: Copies::new(capacity), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here panics while the lock is held, and the byte count is right at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// A look that does not count as use.
    pub(crate) fn contains(&self, key: &CacheKey) -> bool {
        self.lock().chunks.contains(key)
    }

    pub(crate) fn get(&self, key: &CacheKey) -> Option<MemoryObj> {
        self.lock().chunks.get(key).cloned()
    }

    /// Refuses a chunk that no eviction makes room for.
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

    /// Keeps a copy: the chunk may be a view of somebody's pool.
    pub(crate) fn put(&self, key: &CacheKey, chunk: &MemoryObj) -> Result<()> {
        self.check(chunk)?;
        let copy = self.copies.copy(chunk)?;
        // Freed behind the lock's back: giving memory back may be a system call.
        let mut gone = Vec::new();
        let mut state = self.lock();
        if let Some(old) = state.chunks.put(key.clone(), copy) {
            state.bytes -= old.len() as u64;
            gone.push(old);
        }
        state.bytes += chunk.len() as u64;
        while state.bytes > self.capacity || state.chunks.len() > self.most_chunks {
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
