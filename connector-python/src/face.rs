//! The two ways to wait for a call: Python's thread stands still without the interpreter's lock, or an asyncio future is
//! set by the one thread that brings news. Neither takes a thread for each call.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::task::{Context, Poll, Waker};

use connectors::{Error, ErrorKind, Result};
use pyo3::exceptions::PyStopAsyncIteration;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tokio::task::AbortHandle;

use crate::buffer::Views;
use crate::call::Call;
use crate::errors::{OrRaise, to_py};
use crate::own::Own;
use crate::runtime::{Process, wait_for};

/// How a store's calls are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Face {
    /// Methods return what they found.
    Blocking,
    /// Methods return a future of the running event loop.
    Async,
}

/// What a call gives to the memory that it was lent.
pub(crate) type Holder<T> = Arc<Call<Result<T>>>;

impl Face {
    /// Runs a call. `views` are exported until nothing touches them any more, and the answer comes after that.
    pub(crate) fn run<T: Send + 'static, F>(
        self,
        py: Python<'_>,
        views: Views,
        work: impl FnOnce(Holder<T>) -> F,
        show: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Py<PyAny>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        match self {
            Self::Blocking => {
                let answer = blocking(py, views, work)?.or_raise(py)?;
                show(py, answer)
            }
            Self::Async => in_loop(py, views, work, show),
        }
    }

    /// What is known already, as a call would give it.
    pub(crate) fn ready(self, py: Python<'_>, value: PyResult<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        if self == Self::Blocking {
            return value;
        }
        let future = running_loop(py)?.call_method0("create_future")?;
        match value {
            Ok(value) => future.call_method1("set_result", (value,))?,
            Err(e) => future.call_method1("set_exception", (e.into_value(py),))?,
        };
        Ok(future.unbind())
    }

    /// The end of an iteration. A future cannot hold `StopIteration`, and does not have to.
    pub(crate) fn end(self) -> PyErr {
        match self {
            Self::Blocking => pyo3::exceptions::PyStopIteration::new_err(()),
            Self::Async => PyStopAsyncIteration::new_err(()),
        }
    }
}

fn cut_off() -> Error {
    Error::new(ErrorKind::Closed, "the call was cut off: the process exits")
}

fn blocking<T: Send + 'static, F>(
    py: Python<'_>,
    views: Views,
    work: impl FnOnce(Holder<T>) -> F,
) -> PyResult<Result<T>>
where
    F: Future<Output = Result<T>> + Send + 'static,
{
    let handle = Process::current().handle().or_raise(py)?;
    let (send, receive) = sync_channel(1);
    let call = Arc::new(Call::new(move |outcome: Option<Result<T>>| {
        // Should Ctrl-C have ended the wait, the views end with the message.
        let _ = send.send((outcome, views));
    }));
    let work = work(call.clone());
    let task = py.detach(move || {
        let mut work = Box::pin(work);
        {
            // What is ready at once (a chunk in memory) needs no other thread.
            let _inside = handle.enter();
            if let Poll::Ready(answer) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                call.set(answer);
                return None;
            }
        }
        // Polled there again, so that it wakes that runtime.
        let task = handle.spawn(async move { call.set(work.await) });
        Some(task.abort_handle())
    });
    let received = wait_for(py, receive);
    if let (Err(_), Some(task)) = (&received, task) {
        task.abort();
    }
    let (outcome, views) = received?;
    views.release(py);
    Ok(outcome.unwrap_or_else(|| Err(cut_off())))
}

fn in_loop<T: Send + 'static, F>(
    py: Python<'_>,
    views: Views,
    work: impl FnOnce(Holder<T>) -> F,
    show: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Py<PyAny>>
where
    F: Future<Output = Result<T>> + Send + 'static,
{
    let process = Process::current();
    let handle = process.handle().or_raise(py)?;
    let event_loop = running_loop(py)?;
    let future = event_loop.call_method0("create_future")?;
    let (to_loop, to_set) = (event_loop.unbind(), future.clone().unbind());
    let call = Arc::new(Call::new(move |outcome: Option<Result<T>>| {
        process.tell(move |py| {
            views.release(py);
            let answer = match outcome.unwrap_or_else(|| Err(cut_off())) {
                Ok(answer) => show(py, answer),
                Err(e) => Err(to_py(py, &e)),
            };
            // A loop that was closed meanwhile has nobody left who waits.
            let _ = settle_in(py, &to_loop, to_set, answer);
        });
    }));
    let work = work(call.clone());
    let task = handle.spawn(async move { call.set(work.await) });
    future.call_method1("add_done_callback", (Canceller(Own::new(task.abort_handle())),))?;
    Ok(future.unbind())
}

fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    RUNNING.import(py, "asyncio", "get_running_loop")?.call0()
}

fn settle_in(py: Python<'_>, event_loop: &Py<PyAny>, future: Py<PyAny>, answer: PyResult<Py<PyAny>>) -> PyResult<()> {
    static SETTLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let settle = SETTLE.get_or_try_init(py, || Ok::<_, PyErr>(wrap_pyfunction!(settle, py)?.into_any().unbind()))?;
    let (value, failed) = match answer {
        Ok(value) => (value, false),
        Err(e) => (e.into_value(py).into_any(), true),
    };
    event_loop.call_method1(py, "call_soon_threadsafe", (settle, future, value, failed))?;
    Ok(())
}

#[pyfunction]
fn settle(future: &Bound<'_, PyAny>, value: Py<PyAny>, failed: bool) -> PyResult<()> {
    // It may have been cancelled on the way.
    if !future.call_method0("done")?.extract::<bool>()? {
        future.call_method1(if failed { "set_exception" } else { "set_result" }, (value,))?;
    }
    Ok(())
}

/// Ends the call when its future is cancelled.
#[pyclass(frozen)]
struct Canceller(Own<AbortHandle>);

#[pymethods]
impl Canceller {
    fn __call__(&self, future: &Bound<'_, PyAny>) -> PyResult<()> {
        if future.call_method0("cancelled")?.extract()? {
            // In a child that was forked since, the call is not there.
            if let Ok(call) = self.0.get() {
                call.abort();
            }
        }
        Ok(())
    }
}
