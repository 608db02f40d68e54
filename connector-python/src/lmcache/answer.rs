//! From a call's end to a future of asyncio.

use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll, Waker};

use connectors::{Error, ErrorKind, MemoryObj, Result};
use futures::FutureExt;
use pyo3::IntoPyObjectExt;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyList};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::memory;
use crate::errors::to_py;
use crate::own::Own;
use crate::runtime::Process;

/// What a call gives.
pub(super) enum Answer {
    Done,
    Flag(bool),
    Count(usize),
    Keys(Vec<String>),
    Chunk(Option<MemoryObj>),
    Chunks(Vec<Result<Option<MemoryObj>>>),
    Puts(Vec<Result<()>>),
}

impl Answer {
    /// As Python gets it. In a list, an error stands where its answer would.
    pub(super) fn into_py(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        match self {
            Self::Done => Ok(py.None().into_bound(py)),
            Self::Flag(flag) => flag.into_bound_py_any(py),
            Self::Count(count) => count.into_bound_py_any(py),
            Self::Keys(keys) => keys.into_bound_py_any(py),
            Self::Chunk(chunk) => object_of(py, chunk),
            Self::Chunks(chunks) => {
                let objects = PyList::empty(py);
                for chunk in chunks {
                    let object = chunk.map_err(|e| to_py(py, &e)).and_then(|chunk| object_of(py, chunk));
                    objects.append(object.unwrap_or_else(|e| e.into_value(py).into_bound(py).into_any()))?;
                }
                Ok(objects.into_any())
            }
            Self::Puts(puts) => {
                let errors = PyList::empty(py);
                for put in puts {
                    errors.append(put.err().map(|e| to_py(py, &e).into_value(py)))?;
                }
                Ok(errors.into_any())
            }
        }
    }
}

fn object_of(py: Python<'_>, chunk: Option<MemoryObj>) -> PyResult<Bound<'_, PyAny>> {
    let Some(chunk) = chunk else { return Ok(py.None().into_bound(py)) };
    let missing = || Error::new(ErrorKind::Other, "the chunk is in no memory of LMCache's");
    memory::hand_over(py, chunk)?.map(|object| object.into_bound(py)).ok_or_else(|| to_py(py, &missing()))
}

/// A call that was started for a future of asyncio.
#[pyclass(frozen, module = "kvconn._kvconn")]
pub(super) struct Call(Option<Own<AbortHandle>>);

#[pymethods]
impl Call {
    /// Nobody waits any more: whatever the call holds is given back, now or when the I/O that runs has ended.
    fn cancel(&self) {
        // In a child that was forked since, the call is not there.
        if let Some(Ok(call)) = self.0.as_ref().map(Own::get) {
            call.abort();
        }
    }
}

/// Starts `work`; when it has ended, `future` has its answer.
pub(super) fn start(
    process: &'static Process,
    future: &Bound<'_, PyAny>,
    work: impl Future<Output = Result<Answer>> + Send + 'static,
) -> PyResult<Call> {
    let handle = process.handle().map_err(|e| to_py(future.py(), &e))?;
    go_on(process, handle, future, AssertUnwindSafe(work).catch_unwind())
}

/// As [`start`], for a question that moves no chunk: asked by this thread, before it goes on. Saves a switch between threads,
/// and the whole way through them if the answer is known at once.
pub(super) fn ask(
    process: &'static Process,
    future: &Bound<'_, PyAny>,
    work: impl Future<Output = Result<Answer>> + Send + 'static,
) -> PyResult<Call> {
    let py = future.py();
    let handle = process.handle().map_err(|e| to_py(py, &e))?;
    let mut work = Box::pin(AssertUnwindSafe(work).catch_unwind());
    let polled = py.detach(|| {
        let _inside = handle.enter();
        work.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    });
    match polled {
        Poll::Ready(answer) => {
            let answer = or_panicked(answer).map_err(|e| to_py(py, &e)).and_then(|answer| answer.into_py(py));
            match answer {
                Ok(value) => future.call_method1(intern!(py, "set_result"), (value,))?,
                Err(e) => future.call_method1(intern!(py, "set_exception"), (e.into_value(py),))?,
            };
            Ok(Call(None))
        }
        // Polled there again, so that it wakes that runtime.
        Poll::Pending => go_on(process, handle, future, work),
    }
}

fn or_panicked(answer: std::thread::Result<Result<Answer>>) -> Result<Answer> {
    answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Other, "the call panicked")))
}

fn go_on(
    process: &'static Process,
    handle: &Handle,
    future: &Bound<'_, PyAny>,
    work: impl Future<Output = std::thread::Result<Result<Answer>>> + Send + 'static,
) -> PyResult<Call> {
    let py = future.py();
    let caller = Caller {
        future_and_loop: Some((future.clone().unbind(), future.call_method0(intern!(py, "get_loop"))?.unbind())),
        process,
    };
    let task = handle.spawn(async move {
        let answer = or_panicked(work.await);
        caller.tell(answer);
    });
    Ok(Call(Some(Own::new(task.abort_handle()))))
}

/// Who waits: an asyncio future and its loop.
struct Caller {
    future_and_loop: Option<(Py<PyAny>, Py<PyAny>)>,
    process: &'static Process,
}

impl Caller {
    fn tell(mut self, answer: Result<Answer>) {
        let Some((future, event_loop)) = self.future_and_loop.take() else { return };
        self.process.tell(move |py| {
            let (value, error) = match answer.map_err(|e| to_py(py, &e)).and_then(|answer| answer.into_py(py)) {
                Ok(value) => (Some(value), None),
                Err(e) => (None, Some(e.into_value(py))),
            };
            let told = settler(py).and_then(|settle| {
                let call = (settle, future, value.as_ref(), error);
                event_loop.call_method1(py, intern!(py, "call_soon_threadsafe"), call)
            });
            // The loop was closed: nobody will ever take it.
            if let (Err(_), Some(value)) = (told, value) {
                give_back(&value);
            }
        });
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some(objects) = self.future_and_loop.take() {
            self.process.tell(move |_| drop(objects));
        }
    }
}

/// On the loop's thread: the future gets its answer, unless nobody waits for it any more.
#[pyfunction]
fn _settle(future: &Bound<'_, PyAny>, value: &Bound<'_, PyAny>, error: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    if future.call_method0(intern!(py, "done"))?.is_truthy()? {
        give_back(value);
    } else if error.is_none() {
        future.call_method1(intern!(py, "set_result"), (value,))?;
    } else {
        future.call_method1(intern!(py, "set_exception"), (error,))?;
    }
    Ok(())
}

fn settler(py: Python<'_>) -> PyResult<&Bound<'_, PyCFunction>> {
    static SETTLE: PyOnceLock<Py<PyCFunction>> = PyOnceLock::new();
    let make = || wrap_pyfunction!(_settle, py).map(Bound::unbind);
    SETTLE.get_or_try_init(py, make).map(|settle| settle.bind(py))
}

/// Gives back the memory of an answer that nobody takes: an object, or a list of them.
#[pyfunction(name = "_give_back")]
pub(super) fn give_back(value: &Bound<'_, PyAny>) {
    if let Ok(list) = value.cast::<PyList>() {
        list.iter().for_each(|value| give_back(&value));
    } else if value.hasattr(intern!(value.py(), "ref_count_down")).unwrap_or(false) {
        memory::release(value);
    }
}
