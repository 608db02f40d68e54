//! A store's answers as Python objects.

use connectors::{Result, ServerInfo};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::errors::{OrRaise, to_py};

/// The value as Python has it: bool, int, str, None or a list.
pub(crate) fn value<T: for<'py> IntoPyObject<'py>>(py: Python<'_>, value: T) -> PyResult<Py<PyAny>> {
    value.into_py_any(py)
}

/// A list of dicts.
pub(crate) fn servers(py: Python<'_>, servers: Vec<ServerInfo>) -> PyResult<Py<PyAny>> {
    let list = PyList::empty(py);
    for server in servers {
        let (dict, details) = (PyDict::new(py), PyDict::new(py));
        for (name, value) in server.details {
            details.set_item(name, value)?;
        }
        dict.set_item("address", server.address)?;
        dict.set_item("role", server.role)?;
        dict.set_item("details", details)?;
        dict.set_item("error", server.error.map(|e| to_py(py, &e)))?;
        list.append(dict)?;
    }
    Ok(list.into_any().unbind())
}

/// None.
pub(crate) fn none(py: Python<'_>, (): ()) -> PyResult<Py<PyAny>> {
    Ok(py.None())
}

/// A list of answers, and of the `refusals` at their places. The first error is raised, or, with `return_exceptions`,
/// each error stands in its answer's place.
pub(crate) fn list<T>(
    return_exceptions: bool,
    refusals: Refusals,
    to_python: impl Fn(Python<'_>, T) -> PyResult<Py<PyAny>> + Send,
) -> impl FnOnce(Python<'_>, Vec<Result<T>>) -> PyResult<Py<PyAny>> + Send {
    move |py, answers| {
        let list = PyList::empty(py);
        let (mut refusals, mut answers) = (refusals.into_iter().peekable(), answers.into_iter());
        loop {
            let answer = match refusals.next_if(|(place, _)| *place == list.len()) {
                Some((_, refusal)) => Err(refusal),
                None => match answers.next() {
                    Some(answer) => answer.or_raise(py).and_then(|answer| to_python(py, answer)),
                    None => return Ok(list.into_any().unbind()),
                },
            };
            match answer {
                Ok(object) => list.append(object)?,
                Err(e) if return_exceptions && e.is_instance_of::<PyException>(py) => list.append(e.into_value(py))?,
                Err(e) => return Err(e),
            }
        }
    }
}

/// The items of a batch that cannot be asked for, with their places, in order.
pub(crate) type Refusals = Vec<(usize, PyErr)>;

/// The items that a store can be asked for, and the other ones.
///
/// # Errors
/// The first refusal, unless `return_exceptions`. `KeyboardInterrupt` and the like, always.
pub(crate) fn sorted<T>(
    py: Python<'_>,
    return_exceptions: bool,
    items: impl Iterator<Item = PyResult<T>>,
) -> PyResult<(Vec<T>, Refusals)> {
    let (mut good, mut refusals) = (Vec::with_capacity(items.size_hint().0), Vec::new());
    for (place, item) in items.enumerate() {
        match item {
            Ok(item) => good.push(item),
            Err(e) if return_exceptions && e.is_instance_of::<PyException>(py) => refusals.push((place, e)),
            Err(e) => return Err(e),
        }
    }
    Ok((good, refusals))
}
