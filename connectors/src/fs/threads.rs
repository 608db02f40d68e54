//! Runs a store's work on blocking threads, and bounds it.
//!
//! Work on a blocking thread cannot be cut off. A call that is dropped while it waits for a disk leaves its thread and
//! its memory behind until the disk answers. So a store has at most [`AT_ONCE`] pieces of work, and other calls wait
//! without a thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use connector_core::layer::local_wait;
use connector_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;

/// Pieces of work of one store at once: enough for a fast disk or a far server.
const AT_ONCE: usize = 32;

/// A store's share of the blocking threads. Cheap to clone; clones are one share.
#[derive(Clone)]
pub(super) struct Threads {
    handle: Handle,
    free: Arc<Semaphore>,
}

impl Threads {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle, free: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Waits for a free place. Never gives `None`, because nothing closes the semaphore.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        local_wait(self.free.clone().acquire_owned()).await.ok()
    }

    /// Runs `job` on a blocking thread, as soon as the store has a free place. If this future is dropped, a `job` that
    /// has begun goes on.
    pub(super) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let place = self.place().await;
        let running = self.handle.spawn_blocking(move || {
            let answer = job();
            drop(place);
            answer
        });
        running.await.unwrap_or_else(|e| Err(lost(e)))
    }

    /// Runs `job` on a blocking thread without waiting for it, unless the store has too much work.
    pub(super) fn try_start(&self, job: impl FnOnce() + Send + 'static) {
        if let Ok(place) = self.free.clone().try_acquire_owned() {
            self.handle.spawn_blocking(move || {
                job();
                drop(place);
            });
        }
    }

    /// Runs `task`, which does its blocking work with [`run`](Self::run).
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    /// Runs `job`, which holds a place elsewhere, on a blocking thread.
    pub(super) fn start(&self, job: impl FnOnce() + Send + 'static) {
        self.handle.spawn_blocking(job);
    }
}

/// The longest work on an executor's thread between two yields.
const TURN: Duration = Duration::from_micros(100);

/// Lets other tasks of an executor run between pieces of work that do not wait.
pub(super) struct Pace(Instant);

impl Pace {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }

    /// Yields if the work has lasted long enough. Call it between two pieces.
    pub(super) async fn pause(&mut self) {
        if self.0.elapsed() > TURN {
            tokio::task::yield_now().await;
            self.0 = Instant::now();
        }
    }
}

/// The answer of the work, or an error if it panics.
pub(super) fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> Error {
    Error::new(ErrorKind::Other, "the work on a blocking thread panicked")
}

/// The error of a job that panicked or was cut off.
fn lost(e: JoinError) -> Error {
    if e.is_panic() { panicked() } else { Error::new(ErrorKind::Closed, "the tokio runtime is shutting down") }
}
