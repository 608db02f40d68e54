//! The connections of one kind to a server.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connector_core::Result;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::connection::{Connection, Progress};
use super::opening::Ready;

/// Connections that one call at a time uses.
pub(in super::super) struct Pool {
    pub(super) permits: Semaphore,
    /// Permits that are put aside, because the server refuses more connections.
    pub(super) aside: AtomicUsize,
    open: Mutex<Open>,
    /// The tasks that open connections. A drop ends them. Locked before `open`.
    opening: Mutex<JoinSet<()>>,
    /// Whether it is for calls that move no chunks.
    pub(super) is_small: bool,
    pub(super) size: usize,
    pub(super) buffer_len: usize,
    /// Calls that wait for a permit.
    pub(super) waiting: AtomicUsize,
    /// The reads and writes on all connections of the pool.
    pub(super) progress: Arc<Progress>,
}

/// The connections that are open.
#[derive(Default)]
pub(super) struct Open {
    /// A stack. The server may close long-idle connections, so kvconn uses the last one first.
    pub(super) idle: Vec<Connection>,
    /// The number of connections that calls use.
    pub(super) in_use: usize,
    /// The calls that have a permit and no connection.
    pub(super) waiters: VecDeque<Waiter>,
    /// The number of attempts to open a connection.
    pub(super) attempts: usize,
}

/// A call that waits for a connection.
pub(super) struct Waiter {
    pub(super) sender: oneshot::Sender<Result<Ready>>,
    /// [`Reach::generation`](super::Reach::generation) when the wait began.
    pub(super) generation: usize,
    /// When the wait began.
    pub(super) since: Instant,
}

/// A place in a pool for a connection in use.
pub(super) struct Slot<'a> {
    pub(super) pool: &'a Pool,
    /// Released last, because the next call that gets it looks for the connection.
    pub(super) _permit: SemaphorePermit<'a>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.pool.open().in_use -= 1;
    }
}

impl Pool {
    pub(super) fn new(is_small: bool, size: usize, buffer_len: usize) -> Self {
        Self {
            permits: Semaphore::new(size),
            aside: AtomicUsize::new(0),
            open: Mutex::default(),
            opening: Mutex::default(),
            is_small,
            size,
            buffer_len,
            waiting: AtomicUsize::new(0),
            progress: Arc::default(),
        }
    }

    /// Closes the idle connections, and ends the attempts and the calls that wait for a connection.
    pub(super) fn close(&self) {
        self.permits.close();
        self.opening().abort_all();
        let mut open = self.open();
        open.idle.clear();
        open.waiters.clear();
    }

    /// Counts one waiting call until the guard is dropped.
    pub(super) fn count_waiting(&self) -> impl Drop + use<'_> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }

    pub(super) fn opening(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
