//! A chunk as a bytes-like object.
#![expect(unsafe_code, reason = "gives its memory to Python's buffer protocol")]

use std::ffi::c_int;

use connectors::{Dtype, Error, ErrorKind, Group, MemoryObj, Result};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::buffer::bytes_equal;
use crate::dlpack;
use crate::errors::{Arg, OrRaise};
use crate::process::ProcessLocal;

/// A chunk's bytes, read-only: ``memoryview(chunk)`` is the memory that the store read into, ``bytes(chunk)`` a copy.
#[pyclass(module = "kvconn", frozen)]
pub(crate) struct Chunk(ProcessLocal<MemoryObj>);

impl Chunk {
    pub(crate) fn new(chunk: MemoryObj) -> Self {
        Self(ProcessLocal::new(chunk))
    }
}

/// The bytes of one group of layers.
struct Part {
    at: usize,
    len: usize,
    /// None if the store keeps no dtype and shape.
    elements: Option<(Dtype, Vec<usize>)>,
}

type PyPart = (usize, usize, Option<&'static str>, Option<Py<PyTuple>>);

impl Chunk {
    /// The bytes of a group, or of the only group.
    ///
    /// # Errors
    /// `InvalidInput` for a group that the chunk does not have, and for no group if it has several.
    fn part(&self, group: Option<usize>) -> Result<Part> {
        let (chunk, layout) = (self.0.peek(), self.0.peek().layout());
        let whole = Part { at: 0, len: chunk.len(), elements: None };
        let wrong = |message, hint| Err(Error::new(ErrorKind::InvalidInput, message).with_hint(hint));
        let groups = &layout.groups;
        let index = match group {
            None if groups.len() > 1 => {
                let message = format!("the chunk has {} groups of layers, each a tensor of its own", groups.len());
                return wrong(message, "name one: `chunk.numpy(group=0)` or `chunk.torch(group=0)`");
            }
            Some(index) if index >= groups.len() => {
                let message = format!("the chunk has no group {index} of layers: it has {}", groups.len());
                return wrong(message, "the first group is 0");
            }
            group => group.unwrap_or(0),
        };
        if layout.format.is_binary() || !layout.is_consistent() {
            // With several groups, their places are unknown, too.
            return if groups.len() == 1 { Ok(whole) } else { Err(self.has_no_dtype()) };
        }
        let bytes = |group: &Group| group.shape.iter().product::<usize>() * group.dtype.map_or(0, Dtype::size);
        let (at, group) = (groups[..index].iter().map(bytes).sum(), &groups[index]);
        let elements = group.dtype.map(|dtype| (dtype, group.shape.to_vec()));
        Ok(Part { at, len: bytes(group), elements })
    }

    fn has_no_dtype(&self) -> Error {
        let layout = self.0.peek().layout();
        let message = match layout.format.is_binary() {
            true => format!("the store keeps no dtype and shape of this chunk, only its {} bytes", layout.len),
            false => format!("the chunk's dtype and shape make another length than it has: `{layout}`"),
        };
        Error::new(ErrorKind::InvalidInput, message)
            .with_hint("give both, as `chunk.numpy(dtype=\"float16\", shape=(2, 3))`, and the same for `chunk.torch`")
    }

    fn made_by(
        slf: Bound<'_, Self>,
        function: &str,
        dtype: Option<Bound<'_, PyAny>>,
        shape: Option<Bound<'_, PyAny>>,
        group: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let arrays = slf.py().import(intern!(slf.py(), "kvconn._arrays"))?;
        Ok(arrays.call_method1(function, (slf, dtype, shape, group))?.unbind())
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

    /// The chunk as a read-only array of numpy, without a copy.
    ///
    /// Args:
    ///     dtype: anything that ``numpy.dtype`` takes, or torch's name of a dtype, in place of the stored dtype. numpy has
    ///         bfloat16 and float8 from the package ml_dtypes.
    ///     shape: in place of the stored shape. One dimension may be -1.
    ///     group: the group of layers, from 0 on. A chunk with several groups needs it.
    ///
    /// Raises:
    ///     InvalidError: the store keeps no dtype of the chunk, and none is given; or the bytes do not have that dtype and
    ///         shape.
    ///     ImportError: numpy, or ml_dtypes for its dtypes, is not installed.
    #[pyo3(signature = (dtype=None, shape=None, *, group=None))]
    fn numpy(
        slf: Bound<'_, Self>,
        dtype: Option<Bound<'_, PyAny>>,
        shape: Option<Bound<'_, PyAny>>,
        group: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        Self::made_by(slf, "to_numpy", dtype, shape, group)
    }

    /// The chunk as a tensor of torch on the CPU, without a copy.
    ///
    /// torch has no read-only tensors, and other chunks may share the memory: write to a ``clone()`` only.
    ///
    /// Args:
    ///     dtype: a dtype of torch, or its name, in place of the stored dtype.
    ///     shape: in place of the stored shape. One dimension may be -1.
    ///     group: the group of layers, from 0 on. A chunk with several groups needs it.
    ///
    /// Raises:
    ///     InvalidError: the store keeps no dtype of the chunk, and none is given; or the bytes do not have that dtype and
    ///         shape.
    ///     ImportError: torch is not installed.
    #[pyo3(signature = (dtype=None, shape=None, *, group=None))]
    fn torch(
        slf: Bound<'_, Self>,
        dtype: Option<Bound<'_, PyAny>>,
        shape: Option<Bound<'_, PyAny>>,
        group: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        Self::made_by(slf, "to_torch", dtype, shape, group)
    }

    /// Offset, length, dtype and shape of a group, for `kvconn._arrays`. Dtype and shape are None if the store keeps none.
    #[pyo3(signature = (group, *, need_dtype))]
    fn _part(&self, py: Python<'_>, group: Arg<Option<usize>>, need_dtype: bool) -> PyResult<PyPart> {
        let part = self.part(group.0).or_raise(py)?;
        if need_dtype && part.elements.is_none() {
            return Err(self.has_no_dtype()).or_raise(py);
        }
        let (dtype, shape) = part.elements.unzip();
        let shape = shape.map(|shape| PyTuple::new(py, shape.iter())).transpose()?;
        Ok((part.at, part.len, dtype.map(Dtype::torch_name), shape.map(Bound::unbind)))
    }

    /// A capsule of DLPack over a part of the bytes, as uint8, for `kvconn._arrays`.
    fn _capsule<'py>(&self, py: Python<'py>, at: usize, len: usize) -> PyResult<Bound<'py, PyAny>> {
        let chunk = self.0.peek();
        if chunk.len().checked_sub(at).is_none_or(|rest| rest < len) {
            return Err(PyBufferError::new_err("the part is not in the chunk"));
        }
        dlpack::export(py, chunk.clone(), at, Dtype::Uint8, &[len], false, false)
    }

    /// The chunk as a tensor, for `numpy.from_dlpack` and the like.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if stream.is_some() || dl_device.is_some_and(|device| device != dlpack::HOST) {
            return Err(PyBufferError::new_err("a chunk is in the host's memory, and has no stream"));
        }
        let part = self.part(None).and_then(|part| match part.elements {
            Some((dtype, shape)) => Ok((part.at, dtype, shape)),
            None => Err(self.has_no_dtype()),
        });
        let (at, dtype, shape) = part.map_err(|e| PyBufferError::new_err(e.to_string()))?;
        let (chunk, copied) = match copy {
            Some(true) => (MemoryObj::from(self.0.peek().to_vec()), true),
            _ => (self.0.peek().clone(), false),
        };
        let versioned = max_version.is_some_and(|(major, _)| major >= 1);
        dlpack::export(py, chunk, at, dtype, &shape, versioned, copied)
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        dlpack::HOST
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
