//! Values that belong to one process, and the end of a process.
#![expect(unsafe_code, reason = "drops a value in one process only")]

use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use connectors::{Error, ErrorKind, Result, runtime};
use pyo3::prelude::*;

use crate::python_thread;

/// How long the interpreter's exit waits for what cannot be cut off, such as a read from a disk.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The process that made something, by its number of forks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessId(u64);

impl ProcessId {
    /// The process that runs.
    pub(crate) fn current() -> Self {
        Self(runtime::forks())
    }

    /// False in a child that was forked since.
    pub(crate) fn is_current(self) -> bool {
        self.0 == runtime::forks()
    }

    /// # Errors
    /// `Closed` in a child that was forked since.
    pub(crate) fn check(self) -> Result<()> {
        if self.is_current() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Closed, "the store was opened before this process was forked")
            .with_hint("open it again in the child"))
    }
}

/// A value of one process. A child that was forked since has a copy and never drops it. To drop the copy could take a lock
/// that a thread held at the fork, or close what the parent still uses.
pub(crate) struct ProcessLocal<T> {
    process: ProcessId,
    value: ManuallyDrop<T>,
}

impl<T> ProcessLocal<T> {
    /// A value of this process.
    pub(crate) fn new(value: T) -> Self {
        Self { process: ProcessId::current(), value: ManuallyDrop::new(value) }
    }

    /// The value.
    ///
    /// # Errors
    /// `Closed` in a child that was forked since.
    pub(crate) fn get(&self) -> Result<&T> {
        self.process.check()?;
        Ok(&self.value)
    }

    /// The value, in any process. For reads that take no lock and need no thread.
    pub(crate) fn peek(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for ProcessLocal<T> {
    fn drop(&mut self) {
        if self.process.is_current() {
            // SAFETY: nothing uses the value after this.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

/// Ends every call before the interpreter frees the memory that stores may still write to.
#[pyfunction]
fn _exit(py: Python<'_>) {
    py.detach(|| {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        runtime::shut_down(EXIT_TIMEOUT);
        python_thread::stop(deadline);
    });
}

/// Has Python call [`_exit`] when it exits.
pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let exit = wrap_pyfunction!(_exit, m)?;
    m.py().import("atexit")?.call_method1("register", (exit,))?;
    Ok(())
}
