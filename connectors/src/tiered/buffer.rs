//! Chunks that wait for the store behind, within a number of bytes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connector_core::{CacheKey, Error, ErrorKind, MemoryObj, Result};
use tokio::sync::watch;

use crate::copies::Copies;

/// Keys that are written at once.
const MOST_WRITERS: usize = 4;

pub(super) struct Buffer {
    capacity: u64,
    copies: Copies,
    state: Mutex<State>,
    /// Who waits for room waits in line: a large chunk is not overtaken for ever.
    line: tokio::sync::Mutex<()>,
    /// Changes whenever something was written, failed, or is to end.
    news: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// Every key is also either in `queue` or in `writing`.
    waiting: HashMap<CacheKey, Waiting>,
    queue: VecDeque<CacheKey>,
    writing: HashSet<CacheKey>,
    bytes: u64,
    puts: u64,
    writers: usize,
    /// Why the last write failed, if it did.
    failing: Option<Error>,
    ending: bool,
}

struct Waiting {
    chunk: MemoryObj,
    put: u64,
}

/// Bytes of the buffer, reserved until dropped.
pub(super) struct Room<'a> {
    buffer: &'a Buffer,
    bytes: u64,
}

/// One key that is being written.
pub(super) struct Write<'a> {
    buffer: &'a Buffer,
    pub(super) key: CacheKey,
    pub(super) chunk: MemoryObj,
    put: u64,
    result: Option<Result<()>>,
}

/// One of those who write. Counted until dropped.
pub(super) struct Writer<'a>(&'a Buffer);

/// What a chunk takes, so that there is an end to empty ones, too.
fn cost(chunk: &MemoryObj) -> u64 {
    chunk.len().max(1) as u64
}

impl Buffer {
    pub(super) fn new(capacity: u64) -> Self {
        let (copies, news) = (Copies::new(capacity), watch::Sender::new(()));
        Self { capacity, copies, state: Mutex::default(), line: Default::default(), news }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, and the counts are right at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.news.send_replace(());
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(super) fn get(&self, key: &CacheKey) -> Option<MemoryObj> {
        self.lock().waiting.get(key).map(|w| w.chunk.clone())
    }

    pub(super) fn keys(&self, prefix: &str) -> Vec<CacheKey> {
        self.lock().waiting.keys().filter(|k| k.as_str().starts_with(prefix)).cloned().collect()
    }

    /// Room for a chunk: waits for it, unless the store behind fails.
    pub(super) async fn room(&self, chunk: &MemoryObj) -> Result<Room<'_>> {
        let bytes = cost(chunk);
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
        let _turn = self.line.lock().await;
        let mut news = self.news.subscribe();
        loop {
            news.mark_unchanged();
            {
                let mut state = self.lock();
                if state.bytes + bytes <= self.capacity {
                    state.bytes += bytes;
                    return Ok(Room { buffer: self, bytes });
                }
                if let Some(e) = &state.failing {
                    let message = format!("the write-back buffer of {} bytes is full, because {e}", self.capacity);
                    return Err(Error::new(ErrorKind::Unavailable, message).temporary(true));
                }
            }
            if news.changed().await.is_err() {
                return Err(Error::closed());
            }
        }
    }

    /// A copy of a chunk, which may be a view of somebody's pool.
    pub(super) fn copy(&self, chunk: &MemoryObj) -> Result<MemoryObj> {
        self.copies.copy(chunk)
    }

    /// Keeps a copy until it is written, instead of an older chunk of the key. Says whether one more writer is needed, and
    /// counts it.
    pub(super) fn insert(&self, key: &CacheKey, copy: MemoryObj, mut room: Room<'_>) -> bool {
        let mut state = self.lock();
        state.puts += 1;
        let put = state.puts;
        room.bytes = 0;
        match state.waiting.insert(key.clone(), Waiting { chunk: copy, put }) {
            Some(old) => state.bytes -= cost(&old.chunk),
            // While an older chunk is written whose key was not waiting any more, whoever writes it goes on with this one.
            None if state.writing.contains(key) => {}
            None => state.queue.push_back(key.clone()),
        }
        let needed = state.writers < MOST_WRITERS && !state.queue.is_empty() && !state.ending;
        state.writers += usize::from(needed);
        drop(state);
        self.tell();
        needed
    }

    /// Forgets a key's chunk, and waits until none of it is being written. Says whether there was one.
    pub(super) async fn cancel(&self, key: &CacheKey) -> bool {
        let mut news = self.news.subscribe();
        let cancelled = {
            let mut state = self.lock();
            let old = state.waiting.remove(key);
            if let Some(old) = &old {
                state.bytes -= cost(&old.chunk);
                state.queue.retain(|k| k != key);
            }
            old.is_some()
        };
        self.tell();
        loop {
            news.mark_unchanged();
            if !self.lock().writing.contains(key) || news.changed().await.is_err() {
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

    /// From now on a writer that fails ends, and those that wait to try again try at once.
    pub(super) fn end(&self) {
        self.lock().ending = true;
        self.tell();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.lock().ending
    }

    /// Waits until the buffer is about to end.
    pub(super) async fn ending(&self) {
        let mut news = self.news.subscribe();
        while !self.is_ending() && news.changed().await.is_ok() {}
    }

    /// Waits until nobody writes.
    pub(super) async fn idle(&self) {
        let mut news = self.news.subscribe();
        while self.lock().writers > 0 && news.changed().await.is_ok() {}
    }

    /// How many chunks and bytes wait.
    pub(super) fn rest(&self) -> (usize, u64) {
        let state = self.lock();
        (state.waiting.len(), state.bytes)
    }
}

impl State {
    fn next<'a>(&mut self, buffer: &'a Buffer) -> Option<Write<'a>> {
        let key = self.queue.pop_front()?;
        let Waiting { chunk, put } = self.waiting.get(&key)?;
        let write = Write { buffer, key: key.clone(), chunk: chunk.clone(), put: *put, result: None };
        self.writing.insert(key);
        Some(write)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.buffer.lock().bytes -= self.bytes;
            self.buffer.tell();
        }
    }
}

impl Write<'_> {
    pub(super) fn end(mut self, result: Result<()>) {
        self.result = Some(result);
    }
}

impl Drop for Write<'_> {
    /// Also of a write that panicked or whose runtime ends: the chunk waits on.
    fn drop(&mut self) {
        let mut state = self.buffer.lock();
        state.writing.remove(&self.key);
        let newest = state.waiting.get(&self.key).map(|w| w.put == self.put);
        let written = matches!(self.result, Some(Ok(())));
        match newest {
            Some(true) if written => {
                if let Some(old) = state.waiting.remove(&self.key) {
                    state.bytes -= cost(&old.chunk);
                }
            }
            Some(_) => state.queue.push_back(self.key.clone()),
            None => {}
        }
        match self.result.take() {
            Some(Ok(())) => state.failing = None,
            Some(Err(e)) => state.failing = Some(e),
            None => {}
        }
        drop(state);
        self.buffer.tell();
    }
}

impl<'a> Writer<'a> {
    /// The next chunk to write; `None` if this writer has to end, which it then has.
    pub(super) fn next(self) -> Option<(Self, Write<'a>)> {
        let mut state = self.0.lock();
        match state.next(self.0) {
            Some(write) => {
                drop(state);
                Some((self, write))
            }
            None => {
                // In one step with the look at the queue: a chunk that comes now finds one writer less, and starts one.
                state.writers -= 1;
                drop(state);
                self.0.tell();
                std::mem::forget(self);
                None
            }
        }
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.0.lock().writers -= 1;
        self.0.tell();
    }
}

/// What a write that failed is logged with, and `close` answers.
pub(super) fn missing(buffer: &Buffer, error: &Arc<Error>) -> Error {
    let (chunks, bytes) = buffer.rest();
    let message = format!("{chunks} chunks of {bytes} bytes are not in the store behind, because {error}");
    Error::new(error.kind(), message).with_status(error.status()).with_hint("close again to try once more")
}
