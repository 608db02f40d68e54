//! DLPack: the memory of another library's tensor, and a chunk as a tensor for another library.
//!
//! A library gives a tensor as a capsule, which has a name and a pointer to one of the structs below. A capsule that nothing
//! renamed calls the tensor's deleter when Python frees it. kvconn keeps the capsule of a tensor that it reads or writes, and
//! so ends the loan when it drops the capsule.
//!
//! Source: `dlpack.h` of DLPack 1.1, and `__dlpack__` in Python's array API standard.
#![expect(unsafe_code, reason = "reads and makes the structs of a C interface")]

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use connectors::{Dtype, MemoryObj};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

use crate::process::ProcessLocal;

const UNVERSIONED: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";

/// The version of the structs below.
const VERSION: (u32, u32) = (1, 1);

const READ_ONLY: u64 = 1;
const COPIED: u64 = 1 << 1;

/// `kDLOpaqueHandle`
const OPAQUE: u8 = 3;

/// More dimensions than any library has: numpy has 64. A larger number is not one that the library wrote.
const MOST_DIMENSIONS: usize = 1024;

/// `kDLCPU`, and device 0.
pub(crate) const HOST: (i32, i32) = (1, 0);

/// Devices whose memory the CPU reads and writes as its own: plain, and pinned for CUDA and ROCm.
const HOSTS: [i32; 3] = [HOST.0, 3, 11];

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    dtype: DataType,
    shape: *const i64,
    /// In elements; null for a contiguous tensor.
    strides: *const i64,
    byte_offset: u64,
}

/// `DLManagedTensor`
#[repr(C)]
struct Unversioned {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
}

/// `DLManagedTensorVersioned`
#[repr(C)]
struct Versioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
    flags: u64,
    tensor: Tensor,
}

/// The memory of another library's tensor, valid while the capsule lives.
pub(crate) struct Import {
    pub(crate) capsule: Py<PyAny>,
    pub(crate) start: NonNull<u8>,
    pub(crate) len: usize,
    /// None if kvconn does not have the type.
    pub(crate) dtype: Option<Dtype>,
    pub(crate) shape: Vec<usize>,
    pub(crate) contiguous: bool,
    pub(crate) read_only: bool,
}

/// Why an object's memory cannot be used.
pub(crate) enum Failure {
    Raised(PyErr),
    /// The reason, as the text after the place.
    Wrong(String),
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

/// The name of the device that `object` lies on, unless its memory is the host's.
///
/// # Errors
/// The object's own exceptions.
pub(crate) fn other_device(object: &Bound<'_, PyAny>) -> PyResult<Option<String>> {
    let device = object.call_method0(intern!(object.py(), "__dlpack_device__"))?;
    let (kind, id): (i32, i32) = device.extract()?;
    let name = match kind {
        host if HOSTS.contains(&host) => return Ok(None),
        2 => "CUDA".into(),
        4 => "OpenCL".into(),
        7 => "Vulkan".into(),
        8 => "Metal".into(),
        10 => "ROCm".into(),
        13 => "CUDA managed memory".into(),
        14 => "oneAPI".into(),
        other => format!("type {other}"),
    };
    Ok(Some(format!("{name}, number {id}")))
}

/// The memory of a tensor of the host.
///
/// # Errors
/// The object's own exceptions, and the reason why the tensor cannot be memory of a call.
pub(crate) fn import(object: &Bound<'_, PyAny>) -> Result<Import, Failure> {
    let capsule = ask(object)?.cast_into::<PyCapsule>().map_err(PyErr::from)?;
    let (tensor, flags) = if capsule.is_valid_checked(Some(VERSIONED)) {
        let managed = capsule.pointer_checked(Some(VERSIONED))?.cast::<Versioned>();
        // SAFETY: a capsule of this name points to this struct, whose first field keeps its place in every version.
        let major = unsafe { (*managed.as_ptr()).major };
        if major != VERSION.0 {
            let message = format!("has version {major} of DLPack, and kvconn reads version {}", VERSION.0);
            return Err(Failure::Wrong(message));
        }
        // SAFETY: as above, with the checked version. The capsule, which the answer holds, keeps it.
        unsafe { (&(*managed.as_ptr()).tensor, (*managed.as_ptr()).flags) }
    } else {
        let managed = capsule.pointer_checked(Some(UNVERSIONED))?.cast::<Unversioned>();
        // SAFETY: a capsule of this name points to this struct. The capsule, which the answer holds, keeps it.
        (unsafe { &(*managed.as_ptr()).tensor }, 0)
    };
    if !HOSTS.contains(&tensor.device_type) {
        return Err(Failure::Wrong(format!("is on a device of type {}", tensor.device_type)));
    }
    let DataType { code, bits, lanes } = tensor.dtype;
    if code == OPAQUE {
        return Err(Failure::Wrong("holds handles, not numbers".into()));
    }
    if lanes != 1 || bits == 0 || !bits.is_multiple_of(8) {
        return Err(Failure::Wrong(format!("has elements of {lanes} x {bits} bits")));
    }
    let Some(ndim) = usize::try_from(tensor.ndim).ok().filter(|ndim| *ndim <= MOST_DIMENSIONS) else {
        return Err(Failure::Wrong(format!("has {} dimensions", tensor.ndim)));
    };
    if ndim > 0 && tensor.shape.is_null() {
        return Err(Failure::Wrong(format!("has {ndim} dimensions and no shape")));
    }
    // SAFETY: a tensor has `ndim` dimensions, and as many strides unless it has none.
    let (dims, strides) = unsafe { (numbers(tensor.shape, ndim), numbers(tensor.strides, ndim)) };
    let Ok(shape) = dims.iter().map(|dim| usize::try_from(*dim)).collect::<Result<Vec<_>, _>>() else {
        return Err(Failure::Wrong(format!("has the shape {dims:?}, with a negative length")));
    };
    let len = shape.iter().try_fold(usize::from(bits / 8), |size, dim| size.checked_mul(*dim));
    let len = len.filter(|len| isize::try_from(*len).is_ok());
    // The whole tensor is one piece of memory, so no address in it is past the last one.
    let start = tensor.data.addr().checked_add(usize::try_from(tensor.byte_offset).unwrap_or(usize::MAX));
    let start = start.filter(|start| !tensor.data.is_null() && len.is_some_and(|len| start.checked_add(len).is_some()));
    let (start, len) = match (start.and_then(|start| NonNull::new(tensor.data.cast::<u8>().with_addr(start))), len) {
        (_, Some(0)) => (NonNull::dangling(), 0),
        (Some(start), Some(len)) => (start, len),
        _ => return Err(Failure::Wrong(format!("has no memory for its shape {shape:?}"))),
    };
    Ok(Import {
        start,
        len,
        dtype: Dtype::ALL.into_iter().find(|dtype| data_type(*dtype) == tensor.dtype),
        contiguous: strides.is_empty() || is_contiguous(&shape, strides),
        read_only: flags & READ_ONLY != 0,
        shape,
        capsule: capsule.into_any().unbind(),
    })
}

/// The capsule of a tensor, in the newest version that its library knows.
fn ask<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "max_version"), VERSION)?;
    match object.call_method(intern!(py, "__dlpack__"), (), Some(&keywords)) {
        // A library from before the versions.
        Err(e) if e.is_instance_of::<PyTypeError>(py) => object.call_method0(intern!(py, "__dlpack__")),
        answer => answer,
    }
}

/// # Safety
/// `start` is null, or points to `count` numbers that outlive `'a`.
unsafe fn numbers<'a>(start: *const i64, count: usize) -> &'a [i64] {
    // SAFETY: the caller's promise.
    if start.is_null() { &[] } else { unsafe { std::slice::from_raw_parts(start, count) } }
}

fn is_contiguous(shape: &[usize], strides: &[i64]) -> bool {
    let mut next = 1;
    // The stride of a single element, and those of an empty tensor, mean nothing.
    shape.contains(&0)
        || shape.iter().zip(strides).rev().filter(|(dim, _)| **dim != 1).all(|(dim, stride)| {
            let fits = usize::try_from(*stride) == Ok(next);
            next *= dim;
            fits
        })
}

/// The type as DLPack writes it.
fn data_type(dtype: Dtype) -> DataType {
    let code = match dtype {
        Dtype::Int8 | Dtype::Int16 | Dtype::Int32 | Dtype::Int64 => 0,
        Dtype::Uint8 => 1,
        Dtype::Float16 | Dtype::Float32 | Dtype::Float64 => 2,
        Dtype::Bfloat16 => 4,
        Dtype::Bool => 6,
        Dtype::Float8E4m3fn => 10,
        Dtype::Float8E4m3fnuz => 11,
        Dtype::Float8E5m2 => 12,
        Dtype::Float8E5m2fnuz => 13,
        // The reader refuses it.
        _ => OPAQUE,
    };
    DataType { code, bits: (dtype.size() * 8) as u8, lanes: 1 }
}

/// The memory behind a chunk's tensor. The tensor's deleter frees all of it.
#[repr(C)]
struct Owned<T> {
    /// First, so that a pointer to it is one to this struct.
    managed: T,
    shape: Vec<i64>,
    strides: Vec<i64>,
    chunk: ProcessLocal<MemoryObj>,
}

/// A tensor over the bytes of a chunk from `at` on. The chunk lives until the tensor's deleter is called, on any thread.
/// An unversioned capsule cannot say that its memory is read-only.
///
/// # Errors
/// Python's own exceptions.
pub(crate) fn export<'py>(
    py: Python<'py>,
    chunk: MemoryObj,
    at: usize,
    dtype: Dtype,
    shape: &[usize],
    versioned: bool,
    copied: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let shape: Vec<i64> = shape.iter().map(|dim| *dim as i64).collect();
    let mut strides: Vec<i64> = shape
        .iter()
        .rev()
        .scan(1i64, |next, dim| {
            let stride = *next;
            *next = stride.wrapping_mul(*dim);
            Some(stride)
        })
        .collect();
    strides.reverse();
    let tensor = Tensor {
        data: chunk[at..].as_ptr().cast_mut().cast(),
        device_type: HOST.0,
        device_id: HOST.1,
        ndim: shape.len() as i32,
        dtype: data_type(dtype),
        shape: shape.as_ptr(),
        strides: strides.as_ptr(),
        byte_offset: 0,
    };
    let (context, chunk) = (std::ptr::null_mut(), ProcessLocal::new(chunk));
    if versioned {
        let ((major, minor), flags) = (VERSION, if copied { COPIED } else { READ_ONLY });
        let managed = Versioned { major, minor, context, deleter: Some(delete::<Versioned>), flags, tensor };
        Owned { managed, shape, strides, chunk }.into_capsule(py)
    } else {
        let managed = Unversioned { tensor, context, deleter: Some(delete::<Unversioned>) };
        Owned { managed, shape, strides, chunk }.into_capsule(py)
    }
}

trait Managed: Sized {
    const NAME: &'static CStr;
}

impl Managed for Unversioned {
    const NAME: &'static CStr = UNVERSIONED;
}

impl Managed for Versioned {
    const NAME: &'static CStr = VERSIONED;
}

impl<T: Managed> Owned<T> {
    fn into_capsule(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        let this = NonNull::from(Box::leak(Box::new(self)));
        // SAFETY: the pointer is to a `T`, as readers of this name expect, and `free` frees the whole.
        let made = unsafe { PyCapsule::new_with_pointer_and_destructor(py, this.cast(), T::NAME, Some(free::<T>)) };
        if made.is_err() {
            // SAFETY: no capsule has the pointer.
            unsafe { delete(this.as_ptr().cast::<T>()) };
        }
        Ok(made?.into_any())
    }
}

/// # Safety
/// `managed` is the field of an [`Owned`] of [`into_capsule`](Owned::into_capsule), and is not used again.
unsafe extern "C" fn delete<T: Managed>(managed: *mut T) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(managed.cast::<Owned<T>>()) });
}

/// # Safety
/// For Python, when it frees a capsule of [`into_capsule`](Owned::into_capsule).
unsafe extern "C" fn free<T: Managed>(capsule: *mut ffi::PyObject) {
    // A reader that took the tensor has renamed the capsule, and calls the deleter itself.
    // SAFETY: Python gives its own capsule.
    if unsafe { ffi::PyCapsule_IsValid(capsule, T::NAME.as_ptr()) } == 1 {
        // SAFETY: as above; a capsule of this name has the pointer still.
        unsafe { delete(ffi::PyCapsule_GetPointer(capsule, T::NAME.as_ptr()).cast::<T>()) };
    }
}
