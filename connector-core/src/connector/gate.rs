//! Counts the calls in flight, and closes after the last one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::runtime::forks;
use crate::{Error, ErrorKind, Result};

/// Counts the calls in flight. Once closed it refuses new calls, and `close` waits for the last one. A child of `fork`
/// is refused, too: its parent has the connector's threads and sockets.
///
/// [`Connector`](crate::Connector) holds one for every connector. A connector whose work outlives its futures
/// (blocking threads, background writers) holds its own gate and moves a [`Pass`] into that work.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<State>);

#[derive(Debug)]
struct State {
    /// The process that made the gate.
    forks: u64,
    /// Twice the number of passes, plus 1 once closed. One word, so that entering and closing use one atomic.
    word: AtomicUsize,
    empty: Notify,
    closed: Notify,
}

impl Default for State {
    fn default() -> Self {
        Self { forks: forks(), word: AtomicUsize::new(0), empty: Notify::new(), closed: Notify::new() }
    }
}

const CLOSED: usize = 1;
const ONE: usize = 2;

/// One call in flight, until dropped.
#[derive(Debug)]
pub struct Pass(Arc<State>);

impl Gate {
    /// Starts a call.
    ///
    /// # Errors
    /// `Closed` once [`close`](Self::close) was called, and in a child of `fork`.
    pub fn enter(&self) -> Result<Pass> {
        self.count_in()?;
        Ok(Pass(self.0.clone()))
    }

    /// As [`enter`](Self::enter) for a call that borrows the gate. Saves the reference count.
    pub(crate) fn enter_ref(&self) -> Result<PassRef<'_>> {
        self.count_in()?;
        Ok(PassRef(&self.0))
    }

    fn count_in(&self) -> Result<()> {
        if self.is_parents() {
            return Err(Error::new(ErrorKind::Closed, "the store was opened before this process was forked")
                .with_hint("open it again in the child"));
        }
        let before = self.0.word.fetch_add(ONE, Ordering::AcqRel);
        if before & CLOSED != 0 {
            self.0.leave();
            return Err(Error::closed());
        }
        Ok(())
    }

    /// Whether a parent of this process made the gate.
    pub(crate) fn is_parents(&self) -> bool {
        self.0.forks != forks()
    }

    /// Refuses new calls and waits until the last one in flight has ended. Any number of callers may call it. A child
    /// of `fork` does not wait for its parent's calls.
    pub async fn close(&self) {
        if self.is_parents() {
            return;
        }
        self.0.word.fetch_or(CLOSED, Ordering::AcqRel);
        self.0.closed.notify_waiters();
        loop {
            let left = self.0.empty.notified();
            tokio::pin!(left);
            // Registers before it reads the word, so that it does not miss a call that leaves in between.
            left.as_mut().enable();
            if self.0.word.load(Ordering::Acquire) < ONE {
                return;
            }
            left.await;
        }
    }

    /// Waits until [`close`](Self::close) is called.
    pub(crate) async fn closed(&self) {
        let closed = self.0.closed.notified();
        tokio::pin!(closed);
        closed.as_mut().enable();
        if !self.is_closed() {
            closed.await;
        }
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.0.word.load(Ordering::Acquire) & CLOSED != 0
    }
}

impl State {
    fn leave(&self) {
        if self.word.fetch_sub(ONE, Ordering::AcqRel) == ONE + CLOSED {
            self.empty.notify_waiters();
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.leave();
    }
}

pub(crate) struct PassRef<'a>(&'a State);

impl Drop for PassRef<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn close_waits_for_the_last_pass_and_refuses_new_ones() {
        let gate = Gate::default();
        let pass = gate.enter().unwrap();
        let closing = tokio::spawn({
            let gate = gate.clone();
            async move { gate.close().await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!closing.is_finished());
        assert_eq!(gate.enter().unwrap_err().kind(), ErrorKind::Closed);
        drop(pass);
        closing.await.unwrap();
        gate.close().await;
        assert!(gate.is_closed());
    }
}
