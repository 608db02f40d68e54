//! Futures of asyncio for calls into a store. No call takes a thread of its own.

use std::sync::Mutex;

use connectors::{Result, runtime};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tokio::task::AbortHandle;

use crate::buffer::Views;
use crate::call::{Call, Holder};
use crate::errors::{OrRaise, no_event_loop};
use crate::process::{ProcessLocal, in_python};
use crate::{lock, python_thread};

/// Starts a call and gives a future of the running event loop. To cancel the future ends the call. `views` stay exported
/// until nothing touches them any more; the answer comes after that.
pub(crate) fn start<'py, T: Send + 'static, F>(
    py: Python<'py>,
    views: Views,
    work: impl FnOnce(Holder<T>) -> F,
    to_python: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>>
where
    F: Future<Output = Result<T>> + Send + 'static,
{
    let runtime = runtime::handle().or_raise(py)?;
    let event_loop = running_loop(py)?;
    let future = in_python(py, || event_loop.call_method0(intern!(py, "create_future")))?;
    let (event_loop, waiting) = (event_loop.unbind(), future.clone().unbind());
    let call = Call::new(move |outcome: Result<T>| {
        python_thread::run(move |py| {
            views.release(py);
            let value: Value = Box::new(move |py| to_python(py, outcome.or_raise(py)?));
            let answer = Answer { future: waiting, value: Mutex::new(Some(value)) };
            // A loop that was closed refuses the answer, which is dropped with all that it holds.
            let _ = event_loop.call_method1(py, intern!(py, "call_soon_threadsafe"), (answer,));
        });
    });
    let work = work(call.clone());
    let task = runtime.spawn(call.run(work));
    let cancel = CancelCall(ProcessLocal::new(task.abort_handle()));
    in_python(py, || future.call_method1(intern!(py, "add_done_callback"), (cancel,)))?;
    Ok(future)
}

fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static RUNNING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    RUNNING.import(py, "asyncio", "get_running_loop")?.call0().map_err(|_| no_event_loop(py))
}

type Value = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;

/// Gives a future its answer; called by the event loop. The Python object is made only for a future that still waits: what
/// nothing waits for is dropped as it came from the store.
#[pyclass(frozen, module = "kvconn._kvconn")]
struct Answer {
    future: Py<PyAny>,
    value: Mutex<Option<Value>>,
}

#[pymethods]
impl Answer {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let Some(value) = lock(&self.value).take() else { return Ok(()) };
        let future = self.future.bind(py);
        in_python(py, || {
            if future.call_method0(intern!(py, "done"))?.is_truthy()? {
                return Ok(());
            }
            match value(py) {
                Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
                Err(e) => future.call_method1(intern!(py, "set_exception"), (e.into_value(py),))?,
            };
            Ok(())
        })
    }
}

/// Ends a call when its future is cancelled.
#[pyclass(frozen, module = "kvconn._kvconn")]
struct CancelCall(ProcessLocal<AbortHandle>);

#[pymethods]
impl CancelCall {
    fn __call__(&self, future: &Bound<'_, PyAny>) -> PyResult<()> {
        if future.call_method0(intern!(future.py(), "cancelled"))?.is_truthy()? {
            // A child that was forked since has no such call.
            if let Ok(call) = self.0.get() {
                call.abort();
            }
        }
        Ok(())
    }
}
