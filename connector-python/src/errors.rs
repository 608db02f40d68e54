//! kvconn's errors as Python exceptions.

use connectors::{Error, ErrorKind};
use pyo3::prelude::*;

/// The exception for an error. A kind that users catch apart has a class of its own in `kvconn._errors`.
pub(crate) fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    let make = || {
        py.import("kvconn._errors")?.getattr(class_of(error.kind()))?.call1((
            error.to_string(),
            error.kind().as_str(),
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
