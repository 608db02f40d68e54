//! The map behind a name, and the names of this process.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use connector_core::{CacheKey, Error, ErrorKind, MemoryObj, MemoryObjMut, PoolAllocator, Result};
use lru::LruCache;

use super::MemoryOptions;

/// Chunks from this size on live in reused blocks: fresh memory of the system costs more than the copy into it.
const POOLED_BYTES: usize = 64 << 10;

pub(super) struct Store {
    capacity: u64,
    pool: PoolAllocator,
    state: Mutex<State>,
}

struct State {
    chunks: LruCache<CacheKey, MemoryObj>,
    bytes: u64,
}

static NAMED: LazyLock<Mutex<HashMap<String, Weak<Store>>>> = LazyLock::new(Mutex::default);

/// Nothing here panics while a lock is held, and the byte count is right at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// The store of this name, made if it is not open; a store of its own for `None`.
    pub(super) fn open(name: Option<&str>, capacity: Option<u64>) -> Result<Arc<Self>> {
        let Some(name) = name else { return Ok(Arc::new(Self::new(capacity))) };
        let mut named = lock(&NAMED);
        if let Some(store) = named.get(name).and_then(Weak::upgrade) {
            return match capacity {
                Some(wanted) if wanted != store.capacity => Err(Error::new(
                    ErrorKind::InvalidOption,
                    format!("`memory://{name}` is open with a capacity of {} bytes, not {wanted}", store.capacity),
                )
                .with_hint("leave `capacity` out, or use another name")),
                _ => Ok(store),
            };
        }
        let store = Arc::new(Self::new(capacity));
        named.retain(|_, store| store.strong_count() > 0);
        named.insert(name.to_owned(), Arc::downgrade(&store));
        Ok(store)
    }

    fn new(capacity: Option<u64>) -> Self {
        let capacity = capacity.unwrap_or(MemoryOptions::DEFAULT_CAPACITY);
        let pool = PoolAllocator::new(usize::try_from(capacity).unwrap_or(usize::MAX));
        Self { capacity, pool, state: Mutex::new(State { chunks: LruCache::unbounded(), bytes: 0 }) }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// A look that does not count as use.
    pub(super) fn contains(&self, key: &CacheKey) -> bool {
        lock(&self.state).chunks.contains(key)
    }

    pub(super) fn get(&self, key: &CacheKey) -> Option<MemoryObj> {
        lock(&self.state).chunks.get(key).cloned()
    }

    /// Keeps a copy: the chunk may be a view of somebody's pool.
    pub(super) fn put(&self, key: &CacheKey, chunk: &MemoryObj) -> Result<()> {
        let bytes = chunk.len() as u64;
        if bytes > self.capacity {
            return Err(Error::new(
                ErrorKind::OutOfMemory,
                format!("a chunk of {bytes} bytes is larger than the whole store of {} bytes", self.capacity),
            )
            .with_hint("open it with a larger `capacity`"));
        }
        let copy = self.copy(chunk)?;
        // Freed behind the lock's back: giving memory back may be a system call.
        let mut gone = Vec::new();
        let mut state = lock(&self.state);
        if let Some(old) = state.chunks.put(key.clone(), copy) {
            state.bytes -= old.len() as u64;
            gone.push(old);
        }
        state.bytes += bytes;
        while state.bytes > self.capacity {
            let Some((_, oldest)) = state.chunks.pop_lru() else { break };
            state.bytes -= oldest.len() as u64;
            gone.push(oldest);
        }
        drop(state);
        drop(gone);
        Ok(())
    }

    fn copy(&self, chunk: &MemoryObj) -> Result<MemoryObj> {
        if chunk.len() >= POOLED_BYTES
            && let Ok(mut copy) = self.pool.allocate_now(chunk.layout())
        {
            copy.copy_from_slice(chunk);
            return Ok(copy.freeze());
        }
        // A small chunk, or readers hold blocks of chunks that are gone.
        let mut copy = MemoryObjMut::from(chunk.to_vec());
        copy.set_layout(chunk.layout().clone())?;
        Ok(copy.freeze())
    }

    pub(super) fn remove(&self, key: &CacheKey) -> bool {
        let mut state = lock(&self.state);
        let gone = state.chunks.pop(key);
        if let Some(chunk) = &gone {
            state.bytes -= chunk.len() as u64;
        }
        drop(state);
        gone.is_some()
    }

    pub(super) fn keys(&self, prefix: &str) -> Vec<CacheKey> {
        lock(&self.state)
            .chunks
            .iter()
            .map(|(key, _)| key)
            .filter(|k| k.as_str().starts_with(prefix))
            .cloned()
            .collect()
    }
}
