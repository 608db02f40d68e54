//! From a call's end to a future of asyncio.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use connectors::{Error, ErrorKind, MemoryObj, Result};
use futures::FutureExt;
use pyo3::IntoPyObjectExt;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyList};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::desk::{Asked, Desk};
use super::memory;
use crate::errors::{OrRaise, to_py};
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
pub(super) struct Call(State);

enum State {
    InRuntime(Own<AbortHandle>),
    AtDesk(Own<Weak<Desk>>, u64),
}

#[pymethods]
impl Call {
    /// Nobody waits any more: whatever the call holds is given back, now or when the I/O that runs has ended.
    fn cancel(&self) {
        // In a child that was forked since, the call is not there.
        match &self.0 {
            State::InRuntime(task) => {
                if let Ok(task) = task.get() {
                    task.abort();
                }
            }
            State::AtDesk(desk, id) => {
                if let Some(desk) = desk.get().ok().and_then(Weak::upgrade) {
                    desk.cancel(*id);
                }
            }
        }
    }
}

/// A call as it is polled. A panic is an answer, too.
pub(super) type Work = Pin<Box<dyn Future<Output = std::thread::Result<Result<Answer>>> + Send>>;

/// What Python gets of a call: a future of the loop and what cancels the call, or, of one that has ended, the answer and
/// nothing.
pub(super) type Started<'py> = (Bound<'py, PyAny>, Option<Call>);

/// Starts `work`; when it has ended, the future has its answer.
pub(super) fn start<'py>(
    process: &'static Process,
    event_loop: &Bound<'py, PyAny>,
    work: impl Future<Output = Result<Answer>> + Send + 'static,
) -> PyResult<Started<'py>> {
    let handle = process.handle().or_raise(event_loop.py())?;
    go_on(process, handle, event_loop, AssertUnwindSafe(work).catch_unwind())
}

/// As [`start`], for a question that moves no chunk: asked by this thread, before it goes on, and answered by it, if its loop
/// can do that. Saves the switches between threads, and the loop if the answer is known at once.
pub(super) fn ask<'py>(
    process: &'static Process,
    event_loop: &Bound<'py, PyAny>,
    work: impl Future<Output = Result<Answer>> + Send + 'static,
) -> PyResult<Started<'py>> {
    let py = event_loop.py();
    let handle = process.handle().or_raise(py)?;
    let mut work: Work = Box::pin(AssertUnwindSafe(work).catch_unwind());
    let Some(desk) = Desk::of(process, event_loop)? else { return go_on(process, handle, event_loop, work) };
    let id = match py.detach(|| desk.ask(handle, &mut work)) {
        Asked::Answered(answer) => return Ok((answer.or_raise(py)?.into_py(py)?, None)),
        Asked::Waits(id) => id,
    };
    let (future, caller) = Caller::new(process, event_loop)?;
    desk.keep(handle, id, work, caller);
    Ok((future, Some(Call(State::AtDesk(Own::new(Arc::downgrade(&desk)), id)))))
}

pub(super) fn or_panicked(answer: std::thread::Result<Result<Answer>>) -> Result<Answer> {
    answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Other, "the call panicked")))
}

fn go_on<'py>(
    process: &'static Process,
    handle: &Handle,
    event_loop: &Bound<'py, PyAny>,
    work: impl Future<Output = std::thread::Result<Result<Answer>>> + Send + 'static,
) -> PyResult<Started<'py>> {
    let (future, caller) = Caller::new(process, event_loop)?;
    let task = handle.spawn(async move {
        let answer = or_panicked(work.await);
        caller.tell(answer);
    });
    Ok((future, Some(Call(State::InRuntime(Own::new(task.abort_handle()))))))
}

/// Who waits: an asyncio future and its loop.
pub(super) struct Caller {
    future_and_loop: Option<(Py<PyAny>, Py<PyAny>)>,
    process: &'static Process,
}

impl Caller {
    /// With the future that it waits for.
    fn new<'py>(process: &'static Process, event_loop: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, Self)> {
        let future = event_loop.call_method0(intern!(event_loop.py(), "create_future"))?;
        let future_and_loop = Some((future.clone().unbind(), event_loop.clone().unbind()));
        Ok((future, Self { future_and_loop, process }))
    }

    /// From any thread.
    pub(super) fn tell(mut self, answer: Result<Answer>) {
        let Some((future, event_loop)) = self.future_and_loop.take() else { return };
        self.process.tell(move |py| {
            let (value, error) = parts(py, answer);
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

    /// On the loop's thread.
    pub(super) fn settle(mut self, py: Python<'_>, answer: Result<Answer>) -> PyResult<()> {
        let Some((future, _)) = self.future_and_loop.take() else { return Ok(()) };
        let (value, error) = parts(py, answer);
        settle(future.bind(py), value, error)
    }
}

/// The value or the exception.
fn parts(py: Python<'_>, answer: Result<Answer>) -> (Option<Bound<'_, PyAny>>, Option<Bound<'_, PyAny>>) {
    match answer.or_raise(py).and_then(|answer| answer.into_py(py)) {
        Ok(value) => (Some(value), None),
        Err(e) => (None, Some(e.into_value(py).into_bound(py).into_any())),
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some(objects) = self.future_and_loop.take() {
            self.process.tell(move |_| drop(objects));
        }
    }
}

/// The future gets its answer, unless nobody waits for it any more.
fn settle(future: &Bound<'_, PyAny>, value: Option<Bound<'_, PyAny>>, error: Option<Bound<'_, PyAny>>) -> PyResult<()> {
    let py = future.py();
    if future.call_method0(intern!(py, "done"))?.is_truthy()? {
        value.iter().for_each(give_back);
    } else if let Some(error) = error {
        future.call_method1(intern!(py, "set_exception"), (error,))?;
    } else {
        future.call_method1(intern!(py, "set_result"), (value,))?;
    }
    Ok(())
}

/// [`settle`], as the loop calls it. A value of `None` is one.
#[pyfunction]
fn _settle(
    future: &Bound<'_, PyAny>,
    value: Option<Bound<'_, PyAny>>,
    error: Option<Bound<'_, PyAny>>,
) -> PyResult<()> {
    settle(future, value, error)
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
