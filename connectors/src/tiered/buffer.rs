//! The write-back buffer: chunks that the back does not have yet, up to a number of bytes.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use connector_core::{CacheKey, Error, ErrorKind, ErrorStatus, ListEntry, MemoryObj, Result};
use lru::LruCache;
use tokio::sync::watch;

use crate::copies::{Copies, most_chunks};

/// The number of keys that tasks write concurrently.
const MAX_WRITERS: usize = 4;

pub(super) struct Buffer {
    capacity: u64,
    max_chunks: usize,
    copies: Copies,
    state: Mutex<State>,
    /// The puts that wait for space, in order, so that small chunks cannot overtake a large one for ever.
    space_queue: tokio::sync::Mutex<()>,
    /// Notifies of every change of the state.
    changes: watch::Sender<()>,
}

/// The largest number of refused keys that the buffer remembers.
const MAX_REFUSED: usize = 100_000;

struct State {
    /// The newest chunk of each key. Every key is also in `queue` or in `writing`.
    chunks: HashMap<CacheKey, Buffered>,
    /// The keys to write, in the order of their first puts. An LRU map, because it removes any key in constant time.
    queue: LruCache<CacheKey, ()>,
    writing: HashSet<CacheKey>,
    /// The number of chunks and reservations. `bytes` is the sum of their lengths.
    held: usize,
    bytes: u64,
    puts: u64,
    writers: usize,
    /// The error of the last write, if it failed.
    failing: Option<Error>,
    /// The keys whose newest chunk the back refused for ever, and the lengths of these chunks.
    refused: LruCache<CacheKey, u64>,
    refusal: Option<Error>,
    ending: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            chunks: HashMap::new(),
            queue: LruCache::unbounded(),
            writing: HashSet::new(),
            held: 0,
            bytes: 0,
            puts: 0,
            writers: 0,
            failing: None,
            refused: LruCache::unbounded(),
            refusal: None,
            ending: false,
        }
    }
}

struct Buffered {
    chunk: MemoryObj,
    put: u64,
}

/// Bytes of the buffer that are reserved until this is dropped or its chunk is inserted.
pub(super) struct Reservation<'a> {
    buffer: &'a Buffer,
    /// `None` once the chunk is inserted.
    bytes: Option<u64>,
}

/// A write in progress.
pub(super) struct Write<'a> {
    buffer: &'a Buffer,
    pub(super) key: CacheKey,
    pub(super) chunk: MemoryObj,
    put: u64,
    result: Option<Result<()>>,
}

/// A running writer. The buffer counts it until it is dropped.
pub(super) struct Writer<'a>(&'a Buffer);

impl Buffer {
    pub(super) fn new(capacity: u64) -> Self {
        let (copies, changes) = (Copies::new(capacity), watch::Sender::new(()));
        let max_chunks = most_chunks(capacity);
        Self { capacity, max_chunks, copies, state: Mutex::default(), space_queue: Default::default(), changes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changes.send_replace(());
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) fn get(&self, key: &CacheKey) -> Option<MemoryObj> {
        self.lock().chunks.get(key).map(|buffered| buffered.chunk.clone())
    }

    pub(super) fn entries(&self, prefix: &str) -> Vec<ListEntry> {
        let state = self.lock();
        let chunks = state.chunks.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        chunks.map(|(key, buffered)| ListEntry::new(key.clone()).with_size(buffered.chunk.len() as u64)).collect()
    }

    /// Waits for space for a chunk. Fails if the buffer is full and the back fails. Calls `start` for another writer, which
    /// is then counted, if none runs: the runtime of the last ones may have ended.
    pub(super) async fn reserve(&self, chunk: &MemoryObj, start: impl Fn()) -> Result<Reservation<'_>> {
        let bytes = chunk.len() as u64;
        if bytes > self.capacity {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "a chunk of {bytes} bytes is larger than the whole write-back buffer of {} bytes",
                    self.capacity
                ),
            )
            .with_hint("raise `write_back_bytes`"));
        }
        let _in_order = self.space_queue.lock().await;
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            {
                let mut state = self.lock();
                if state.bytes + bytes <= self.capacity && state.held < self.max_chunks {
                    state.bytes += bytes;
                    state.held += 1;
                    return Ok(Reservation { buffer: self, bytes: Some(bytes) });
                }
                if state.count_writer(1) {
                    drop(state);
                    start();
                } else if let Some(e) = &state.failing {
                    let message = format!("the write-back buffer of {} bytes is full, because {e}", self.capacity);
                    // The writers try again, whatever the error is, so no retry layer should.
                    return Err(Error::new(e.kind(), message).with_status(ErrorStatus::Persistent));
                }
            }
            if changes.changed().await.is_err() {
                return Err(Error::closed());
            }
        }
    }

    /// Copies a chunk, because it may be in the caller's pool.
    pub(super) fn copy(&self, chunk: &MemoryObj) -> Result<MemoryObj> {
        self.copies.copy(chunk)
    }

    /// Keeps a copy until it is written, in place of the key's older chunk. Says whether the caller must start another
    /// writer, which is then counted.
    pub(super) fn insert(&self, key: &CacheKey, copy: MemoryObj, mut reservation: Reservation<'_>) -> bool {
        let mut state = self.lock();
        state.puts += 1;
        let put = state.puts;
        reservation.bytes = None;
        state.refused.pop(key);
        match state.chunks.insert(key.clone(), Buffered { chunk: copy, put }) {
            Some(old) => state.release(old.chunk.len() as u64),
            // The key was cancelled during its write: when that write ends, it queues the key again.
            None if state.writing.contains(key) => {}
            None => drop(state.queue.push(key.clone(), ())),
        }
        let needed = state.count_writer(MAX_WRITERS);
        let bytes = state.bytes;
        drop(state);
        self.copies.trim(bytes);
        self.notify();
        needed
    }

    /// Drops a key's chunk, waits for the end of its write, and says whether the buffer had a chunk.
    pub(super) async fn cancel(&self, key: &CacheKey) -> bool {
        let mut changes = self.changes.subscribe();
        let cancelled = {
            let mut state = self.lock();
            let old = state.chunks.remove(key);
            state.refused.pop(key);
            if let Some(old) = &old {
                state.release(old.chunk.len() as u64);
                state.queue.pop(key);
            }
            old.is_some()
        };
        self.notify();
        loop {
            changes.mark_unchanged();
            if !self.lock().writing.contains(key) || changes.changed().await.is_err() {
                return cancelled;
            }
        }
    }

    /// A writer that [`insert`](Self::insert) has counted.
    pub(super) fn writer(&self) -> Writer<'_> {
        Writer(self)
    }

    /// The next chunk to write.
    pub(super) fn next(&self) -> Option<Write<'_>> {
        self.lock().next(self)
    }

    /// Ends the buffer: writers that wait after a failure retry now, and a writer that fails again ends.
    pub(super) fn end(&self) {
        self.lock().ending = true;
        self.notify();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.lock().ending
    }

    /// Waits until [`end`](Self::end) is called.
    pub(super) async fn wait_for_end(&self) {
        let mut changes = self.changes.subscribe();
        while !self.is_ending() && changes.changed().await.is_ok() {}
    }

    /// Waits until all writers have ended.
    pub(super) async fn wait_for_writers(&self) {
        let mut changes = self.changes.subscribe();
        while self.lock().writers > 0 && changes.changed().await.is_ok() {}
    }

    /// Waits until no chunk is being written.
    pub(super) async fn wait_for_writes(&self) {
        let mut changes = self.changes.subscribe();
        while !self.lock().writing.is_empty() && changes.changed().await.is_ok() {}
    }

    /// The error of the last write, if it failed.
    pub(super) fn failure(&self) -> Option<Error> {
        self.lock().failing.clone()
    }

    /// Records that the back refused this chunk for ever, unless the key has a newer one or was removed.
    pub(super) fn refuse(&self, write: &Write<'_>, error: &Error) {
        let mut state = self.lock();
        if state.chunks.get(&write.key).is_none_or(|buffered| buffered.put != write.put) {
            return;
        }
        state.refused.put(write.key.clone(), write.chunk.len() as u64);
        state.refusal = Some(error.clone());
        if state.refused.len() > MAX_REFUSED {
            state.refused.pop_lru();
        }
    }

    /// The chunks that the back refused for ever and that no later put or remove replaced, as an error. They count
    /// once.
    pub(super) fn take_refused(&self) -> Result<()> {
        let mut state = self.lock();
        let bytes: u64 = state.refused.iter().map(|(_, bytes)| bytes).sum();
        let chunks = std::mem::replace(&mut state.refused, LruCache::unbounded()).len();
        match state.refusal.take() {
            Some(e) if chunks > 0 => {
                let message = format!("the back store refused {chunks} chunks of {bytes} bytes for ever: {e}");
                Err(Error::new(e.kind(), message))
            }
            _ => Ok(()),
        }
    }

    /// The number of chunks in the buffer, and their bytes.
    pub(super) fn remaining(&self) -> (usize, u64) {
        let state = self.lock();
        (state.chunks.len(), state.bytes)
    }
}

impl State {
    /// Counts one more writer if chunks wait and fewer than `most` run. Says whether it did.
    fn count_writer(&mut self, most: usize) -> bool {
        let needed = self.writers < most && !self.queue.is_empty() && !self.ending;
        self.writers += usize::from(needed);
        needed
    }

    /// Frees the room of a chunk or a reservation.
    fn release(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.held -= 1;
    }

    fn next<'a>(&mut self, buffer: &'a Buffer) -> Option<Write<'a>> {
        let (key, ()) = self.queue.pop_lru()?;
        let Buffered { chunk, put } = self.chunks.get(&key)?;
        let write = Write { buffer, key: key.clone(), chunk: chunk.clone(), put: *put, result: None };
        self.writing.insert(key);
        Some(write)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes {
            self.buffer.lock().release(bytes);
            self.buffer.notify();
        }
    }
}

impl Write<'_> {
    pub(super) fn end(mut self, result: Result<()>) {
        self.result = Some(result);
    }
}

impl Drop for Write<'_> {
    /// Without a result (after a panic, or when the runtime ends), the chunk stays in the buffer.
    fn drop(&mut self) {
        let mut state = self.buffer.lock();
        state.writing.remove(&self.key);
        let newest = state.chunks.get(&self.key).map(|buffered| buffered.put == self.put);
        let written = matches!(self.result, Some(Ok(())));
        match newest {
            Some(true) if written => {
                if let Some(old) = state.chunks.remove(&self.key) {
                    state.release(old.chunk.len() as u64);
                }
            }
            Some(_) => drop(state.queue.push(self.key.clone(), ())),
            None => {}
        }
        match self.result.take() {
            Some(Ok(())) => state.failing = None,
            Some(Err(e)) => state.failing = Some(e),
            None => {}
        }
        drop(state);
        self.buffer.notify();
    }
}

impl<'a> Writer<'a> {
    /// The next chunk to write, with this writer. `None` ends this writer.
    pub(super) fn next(self) -> Option<(Self, Write<'a>)> {
        let mut state = self.0.lock();
        match state.next(self.0) {
            Some(write) => {
                drop(state);
                Some((self, write))
            }
            None => {
                // Under the same lock as the check of the queue, so that the next chunk starts a new writer.
                state.writers -= 1;
                drop(state);
                self.0.notify();
                std::mem::forget(self);
                None
            }
        }
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.0.lock().writers -= 1;
        self.0.notify();
    }
}
