//! The keys, buffers and items of a batch, from any iterable.

use connectors::ErrorKind;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMapping, PyString};

use crate::errors::{invalid, refused};

/// The objects of any iterable but a text or bytes, such as one key. An iterator is read to its end before the call starts.
/// Its own exceptions reach the caller unchanged.
pub(crate) struct Objects<'py>(pub(crate) Vec<Bound<'py, PyAny>>);

impl<'py> FromPyObject<'_, 'py> for Objects<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let py = object.py();
        if object.is_instance_of::<PyString>()
            || object.is_instance_of::<PyBytes>()
            || object.is_instance_of::<PyByteArray>()
        {
            let message = format!("a batch takes a list, not one {}", object.get_type().name()?);
            return Err(refused(py, ErrorKind::InvalidInput, PyTypeError::new_err(message)));
        }
        let items = object.try_iter().map_err(|e| refused(py, ErrorKind::InvalidInput, e))?;
        items.collect::<PyResult<_>>().map(Self)
    }
}

/// The pairs of a mapping, or of any iterable of pairs.
pub(crate) struct Pairs<'py>(pub(crate) Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>);

impl<'py> FromPyObject<'_, 'py> for Pairs<'py> {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let items = match object.cast::<PyMapping>() {
            Ok(mapping) => mapping.items()?.into_any().extract::<Objects<'_>>()?,
            Err(_) => object.extract::<Objects<'_>>()?,
        };
        let pair = |(place, item): (usize, Bound<'py, PyAny>)| match item
            .extract()
            .map(|Objects(both)| <[_; 2]>::try_from(both))
        {
            Ok(Ok([key, data])) => Ok((key, data)),
            _ => {
                let message = format!("item {place} is not a pair of a key and its data");
                Err(refused(py, ErrorKind::InvalidInput, PyTypeError::new_err(message)))
            }
        };
        items.0.into_iter().enumerate().map(pair).collect::<PyResult<_>>().map(Self)
    }
}

/// # Errors
/// `InvalidError` if a batch does not have a buffer for each key.
pub(crate) fn same_length(py: Python<'_>, keys: usize, buffers: usize) -> PyResult<()> {
    if keys == buffers { Ok(()) } else { Err(invalid(py, format!("{keys} keys, but {buffers} buffers"))) }
}
