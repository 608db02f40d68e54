//! kvconn's errors as Python exceptions.

use connectors::{Error, ErrorKind};
use pyo3::exceptions::{PyException, PyOverflowError, PyTypeError};
use pyo3::prelude::*;

use crate::process::in_python;

/// The exception for an error. `kvconn._errors` chooses its class by the kind.
pub(crate) fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    made_by(py, "of_kind", error)
}

/// The exception that a class or a function of `kvconn._errors` makes.
fn made_by(py: Python<'_>, maker: &str, error: &Error) -> PyErr {
    let make = || {
        py.import("kvconn._errors")?.getattr(maker)?.call1((
            error.to_string(),
            error.kind().as_str(),
            error.operation(),
            error.connector(),
            error.key(),
            error.hint(),
            error.is_temporary(),
        ))
    };
    match in_python(py, make) {
        Ok(exception) => PyErr::from_value(exception),
        Err(e) => e,
    }
}

/// A `Result` of kvconn's as one of Python's.
pub(crate) trait OrRaise<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T> OrRaise<T> for connectors::Result<T> {
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|e| to_py(py, &e))
    }
}

/// An exception of Python's own about an argument, as the `KvconnError` that is also of the customary class. It has no
/// cause: a `UnicodeEncodeError` holds the whole text, such as a URL with its password. `KeyboardInterrupt` and the like
/// stay.
pub(crate) fn refused(py: Python<'_>, kind: ErrorKind, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyException>(py) {
        return error;
    }
    let class = if error.is_instance_of::<PyTypeError>(py) { "InvalidTypeError" } else { "InvalidError" };
    made_by(py, class, &Error::new(kind, error.value(py).to_string()))
}

/// The error of a call on asyncio without an event loop.
pub(crate) fn no_event_loop(py: Python<'_>) -> PyErr {
    let message = "no event loop of asyncio runs in this thread, and an `AsyncStore` needs one: asyncio, uvloop, or anyio \
                   on asyncio; with trio, call a `Store` in a thread";
    made_by(py, "NoEventLoopError", &Error::new(ErrorKind::InvalidInput, message))
}

/// An argument of type `T`. Any other value is an `InvalidError`.
pub(crate) struct Arg<T>(pub(crate) T);

impl<'a, 'py, T: FromPyObject<'a, 'py>> FromPyObject<'a, 'py> for Arg<T> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let py = object.py();
        object.extract().map(Self).map_err(|e: T::Error| {
            let e = e.into();
            match e.is_instance_of::<PyOverflowError>(py) {
                // Python's own message speaks of Rust's types.
                true => invalid(py, format!("{} is out of range: write whole numbers from 0 on", *object)),
                false => refused(py, ErrorKind::InvalidInput, e),
            }
        })
    }
}

/// The error of an argument.
pub(crate) fn invalid(py: Python<'_>, message: impl Into<std::borrow::Cow<'static, str>>) -> PyErr {
    to_py(py, &Error::new(ErrorKind::InvalidInput, message))
}

/// The names of all kinds of errors.
#[pyfunction]
fn _error_kinds() -> [&'static str; ErrorKind::ALL.len()] {
    ErrorKind::ALL.map(ErrorKind::as_str)
}

pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(_error_kinds, m)?)
}
