//! A store's answers as Python objects.

use connectors::Result;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::errors::OrRaise;

/// The value as Python has it: bool, int, str, None or a list.
pub(crate) fn value<T: for<'py> IntoPyObject<'py>>(py: Python<'_>, value: T) -> PyResult<Py<PyAny>> {
    value.into_py_any(py)
}

/// None.
pub(crate) fn none(py: Python<'_>, (): ()) -> PyResult<Py<PyAny>> {
    Ok(py.None())
}

/// A list of answers. The first error is raised, or, with `return_exceptions`, each error stands in its answer's place.
pub(crate) fn list<T>(
    return_exceptions: bool,
    to_python: impl Fn(Python<'_>, T) -> PyResult<Py<PyAny>> + Send,
) -> impl FnOnce(Python<'_>, Vec<Result<T>>) -> PyResult<Py<PyAny>> + Send {
    move |py, answers| {
        let list = PyList::empty(py);
        for answer in answers {
            match answer.or_raise(py).and_then(|answer| to_python(py, answer)) {
                Ok(object) => list.append(object)?,
                Err(e) if return_exceptions => list.append(e.into_value(py))?,
                Err(e) => return Err(e),
            }
        }
        Ok(list.into_any().unbind())
    }
}
