//! The front store, the back store, and the state that they share.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use connector_core::connector::Gate;
use connector_core::runtime::{self, AtExit};
use connector_core::{CacheKey, ChunkLayout, Connector, Error, ErrorKind, LocalCpuBackend, MemoryObj, Result};
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::buffer::Buffer;
use super::keys::Keys;
use super::repair::repair;
use super::writer;

/// The pause of a background task after a failure. Each further failure doubles it, up to the second number.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(super) struct Tiers {
    /// The connector's URL, redacted.
    pub(super) url: String,
    pub(super) front: Connector,
    pub(super) back: Connector,
    pub(super) keys: Arc<Keys>,
    /// `None` with `write_through`.
    pub(super) buffer: Option<Buffer>,
    pub(super) handle: Handle,
    /// The memory of reads, and the layout of a full chunk, if a read may wait for memory and the engine's metadata is
    /// known.
    pub(super) waiting_memory: Option<(LocalCpuBackend, ChunkLayout)>,
    /// Whether a report at the end of the process says how many chunks are lost.
    pub(super) is_reported: AtomicBool,
    /// Reads and fills outlive the futures that started them. `close` waits for them here.
    pub(super) gate: Gate,
}

impl Tiers {
    /// Logs a failure of the front, which is not an error for the caller: the back has the chunk.
    pub(super) fn front_failed(&self, operation: &'static str, error: &Error) {
        tracing::warn!(operation, %error, "the front store failed: kvconn uses the back store");
    }

    /// Reads from the front. A failure is a miss.
    pub(super) async fn front_get(&self, key: &CacheKey) -> Option<MemoryObj> {
        if !self.keys.may_ask_front(key) {
            return None;
        }
        self.front.get(key).await.unwrap_or_else(|e| {
            self.front_failed("get", &e);
            None
        })
    }

    /// The back's answer to a read or remove. With `write_back`, a key that the back cannot name is a miss: it may have
    /// been put, and evicted from the front.
    pub(super) fn back_answer<T: Default>(&self, answer: Result<T>) -> Result<T> {
        match answer {
            Err(e) if e.kind() == ErrorKind::InvalidKey && self.buffer.is_some() => Ok(T::default()),
            other => other,
        }
    }

    /// Runs a task on the runtime that opened the store, or on kvconn's own if that one has ended.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        // A runtime that has ended drops the outer future at once, without a poll.
        let waiting = Arc::new(Mutex::new(Some(Box::pin(task))));
        let take = |waiting: &Mutex<Option<_>>| waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let spawned = self.handle.spawn({
            let waiting = waiting.clone();
            async move {
                if let Some(task) = take(&waiting) {
                    task.await;
                }
            }
        });
        match runtime::handle() {
            Ok(own) if spawned.is_finished() => take(&waiting).map_or(spawned, |task| own.spawn(task)),
            _ => spawned,
        }
    }

    /// The chunk in the write-back buffer.
    pub(super) fn buffered(&self, key: &CacheKey) -> Option<MemoryObj> {
        self.buffer.as_ref()?.get(key)
    }

    /// Puts chunks into the front, in one batch. Each has its key's lock, with the change if there is one. The task holds them
    /// until all puts have ended, even if this future is dropped: otherwise a late put could replace a newer chunk.
    pub(super) async fn fill_front<H: Send + 'static>(self: &Arc<Self>, fills: Vec<((CacheKey, MemoryObj), H)>) {
        if fills.is_empty() || self.keys.front_disabled() {
            return;
        }
        let Ok(pass) = self.gate.enter() else { return };
        let tiers = self.clone();
        let filled = self.spawn(async move {
            let (items, held): (Vec<_>, Vec<_>) = fills.into_iter().unzip();
            let answers = match &items[..] {
                [(key, chunk)] => vec![tiers.front.put(key, chunk.clone()).await],
                _ => tiers.front.batched_put(&items).await,
            };
            for ((key, _), answer) in items.iter().zip(answers) {
                match answer {
                    Ok(()) => tiers.keys.clear_stale(key),
                    // The front has no old chunk: the key was a miss, or the caller removed it before.
                    Err(e) => tiers.front_failed("put", &e),
                }
            }
            drop((items, tiers));
            drop((held, pass));
        });
        if filled.await.is_err() {
            tracing::error!("the put into the front store panicked, or the tokio runtime is shutting down");
        }
    }

    /// Removes a key from the front, and says whether the front had it. The caller holds the key's lock. If the front
    /// fails, it may keep the chunk: the key is stale.
    pub(super) async fn remove_from_front(self: &Arc<Self>, key: &CacheKey) -> bool {
        self.try_remove_from_front(key).await.unwrap_or(false)
    }

    /// As [`remove_from_front`](Self::remove_from_front), for several keys in one batch.
    pub(super) async fn remove_all_from_front(self: &Arc<Self>, keys: &[CacheKey]) -> Vec<bool> {
        let mut guards: Vec<_> =
            keys.iter().map(|key| StaleUnlessRemoved { tiers: self, key, removed: false }).collect();
        let answers = self.front.batched_remove(keys).await;
        guards.iter_mut().zip(answers).map(|(guard, answer)| guard.end(answer).unwrap_or(false)).collect()
    }

    /// As [`remove_from_front`](Self::remove_from_front), but gives the front's error, which it has logged.
    pub(super) async fn try_remove_from_front(self: &Arc<Self>, key: &CacheKey) -> Result<bool> {
        // The guard also marks the key if this future is dropped during the removal.
        let mut guard = StaleUnlessRemoved { tiers: self, key, removed: false };
        guard.end(self.front.remove(key).await)
    }
}

impl AtExit for Tiers {
    /// Writes the buffer. The handle, if there is one, closes the stores.
    fn close(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            match &self.buffer {
                Some(buffer) => writer::flush(&self, buffer).await,
                None => Ok(()),
            }
        })
    }

    fn is_done(&self) -> bool {
        self.unwritten().0 == 0
    }

    fn report_unwritten(&self) -> (usize, u64) {
        self.is_reported.store(true, Relaxed);
        self.unwritten()
    }
}

impl Tiers {
    fn unwritten(&self) -> (usize, u64) {
        self.buffer.as_ref().map_or((0, 0), Buffer::remaining)
    }
}

impl Drop for Tiers {
    /// Reports lost chunks: the runtime ended before the writers, or `close` failed and was not called again.
    fn drop(&mut self) {
        let (chunks, bytes) = self.unwritten();
        if chunks > 0 && !self.is_reported.load(Relaxed) {
            let url = &self.url;
            runtime::say(&format!(
                "`{url}` was dropped before {chunks} chunks of {bytes} bytes were in the back store: they are lost"
            ));
        }
    }
}

/// Marks a key as stale when dropped, unless the front has removed it.
struct StaleUnlessRemoved<'a> {
    tiers: &'a Arc<Tiers>,
    key: &'a CacheKey,
    removed: bool,
}

impl StaleUnlessRemoved<'_> {
    fn end(&mut self, answer: Result<bool>) -> Result<bool> {
        let stored = match answer {
            // The front cannot have a key that it cannot name.
            Err(e) if matches!(e.kind(), ErrorKind::InvalidKey | ErrorKind::InvalidInput) => false,
            Err(e) => {
                self.tiers.front_failed("remove", &e);
                return Err(e);
            }
            Ok(stored) => stored,
        };
        self.removed = true;
        self.tiers.keys.clear_stale(self.key);
        Ok(stored)
    }
}

impl Drop for StaleUnlessRemoved<'_> {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        let tiers = self.tiers;
        if let Some(task) = tiers.keys.mark_stale(self.key, tiers.front.capabilities().list) {
            tiers.spawn(repair(Arc::downgrade(tiers), task));
        }
    }
}

/// The same error as the answer for each of `n` keys.
pub(super) fn same_error<T>(error: &Error, n: usize) -> Vec<Result<T>> {
    (0..n).map(|_| Err(error.clone())).collect()
}
