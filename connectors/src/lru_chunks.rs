//! Chunks in this process's memory, up to a number of bytes, with least-recently-used eviction.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use connector_core::{CacheKey, Error, ErrorKind, ListEntry, MemoryObj, Result};
use lru::LruCache;

use crate::copies::{Copies, most_chunks};

/// The chunks that a listing visits under one lock.
const SLICE: usize = 4096;

pub(crate) struct LruChunks {
    capacity: u64,
    max_chunks: usize,
    copies: Copies,
    state: Mutex<State>,
}

struct State {
    chunks: LruCache<CacheKey, Kept>,
    /// The keys by their number, for listings.
    numbers: BTreeMap<u64, CacheKey>,
    /// The number of the next new key.
    next: u64,
    /// The bytes of the chunks, and of the copies that puts are making.
    bytes: u64,
}

struct Kept {
    chunk: MemoryObj,
    since: SystemTime,
    /// A chunk that replaces another one takes over its number.
    number: u64,
}

impl LruChunks {
    pub(crate) fn new(capacity: u64) -> Self {
        let state = State { chunks: LruCache::unbounded(), numbers: BTreeMap::new(), next: 0, bytes: 0 };
        Self { capacity, max_chunks: most_chunks(capacity), copies: Copies::new(capacity), state: Mutex::new(state) }
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
        self.lock().chunks.get(key).map(|kept| kept.chunk.clone())
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
        let len = chunk.len() as u64;
        // Makes room before the copy, so that the copy can use the memory of the chunks that go. The key's old chunk
        // stays until then.
        let gone = {
            let mut state = self.lock();
            state.bytes += len;
            let old = state.chunks.peek(key).map_or(0, |old| old.chunk.len() as u64);
            self.evict(&mut state, old)
        };
        // After the lock is released, because freeing memory may be a system call.
        drop(gone);
        let copy = self.copies.copy(chunk).inspect_err(|_| self.lock().bytes -= len)?;
        let mut state = self.lock();
        let number = state.chunks.peek(key).map_or(state.next, |old| old.number);
        let old = state.chunks.put(key.clone(), Kept { chunk: copy, since: SystemTime::now(), number });
        if old.is_none() {
            state.next += 1;
            state.numbers.insert(number, key.clone());
        }
        state.bytes -= old.as_ref().map_or(0, |old| old.chunk.len() as u64);
        let gone = self.evict(&mut state, 0);
        let bytes = state.bytes;
        drop(state);
        drop((old, gone));
        self.copies.trim(bytes);
        Ok(())
    }

    /// Takes out the oldest chunks until the others fit, with `more` bytes beyond the capacity.
    fn evict(&self, state: &mut State, more: u64) -> Vec<Kept> {
        let mut gone = Vec::new();
        while state.bytes > self.capacity.saturating_add(more) || state.chunks.len() > self.max_chunks {
            let Some((_, oldest)) = state.chunks.pop_lru() else { break };
            state.bytes -= oldest.chunk.len() as u64;
            state.numbers.remove(&oldest.number);
            gone.push(oldest);
        }
        gone
    }

    pub(crate) fn remove(&self, key: &CacheKey) -> bool {
        let mut state = self.lock();
        let gone = state.chunks.pop(key);
        if let Some(kept) = &gone {
            state.bytes -= kept.chunk.len() as u64;
            state.numbers.remove(&kept.number);
        }
        drop(state);
        gone.is_some()
    }

    /// The number of leading keys that are stored. Does not count as a use of the chunks.
    pub(crate) fn leading_run(&self, keys: &[CacheKey]) -> usize {
        let state = self.lock();
        keys.iter().take_while(|key| state.chunks.contains(key)).count()
    }

    /// The stored keys, as [`entries`](Self::entries).
    pub(crate) fn keys<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = CacheKey> + Send + 'a {
        self.entries(prefix).map(|entry| entry.key)
    }

    /// The chunks that are stored now, each once, unless they go before the iterator reaches them. The lock is free between
    /// slices, so no call waits long for it.
    pub(crate) fn entries<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = ListEntry> + Send + 'a {
        let mut rest = 0..self.lock().next;
        let slices = std::iter::from_fn(move || {
            let state = self.lock();
            let slice: Vec<_> = state.numbers.range(rest.clone()).take(SLICE).collect();
            let (last, _) = slice.last()?;
            rest.start = **last + 1;
            let matching = slice.into_iter().filter(|(_, key)| key.as_str().starts_with(prefix));
            let entry = |(_, key): (_, &CacheKey)| {
                let kept = state.chunks.peek(key)?;
                Some(ListEntry::new(key.clone()).with_size(kept.chunk.len() as u64).with_modified(kept.since))
            };
            Some(matching.filter_map(entry).collect::<Vec<_>>())
        });
        slices.flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_chunks_share_one_budget_with_the_memory_that_the_pool_keeps() {
        const CAPACITY: u64 = 8 << 20;
        let store = LruChunks::new(CAPACITY);
        let key = |n: usize| -> CacheKey { format!("m@1@0@{n:x}@half").parse().unwrap() };
        let mut n = 0;
        // Each size fills the store, so that the chunks of the size before go.
        for len in [256 << 10, 16 << 10, 1 << 20, 1000, 96 << 10, 32 << 10, 4 << 20] {
            for _ in 0..(2 * CAPACITY as usize / len) {
                n += 1;
                store.put(&key(n), &MemoryObj::from(vec![n as u8; len])).unwrap();
                let held = store.lock().bytes + store.copies.kept();
                assert!(held <= CAPACITY, "{held} bytes after chunks of {len}");
            }
            assert_eq!(store.get(&key(n)).unwrap().len(), len);
        }
    }

    #[test]
    fn a_replaced_chunk_evicts_no_other_and_the_oldest_goes_first() {
        let store = LruChunks::new(3000);
        let key = |n: usize| -> CacheKey { format!("m@1@0@{n:x}@half").parse().unwrap() };
        let put = |n, len| store.put(&key(n), &MemoryObj::from(vec![n as u8; len])).unwrap();
        (0..3).for_each(|n| put(n, 1000));
        put(2, 1000);
        assert!((0..3).all(|n| store.contains(&key(n))));
        assert!(store.get(&key(0)).is_some());
        put(3, 1000);
        assert_eq!((0..4).filter(|n| store.contains(&key(*n))).collect::<Vec<_>>(), [0, 2, 3]);
        assert_eq!(store.lock().bytes, 3000);
        assert!(store.put(&key(4), &MemoryObj::from(vec![0; 3001])).is_err());
        assert_eq!(store.lock().bytes, 3000);
    }
    #[test]
    fn a_listing_gives_each_chunk_once_while_others_change_it() {
        let store = LruChunks::new(1 << 30);
        let key = |n: usize| -> CacheKey { format!("m@1@0@{n:x}@half").parse().unwrap() };
        let put = |n| store.put(&key(n), &MemoryObj::from(vec![0; 1])).unwrap();
        let all = 2 * SLICE + 10;
        (0..all).for_each(put);
        let mut listed = Vec::new();
        for (at, found) in store.keys("m@1@0@").enumerate() {
            listed.push(found);
            match at {
                // Listed already: replaced, or removed and put again.
                0 => put(1),
                1 => assert!(store.remove(&key(2))),
                2 => put(2),
                // Not listed yet.
                3 => assert!(store.remove(&key(all - 1))),
                _ => {}
            }
            put(all + at);
        }
        let expected: Vec<_> = (0..all - 1).map(key).collect();
        assert_eq!(listed, expected);
        assert_eq!(store.keys("m@1@0@f").count(), store.keys("").filter(|k| k.as_str().contains("@f")).count());
        let state = store.lock();
        assert_eq!(state.numbers.len(), state.chunks.len());
    }
}
