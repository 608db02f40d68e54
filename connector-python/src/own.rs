//! What belongs to the process that made it.
#![expect(unsafe_code, reason = "drops a value in one process only")]

use std::mem::ManuallyDrop;

use connectors::Result;

use crate::runtime::Process;

/// A value of one process. A child that was forked since has a copy, which it may look at, and forgets: to drop it would take
/// locks that a thread held at the fork, and that thread is not in the child; or it would close, in the sockets'
/// registration that both share, what the parent uses.
pub(crate) struct Own<T> {
    process: &'static Process,
    value: ManuallyDrop<T>,
}

impl<T> Own<T> {
    /// A value of this process.
    pub(crate) fn new(value: T) -> Self {
        Self { process: Process::current(), value: ManuallyDrop::new(value) }
    }

    /// The value, to be used.
    ///
    /// # Errors
    /// `Closed` in a child that was forked since.
    pub(crate) fn get(&self) -> Result<&T> {
        self.process.check()?;
        Ok(&self.value)
    }

    /// The value, in any process: for what takes no lock and needs no thread.
    pub(crate) fn look(&self) -> &T {
        &self.value
    }

    /// The process that it belongs to.
    pub(crate) fn process(&self) -> &'static Process {
        self.process
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        if self.process.is_current() {
            // SAFETY: it is not used any more.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}
