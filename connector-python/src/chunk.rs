//! A chunk as a bytes-like object.
#![expect(unsafe_code, reason = "gives its memory to Python's buffer protocol")]

use std::ffi::c_int;

use connectors::{ChunkLayout, Dtype, Group, MemoryFormat, MemoryObj, Shape};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::buffer::bytes_equal;
use crate::errors::{OrRaise, invalid};
use crate::process::ProcessLocal;

/// A chunk's bytes, read-only: ``memoryview(chunk)`` is the memory that the store read into, ``bytes(chunk)`` a copy.
#[pyclass(module = "kvconn", frozen)]
pub(crate) struct Chunk(ProcessLocal<MemoryObj>);

impl Chunk {
    pub(crate) fn new(chunk: MemoryObj) -> Self {
        Self(ProcessLocal::new(chunk))
    }
}

#[pymethods]
impl Chunk {
    /// Shape of each group of layers; ``[(bytes, 0, 0, 0)]`` if the store keeps none.
    #[getter]
    fn shapes<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        self.0.peek().layout().groups.iter().map(|group| PyTuple::new(py, group.shape.iter().copied())).collect()
    }

    /// Element type of each group of layers, by torch's name: ``"bfloat16"``.
    #[getter]
    fn dtypes(&self) -> Vec<Option<&'static str>> {
        self.0.peek().layout().groups.iter().map(|group| group.dtype.map(Dtype::torch_name)).collect()
    }

    /// LMCache's name for the arrangement of the bytes: ``"KV_2LTD"``, or ``"BINARY"`` if the store keeps none.
    #[getter]
    fn format(&self) -> &'static str {
        self.0.peek().layout().format.name()
    }

    /// A copy of the bytes.
    fn tobytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.peek())
    }

    fn __len__(&self) -> usize {
        self.0.peek().len()
    }

    fn __bool__(&self) -> bool {
        // An empty chunk is a chunk; a miss is None.
        true
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let py = other.py();
        match bytes_equal(self.0.peek(), other)? {
            Some(equal) => Ok(equal.into_pyobject(py)?.to_owned().into_any().unbind()),
            None => Ok(py.NotImplemented()),
        }
    }

    fn __repr__(&self) -> String {
        format!("<kvconn.Chunk {}>", self.0.peek().layout())
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let bytes: &[u8] = slf.get().0.peek();
        let (start, len) = (bytes.as_ptr().cast_mut().cast(), bytes.len() as ffi::Py_ssize_t);
        // SAFETY: the interpreter gives a view to fill. The view holds a reference to this object, whose memory neither
        // moves nor changes; it is given as read-only.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 1, flags) };
        if filled < 0 { Err(PyErr::fetch(slf.py())) } else { Ok(()) }
    }
}

/// The layout of `len` bytes; BINARY unless all three are given.
pub(crate) fn layout(
    py: Python<'_>,
    len: usize,
    shape: Option<Vec<usize>>,
    dtype: Option<&str>,
    format: Option<&str>,
) -> PyResult<ChunkLayout> {
    let (shape, dtype, format) = match (shape, dtype, format) {
        (None, None, None) => return Ok(ChunkLayout::binary(len)),
        (Some(shape), Some(dtype), Some(format)) => (shape, dtype, format),
        _ => return Err(invalid(py, "shape, dtype and format are given together, or none of them")),
    };
    let named = |d: &Dtype| d.torch_name() == dtype || d.key_name() == dtype;
    let dtype = Dtype::ALL
        .into_iter()
        .find(named)
        .ok_or_else(|| invalid(py, format!("`{dtype}` is not a dtype; write it as torch does: bfloat16")))?;
    let format: MemoryFormat = format.parse().or_raise(py)?;
    let group = Group { shape: Shape::new(&shape).or_raise(py)?, dtype: Some(dtype) };
    let layout = ChunkLayout::from_groups(format, &[group]).or_raise(py)?;
    if layout.len != len {
        let message = format!("shape and dtype make {} bytes, the data has {len}", layout.len);
        return Err(invalid(py, message));
    }
    Ok(layout)
}
