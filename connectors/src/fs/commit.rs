//! Lets a dropped future stop the work that it started on blocking threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const RUNNING: usize = 0;
const CANCELLED: usize = 1;

/// The future's side: cancels the work when it is dropped.
pub(super) struct Cancel(Arc<AtomicUsize>);

/// The work's side; one for all that the future started.
#[derive(Clone)]
pub(super) struct Work(Arc<AtomicUsize>);

pub(super) fn cancellable() -> (Cancel, Work) {
    let state = Arc::new(AtomicUsize::new(RUNNING));
    (Cancel(state.clone()), Work(state))
}

impl Work {
    /// Whether the future is gone: what is not begun need not begin.
    pub(super) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire) == CANCELLED
    }

    /// A step that cannot be undone comes next, and is done also if the future is dropped from here on. `false` if the
    /// future is gone already.
    pub(super) fn commit(&self) -> bool {
        // Not a load, which may be late: what was dropped before this is seen by it.
        self.0.compare_exchange(RUNNING, RUNNING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(CANCELLED, Ordering::Release);
    }
}
