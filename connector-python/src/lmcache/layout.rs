//! A chunk's shape, dtype and format, between LMCache's names and kvconn's.

use std::str::FromStr;

use connectors::{ChunkLayout, Dtype, Group, MemoryFormat, Shape};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyString, PyTuple, PyType};

use crate::errors::OrRaise;

/// The layout of a memory object of `len` bytes.
pub(super) fn of_object(object: &Bound<'_, PyAny>, len: usize) -> PyResult<ChunkLayout> {
    let py = object.py();
    let format: i32 =
        object.call_method0(intern!(py, "get_memory_format"))?.getattr(intern!(py, "value"))?.extract()?;
    let format = MemoryFormat::from_code(format).unwrap_or_default();
    let shapes = object.call_method0(intern!(py, "get_shapes"))?;
    let dtypes = object.call_method0(intern!(py, "get_dtypes"))?;
    let mut groups = Vec::new();
    for (shape, dtype) in shapes.try_iter()?.zip(dtypes.try_iter()?) {
        let dims: Vec<usize> = shape?.extract()?;
        let dtype = dtype_of(&dtype?)?;
        // LMCache's plain bytes have no dtype, but a store's header needs one. LMCache reads a header with or without.
        let dtype = if format.is_binary() { dtype.or(Some(Dtype::Uint8)) } else { dtype };
        groups.push(Group { shape: Shape::new(&dims).or_raise(py)?, dtype });
    }
    let groups = connectors::chunk::Groups::new(&groups).or_raise(py)?;
    Ok(ChunkLayout { format, groups, len })
}

/// `torch.float16` or None.
fn dtype_of(dtype: &Bound<'_, PyAny>) -> PyResult<Option<Dtype>> {
    if dtype.is_none() {
        return Ok(None);
    }
    Dtype::from_str(dtype.str()?.to_str()?).map(Some).or_raise(dtype.py())
}

/// The arguments of `LocalCPUBackend.allocate` for a layout: shapes, dtypes, format.
pub(super) fn arguments<'py>(py: Python<'py>, layout: &ChunkLayout) -> PyResult<Bound<'py, PyTuple>> {
    static SIZE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static FORMAT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let size = SIZE.import(py, "torch", "Size")?;
    let format = FORMAT.import(py, "lmcache.v1.memory_management", "MemoryFormat")?;
    let torch = py.import(intern!(py, "torch"))?;
    let (shapes, dtypes) = (PyList::empty(py), PyList::empty(py));
    for group in layout.groups.iter() {
        shapes.append(size.call1((PyTuple::new(py, group.shape.iter())?,))?)?;
        dtypes.append(match group.dtype {
            Some(dtype) => torch.getattr(PyString::intern(py, dtype.torch_name()))?,
            None => py.None().into_bound(py),
        })?;
    }
    let format = format.call1((layout.format.code(),))?;
    PyTuple::new(py, [shapes.into_any(), dtypes.into_any(), format])
}
