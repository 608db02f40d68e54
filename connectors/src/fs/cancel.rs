//! Stops the work on blocking threads when the future that started it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The future's side: cancels the work when it is dropped.
pub(super) struct CancelOnDrop(Arc<AtomicBool>);

/// The work's side.
pub(super) struct Work(Arc<AtomicBool>);

pub(super) fn cancellable() -> (CancelOnDrop, Work) {
    let is_cancelled = Arc::new(AtomicBool::new(false));
    (CancelOnDrop(is_cancelled.clone()), Work(is_cancelled))
}

impl Work {
    /// Whether the future is gone, so that work that has not begun need not begin.
    pub(super) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Whether to take a step that cannot be undone. After `true`, the thread takes the step even if the future is
    /// dropped meanwhile.
    pub(super) fn commit(&self) -> bool {
        // RMW, not a load: it must observe a cancel that happened before.
        !self.0.fetch_or(false, Ordering::AcqRel)
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
