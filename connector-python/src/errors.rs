//! kvconn's errors as Python exceptions.

use connectors::{Error, ErrorKind};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;

use crate::process::in_python;

/// The exception for an error. A kind that users catch apart has a class of its own in `kvconn._errors`.
pub(crate) fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    of_class(py, class_of(error.kind()), error)
}

fn of_class(py: Python<'_>, class: &str, error: &Error) -> PyErr {
    let make = || {
        py.import("kvconn._errors")?.getattr(class)?.call1((
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
/// cause: a `UnicodeEncodeError` holds the whole text, such as a URL with its password.
pub(crate) fn refused(py: Python<'_>, kind: ErrorKind, error: PyErr) -> PyErr {
    let class = match () {
        () if error.is_instance_of::<PyTypeError>(py) => "InvalidTypeError",
        () if error.is_instance_of::<PyRuntimeError>(py) => "NoEventLoopError",
        () => "InvalidError",
    };
    of_class(py, class, &Error::new(kind, error.value(py).to_string()))
}

/// An argument of type `T`. Any other value is an `InvalidError`.
pub(crate) struct Arg<T>(pub(crate) T);

impl<'a, 'py, T: FromPyObject<'a, 'py>> FromPyObject<'a, 'py> for Arg<T> {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        object.extract().map(Self).map_err(|e: T::Error| refused(object.py(), ErrorKind::InvalidInput, e.into()))
    }
}

/// The error of an argument.
pub(crate) fn invalid(py: Python<'_>, message: impl Into<std::borrow::Cow<'static, str>>) -> PyErr {
    to_py(py, &Error::new(ErrorKind::InvalidInput, message))
}

fn class_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidUrl | ErrorKind::InvalidKey | ErrorKind::InvalidOption | ErrorKind::InvalidInput => {
            "InvalidError"
        }
        ErrorKind::Unavailable => "UnavailableError",
        ErrorKind::Timeout => "TimedOutError",
        ErrorKind::Closed => "ClosedError",
        _ => "KvconnError",
    }
}
