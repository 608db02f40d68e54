//! kvconn's errors as Python exceptions.

use connectors::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// The exception for an error. A kind that users catch apart has a class of its own in `kvconn._errors`.
pub(crate) fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    let make = || {
        let class = class_of(py, error.kind())?;
        let kind = error.kind().as_str();
        class.call1((
            error.to_string(),
            kind,
            error.operation(),
            error.connector(),
            error.key(),
            error.hint(),
            error.is_temporary(),
        ))
    };
    match make() {
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

fn class_of(py: Python<'_>, kind: ErrorKind) -> PyResult<&Bound<'_, PyType>> {
    static PLAIN: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static INVALID: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static UNAVAILABLE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static TIMEOUT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static CLOSED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let (cell, name) = match kind {
        ErrorKind::InvalidUrl | ErrorKind::InvalidKey | ErrorKind::InvalidOption | ErrorKind::InvalidInput => {
            (&INVALID, "InvalidError")
        }
        ErrorKind::Unavailable => (&UNAVAILABLE, "UnavailableError"),
        ErrorKind::Timeout => (&TIMEOUT, "TimedOutError"),
        ErrorKind::Closed => (&CLOSED, "ClosedError"),
        _ => (&PLAIN, "KvconnError"),
    };
    cell.import(py, "kvconn._errors", name)
}
