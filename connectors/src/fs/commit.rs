//! Lets a dropped future stop the work that it started on a blocking thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const RUNNING: u8 = 0;
const COMMITTED: u8 = 1;
const CANCELLED: u8 = 2;

/// The future's side: cancels the work when it is dropped.
pub(super) struct Cancel(Arc<AtomicU8>);

/// The work's side.
pub(super) struct Work(Arc<AtomicU8>);

pub(super) fn cancellable() -> (Cancel, Work) {
    let state = Arc::new(AtomicU8::new(RUNNING));
    (Cancel(state.clone()), Work(state))
}

impl Work {
    /// Whether the future is gone: what is not begun need not begin.
    pub(super) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire) == CANCELLED
    }

    /// The step that cannot be undone comes next: from here on the work is done, also if the future is dropped. `false`
    /// if the future is gone already. The two cannot both win.
    pub(super) fn commit(&self) -> bool {
        self.0.compare_exchange(RUNNING, COMMITTED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        let _ = self.0.compare_exchange(RUNNING, CANCELLED, Ordering::AcqRel, Ordering::Acquire);
    }
}
