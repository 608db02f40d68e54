//! Waiting for a call on the thread that makes it, without the interpreter's lock.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use connectors::{Result, runtime};
use pyo3::prelude::*;

use crate::buffer::Views;
use crate::call::{Call, Holder};
use crate::errors::OrRaise;

/// How often a call that waits checks for Ctrl-C.
const SIGNALS_EVERY: Duration = Duration::from_millis(100);

/// Waits for a future. Ctrl-C ends the wait and the future.
///
/// # Errors
/// The outer one: `KeyboardInterrupt`, or what a signal's handler raises; `ClosedError` when the process exits.
pub(crate) fn block_on<T: Send + 'static>(
    py: Python<'_>,
    future: impl Future<Output = Result<T>> + Send + 'static,
) -> PyResult<Result<T>> {
    wait(py, Views::none(), |_| future)
}

/// Makes a call and waits for it. `views` stay exported until nothing touches them any more.
///
/// # Errors
/// As [`block_on`].
pub(crate) fn wait<T: Send + 'static, F>(
    py: Python<'_>,
    views: Views,
    work: impl FnOnce(Holder<T>) -> F,
) -> PyResult<Result<T>>
where
    F: Future<Output = Result<T>> + Send + 'static,
{
    let handle = runtime::handle().or_raise(py)?;
    let (send, answers) = channel();
    let call = Call::new(move |outcome| {
        // After Ctrl-C nothing receives it, and the views end here.
        let _ = send.send((outcome, views));
    });
    let work = work(call.clone());
    let received = py.detach(move || {
        let mut running = Box::pin(call.run(work));
        let task = {
            let _inside = handle.enter();
            // Saves two wake-ups for an answer that is ready at once, such as a chunk in memory.
            match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(()) => None,
                // The runtime polls it again, which registers the runtime's waker.
                Poll::Pending => Some(handle.spawn(running)),
            }
        };
        let received = receive(&answers);
        if let (Err(_), Some(task)) = (&received, task) {
            task.abort();
        }
        received
    });
    // A call always delivers, so only a delivery that panicked gives nothing.
    let (outcome, views) = received?.ok_or_else(no_answer)?;
    views.release(py);
    Ok(outcome)
}

/// Waits for a message. None if its sender is gone. The calling thread must not be attached.
///
/// # Errors
/// As [`until`].
pub(crate) fn receive<T>(messages: &Receiver<T>) -> PyResult<Option<T>> {
    let message = until(None, |longest| match messages.recv_timeout(longest) {
        Ok(message) => Some(Some(message)),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => Some(None),
    })?;
    Ok(message.flatten())
}

/// Repeats `step` until it gives a value. None if `deadline` passes before. A step may wait as long as it is given. The
/// calling thread must not be attached.
///
/// # Errors
/// `KeyboardInterrupt`, or the exception of a signal's handler.
pub(crate) fn until<T>(deadline: Option<Instant>, mut step: impl FnMut(Duration) -> Option<T>) -> PyResult<Option<T>> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if let Some(value) = step(left.unwrap_or(SIGNALS_EVERY).min(SIGNALS_EVERY)) {
            return Ok(Some(value));
        }
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(None);
        }
        check_signals()?;
    }
}

/// Runs the handlers of signals that have come.
fn check_signals() -> PyResult<()> {
    // Python runs them on its main thread only, which usually is the first thread of the process. Another thread must not
    // attach for nothing: it may still wait here when the interpreter is gone.
    let is_first = rustix::thread::gettid() == rustix::process::getpid();
    if is_first { Python::attach(|py| py.check_signals()) } else { Ok(()) }
}

/// The error of a call whose delivery panicked.
pub(crate) fn no_answer() -> PyErr {
    pyo3::exceptions::PyRuntimeError::new_err("the call gave no answer")
}
