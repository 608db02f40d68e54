//! Python's buffers and tensors as memory that a store reads from or writes to.
//!
//! Nothing may touch the memory after its owner got the answer. So every piece of lent memory holds the
//! [`Call`](crate::call::Call), whose last drop delivers the answer. A buffer's export ends only on a thread that is attached to
//! the interpreter, but calls end on threads that must not attach.
#![expect(unsafe_code, reason = "describes memory that Python owns")]

use std::collections::BTreeMap;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use connectors::{Error, ErrorKind};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyException, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PyString};

use crate::array::Elements;
use crate::dlpack::{self, Failure};
use crate::errors::{invalid, refused, to_py};
use crate::python_thread;
use crate::span::Span;

/// Memory that an object lends to a call, and the object's description of its elements.
pub(crate) struct Memory {
    pub(crate) span: Span,
    pub(crate) elements: Elements,
}

/// The argument that an error is about.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// The only one, by its name.
    Only(&'static str),
    /// One of a batch.
    Batch(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only(name) => write!(f, "`{name}`"),
            Self::Batch(place) => write!(f, "buffer {place}"),
        }
    }
}

/// Keeps an object's memory where it is.
enum Export {
    Buffer(PyUntypedBuffer),
    /// A capsule of DLPack, or an owner of memory that has no export.
    Object(Py<PyAny>),
}

/// Exports of Python's memory. While this lives, Python neither frees nor resizes it.
///
/// A drop on any thread ends the exports a little later, on the thread that is attached. [`release`](Self::release) ends
/// them at once.
pub(crate) struct Views {
    exports: Vec<Export>,
    /// Start, and end and place, of each buffer that is written.
    written: BTreeMap<usize, (usize, Place)>,
}

impl Views {
    /// No views, for a call without memory.
    pub(crate) fn none() -> Self {
        Self { exports: Vec::new(), written: BTreeMap::new() }
    }

    /// Adds the buffer or tensor at this place, to be read.
    ///
    /// # Errors
    /// `InvalidError` for an object that is not contiguous memory of the host.
    pub(crate) fn read(&mut self, place: Place, object: &Bound<'_, PyAny>) -> PyResult<Memory> {
        let lent = lent(place, object)?;
        self.exports.push(lent.export);
        Ok(lent.memory)
    }

    /// Adds the buffer or tensor at this place, to be written.
    ///
    /// # Errors
    /// As [`read`](Self::read); also for read-only memory, and for memory that overlaps another buffer's.
    pub(crate) fn write(&mut self, place: Place, object: &Bound<'_, PyAny>) -> PyResult<Memory> {
        let lent = lent(place, object)?;
        let span = lent.memory.span;
        if lent.read_only {
            let message = format!("{place} is read-only, and the chunk would be read into it");
            return Err(invalid(object.py(), message));
        }
        if span.len() > 0 {
            let start = span.start();
            let end = start + span.len();
            // No two of the earlier ones overlap, so only the nearest can overlap this one.
            let nearest = self.written.range(..end).next_back();
            if let Some((_, &(_, other))) = nearest.filter(|(_, (nearest_end, _))| *nearest_end > start) {
                return Err(invalid(object.py(), format!("{other} and {place} overlap")));
            }
            self.written.insert(start, (end, place));
        }
        self.exports.push(lent.export);
        Ok(lent.memory)
    }

    /// All buffers, to be read as bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn to_read(objects: &[Bound<'_, PyAny>]) -> PyResult<(Self, Vec<Span>)> {
        Self::all(objects, Self::read)
    }

    /// All buffers, to be written as bytes.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn to_write(objects: &[Bound<'_, PyAny>]) -> PyResult<(Self, Vec<Span>)> {
        Self::all(objects, Self::write)
    }

    fn all<'py>(
        objects: &[Bound<'py, PyAny>],
        mut add: impl FnMut(&mut Self, Place, &Bound<'py, PyAny>) -> PyResult<Memory>,
    ) -> PyResult<(Self, Vec<Span>)> {
        let Some(first) = objects.first() else { return Ok((Self::none(), Vec::new())) };
        Self::with(first.py(), |views| {
            objects.iter().enumerate().map(|(i, object)| Ok(add(views, Place::Batch(i), object)?.span)).collect()
        })
    }

    /// Views, and what `add` makes with them. After an error the caller may resize its buffers at once.
    ///
    /// # Errors
    /// Those of `add`.
    pub(crate) fn with<T>(py: Python<'_>, add: impl FnOnce(&mut Self) -> PyResult<T>) -> PyResult<(Self, T)> {
        let mut views = Self::none();
        match add(&mut views) {
            Ok(made) => Ok((views, made)),
            Err(e) => {
                views.release(py);
                Err(e)
            }
        }
    }

    /// Adds an export.
    pub(crate) fn add(&mut self, export: PyUntypedBuffer) {
        self.exports.push(Export::Buffer(export));
    }

    /// Keeps an object alive as long as the exports.
    pub(crate) fn keep(&mut self, owner: Py<PyAny>) {
        self.exports.push(Export::Object(owner));
    }

    /// Ends the exports now.
    pub(crate) fn release(mut self, py: Python<'_>) {
        for export in std::mem::take(&mut self.exports) {
            match export {
                Export::Buffer(view) => view.release(py),
                Export::Object(object) => object.drop_ref(py),
            }
        }
    }
}

impl Drop for Views {
    fn drop(&mut self) {
        if !self.exports.is_empty() {
            // After the interpreter's exit the job is dropped, and the exports need no end.
            let views = ManuallyDrop::new(std::mem::replace(self, Self::none()));
            python_thread::run(move |py| ManuallyDrop::into_inner(views).release(py));
        }
    }
}

struct Lent {
    export: Export,
    memory: Memory,
    read_only: bool,
}

fn lent(place: Place, object: &Bound<'_, PyAny>) -> PyResult<Lent> {
    lent_as(place, object, false)
}

/// `are_integers` says that the object stands for the integers of another one.
fn lent_as(place: Place, object: &Bound<'_, PyAny>, are_integers: bool) -> PyResult<Lent> {
    let py = object.py();
    match PyUntypedBuffer::get(object) {
        Ok(view) => buffer(place, object, view),
        Err(_) if object.hasattr(intern!(py, "__dlpack__")).unwrap_or(false) => tensor(place, object, are_integers),
        Err(_) => {
            let view = export(object).or_else(|e| {
                // A buffer without a dimension, such as a scalar of numpy, as its bytes.
                let bytes = PyMemoryView::from(object).and_then(|view| view.call_method1(intern!(py, "cast"), ("B",)));
                bytes.and_then(|bytes| PyUntypedBuffer::get(&bytes)).map_err(|_| e)
            });
            buffer(place, object, view.map_err(|e| not_memory(place, object, e))?)
        }
    }
}

/// The object's buffer. A memoryview adds the strides that some objects leave out, such as the arrays of `ctypes`.
fn export(object: &Bound<'_, PyAny>) -> PyResult<PyUntypedBuffer> {
    PyUntypedBuffer::get(object).or_else(|e| {
        let view = PyMemoryView::from(object).and_then(|view| PyUntypedBuffer::get(&view));
        view.map_err(|_| e)
    })
}

fn buffer(place: Place, object: &Bound<'_, PyAny>, view: PyUntypedBuffer) -> PyResult<Lent> {
    if !view.is_c_contiguous() {
        return Err(not_contiguous(object.py(), place));
    }
    let elements = Elements::of_buffer(object, &view).map_err(|(why, hint)| wrong(object.py(), place, why, hint))?;
    let start = NonNull::new(view.buf_ptr().cast()).unwrap_or(NonNull::dangling());
    let memory = Memory { span: Span::new(start, view.len_bytes()), elements };
    Ok(Lent { memory, read_only: view.readonly(), export: Export::Buffer(view) })
}

/// The memory of an object with `__dlpack__`.
fn tensor(place: Place, object: &Bound<'_, PyAny>, are_integers: bool) -> PyResult<Lent> {
    let py = object.py();
    let refuse = |e: PyErr| match e.is_instance_of::<PyException>(py) {
        true => invalid(py, format!("{place} does not give its memory: {}", e.value(py))),
        false => e,
    };
    if let Some(device) = dlpack::other_device(object).map_err(refuse)? {
        let hint = "copy it to the host: `x.cpu()` in torch, `x.get()` in cupy, `jax.device_get(x)`";
        return Err(wrong(py, place, &format!("is on another device ({device})"), hint));
    }
    // torch exports the memory of a negated view as it is, so its numbers have the wrong sign.
    if let Some(is_neg) = object.getattr_opt(intern!(py, "is_neg")).map_err(refuse)?
        && is_neg.call0().map_err(refuse)?.is_truthy()?
    {
        return Err(wrong(py, place, "is a view with the other sign than its memory", "store `x.resolve_neg()`"));
    }
    let imported = match dlpack::import(object) {
        Ok(imported) => imported,
        Err(Failure::Wrong(why)) => {
            return Err(wrong(py, place, &why, "make a copy in numpy or torch, of a dtype with whole bytes"));
        }
        // An array that gives itself as its integers must not end the stack.
        Err(Failure::Raised(e)) if are_integers => return Err(refuse(e)),
        Err(Failure::Raised(e)) => {
            // numpy exports no bfloat16, and older torches no float8.
            let integers = py.import("kvconn._arrays")?.call_method1("as_integers", (object,)).map_err(refuse)?;
            let Some((integers, dtype)) = integers.extract::<Option<(Bound<'_, PyAny>, String)>>()? else {
                return Err(refuse(e));
            };
            let mut lent = lent_as(place, &integers, true)?;
            lent.memory.elements.dtype = dtype.parse().ok();
            return Ok(lent);
        }
    };
    if !imported.contiguous {
        return Err(not_contiguous(py, place));
    }
    let elements = Elements::new(imported.dtype, &imported.shape);
    let memory = Memory { span: Span::new(imported.start, imported.len), elements };
    // jax's arrays are read-only, and its unversioned capsules cannot say that.
    let read_only = imported.read_only || object.get_type().module()?.to_str()?.starts_with("jax");
    Ok(Lent { memory, read_only, export: Export::Object(imported.capsule) })
}

/// The error of an object without memory. A buffer that fails in another way says why.
fn not_memory(place: Place, object: &Bound<'_, PyAny>, e: PyErr) -> PyErr {
    let how = if object.is_instance_of::<PyString>() { "`text.encode()`" } else { "bytes, an array or a tensor" };
    let e = match object.get_type().name() {
        Ok(class) if e.is_instance_of::<PyTypeError>(object.py()) => {
            PyTypeError::new_err(format!("{place} is of the type {class}; give {how}"))
        }
        _ => e,
    };
    refused(object.py(), ErrorKind::InvalidInput, e)
}

fn not_contiguous(py: Python<'_>, place: Place) -> PyErr {
    wrong(py, place, "is not contiguous", "make a copy: `numpy.ascontiguousarray(x)`, or `x.contiguous()` in torch")
}

fn wrong(py: Python<'_>, place: Place, why: &str, hint: &'static str) -> PyErr {
    to_py(py, &Error::new(ErrorKind::InvalidInput, format!("{place} {why}")).with_hint(hint))
}

/// Whether a buffer holds these bytes; `None` if the object is not a contiguous buffer of single bytes.
pub(crate) fn bytes_equal(bytes: &[u8], other: &Bound<'_, PyAny>) -> PyResult<Option<bool>> {
    let Ok(view) = export(other) else { return Ok(None) };
    if !view.is_c_contiguous() || view.item_size() != 1 {
        return Ok(None);
    }
    let equal = view.len_bytes() == bytes.len()
        && match NonNull::new(view.buf_ptr().cast::<u8>()) {
            // SAFETY: the export keeps the memory valid, and it is read while this thread holds the interpreter's lock.
            Some(start) => unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes.len()) == bytes },
            None => true,
        };
    view.release(other.py());
    Ok(Some(equal))
}
