//! One call into a store, and the two ways to wait for it.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use connectors::{Connector, Error, ErrorKind, Result};
use futures::FutureExt;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::buffer::Views;
use crate::engine::cut_off;
use crate::errors::{OrRaise, refused, to_py};
use crate::{asyncio, blocking, lock};

/// One call into a store. Its outcome is delivered when the last holder drops it. The task that makes the call is one
/// holder, and each piece of memory that Python lent to the call is another.
///
/// So there is exactly one delivery, and nothing touches the memory after it. This holds for an answer, an error, a panic,
/// a dropped future, a blocking read that outlives its future, and a runtime that shuts down.
pub(crate) struct Call<T> {
    outcome: Mutex<Option<Result<T>>>,
    deliver: Mutex<Option<Deliver<T>>>,
}

type Deliver<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// Keeps a call from delivering its outcome.
pub(crate) type Holder<T> = Arc<Call<T>>;

impl<T> Call<T> {
    /// A call whose outcome goes to `deliver`, which runs on any thread and must neither block nor attach.
    pub(crate) fn new(deliver: impl FnOnce(Result<T>) + Send + 'static) -> Holder<T> {
        Arc::new(Self { outcome: Mutex::default(), deliver: Mutex::new(Some(Box::new(deliver))) })
    }

    /// Makes the call. A panic is an error.
    pub(crate) async fn run(self: Arc<Self>, work: impl Future<Output = Result<T>>) {
        let panicked = |_| Err(Error::new(ErrorKind::Other, "the call panicked"));
        let outcome = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(panicked);
        *lock(&self.outcome) = Some(outcome);
    }
}

impl<T> Drop for Call<T> {
    fn drop(&mut self) {
        let outcome = lock(&self.outcome).take().unwrap_or_else(|| Err(cut_off()));
        if let Some(deliver) = lock(&self.deliver).take() {
            deliver(outcome);
        }
    }
}

/// The argument `timeout` of a store's methods.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeout(Option<Duration>);

impl Timeout {
    /// The limits of the store's own options.
    pub(crate) const NONE: Self = Self(None);

    /// The store with this limit for each call.
    pub(crate) fn of(self, connector: &Connector) -> Connector {
        self.0.map_or_else(|| connector.clone(), |limit| connector.within(limit))
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Timeout {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let py = object.py();
        if object.is_none() {
            return Ok(Self::NONE);
        }
        let seconds = match object.extract::<f64>() {
            Ok(seconds) if !object.is_instance_of::<PyBool>() => seconds,
            _ => {
                let message = format!("`timeout` is a {}, not a number of seconds", object.get_type().name()?);
                return Err(refused(py, ErrorKind::InvalidInput, PyTypeError::new_err(message)));
            }
        };
        if seconds.is_nan() || seconds <= 0.0 {
            let e = Error::new(
                ErrorKind::InvalidInput,
                format!("`timeout` is {seconds} seconds, which leaves no time for a call"),
            );
            return Err(to_py(
                py,
                &e.with_hint("leave it out for the limits of the store's options; `math.inf` removes the limit"),
            ));
        }
        // More seconds than a `Duration` holds do not limit a call.
        Ok(Self(Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))))
    }
}

/// How the caller of a store's method waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitMode {
    /// Methods return the answer.
    Blocking,
    /// Methods return a future of the running event loop.
    Asyncio,
}

impl WaitMode {
    /// Makes a call. `views` stay exported until nothing touches them any more; the answer comes after that.
    pub(crate) fn run<T: Send + 'static, F>(
        self,
        py: Python<'_>,
        views: Views,
        work: impl FnOnce(Holder<T>) -> F,
        to_python: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Py<PyAny>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        match self {
            Self::Blocking => {
                let answer = blocking::wait(py, views, work)?.or_raise(py)?;
                to_python(py, answer)
            }
            Self::Asyncio => asyncio::start(py, views, work, to_python).map(Bound::unbind),
        }
    }
}
