//! Python's buffers as memory that a store reads from or writes to.
//!
//! Nothing may touch the memory after its owner got the answer. So every piece of lent memory holds the
//! [`Call`](crate::call::Call), whose last drop delivers the answer. A buffer's export ends only on a thread that is attached to
//! the interpreter, but calls end on threads that must not attach.
#![expect(unsafe_code, reason = "describes memory that Python owns")]

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use connectors::ErrorKind;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;

use crate::errors::{invalid, refused};
use crate::python_thread;
use crate::span::Span;

/// Exports of Python's buffers. While this lives, Python neither frees nor resizes them.
///
/// A drop on any thread ends the exports a little later, on the thread that is attached. [`release`](Self::release) ends
/// them at once.
pub(crate) struct Views {
    exports: Vec<PyUntypedBuffer>,
    /// Keeps memory alive that has no export.
    owner: Option<Py<PyAny>>,
    /// Start, and end and place, of each buffer that is written.
    written: BTreeMap<usize, (usize, usize)>,
}

impl Views {
    /// No views, for a call without memory.
    pub(crate) fn none() -> Self {
        Self { exports: Vec::new(), owner: None, written: BTreeMap::new() }
    }

    /// Adds the buffer at this place of a batch, to be read.
    ///
    /// # Errors
    /// `InvalidError` for an object that is not a contiguous buffer.
    pub(crate) fn read(&mut self, place: usize, object: &Bound<'_, PyAny>) -> PyResult<Span> {
        let (export, span) = contiguous(place, object)?;
        self.exports.push(export);
        Ok(span)
    }

    /// Adds the buffer at this place of a batch, to be written.
    ///
    /// # Errors
    /// As [`read`](Self::read); also for a read-only buffer, and for one that overlaps another one.
    pub(crate) fn write(&mut self, place: usize, object: &Bound<'_, PyAny>) -> PyResult<Span> {
        let (export, span) = contiguous(place, object)?;
        if export.readonly() {
            let message = format!("buffer {place} is read-only, and the chunk would be read into it");
            return Err(invalid(object.py(), message));
        }
        if span.len() > 0 {
            let start = span.start();
            let end = start + span.len();
            // No two of the earlier ones overlap, so only the nearest can overlap this one.
            let nearest = self.written.range(..end).next_back();
            if let Some((_, &(_, other))) = nearest.filter(|(_, (nearest_end, _))| *nearest_end > start) {
                return Err(invalid(object.py(), format!("buffers {other} and {place} overlap")));
            }
            self.written.insert(start, (end, place));
        }
        self.exports.push(export);
        Ok(span)
    }

    /// All buffers, to be read.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn to_read(objects: &[Bound<'_, PyAny>]) -> PyResult<(Self, Vec<Span>)> {
        Self::all(objects, Self::read)
    }

    /// All buffers, to be written.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) fn to_write(objects: &[Bound<'_, PyAny>]) -> PyResult<(Self, Vec<Span>)> {
        Self::all(objects, Self::write)
    }

    fn all<'py>(
        objects: &[Bound<'py, PyAny>],
        mut add: impl FnMut(&mut Self, usize, &Bound<'py, PyAny>) -> PyResult<Span>,
    ) -> PyResult<(Self, Vec<Span>)> {
        let mut views = Self::none();
        let spans = objects.iter().enumerate().map(|(i, object)| add(&mut views, i, object)).collect();
        match spans {
            Ok(spans) => Ok((views, spans)),
            Err(e) => {
                // Ended here and not by a drop: the caller may resize its other buffers at once.
                objects
                    .iter()
                    .take(1)
                    .for_each(|object| std::mem::replace(&mut views, Self::none()).release(object.py()));
                Err(e)
            }
        }
    }

    /// Adds an export.
    pub(crate) fn add(&mut self, export: PyUntypedBuffer) {
        self.exports.push(export);
    }

    /// Keeps an object alive as long as the exports.
    pub(crate) fn keep(&mut self, owner: Py<PyAny>) {
        self.owner = Some(owner);
    }

    /// Ends the exports now.
    pub(crate) fn release(mut self, py: Python<'_>) {
        for view in std::mem::take(&mut self.exports) {
            view.release(py);
        }
        if let Some(owner) = self.owner.take() {
            owner.drop_ref(py);
        }
    }
}

impl Drop for Views {
    fn drop(&mut self) {
        if !self.exports.is_empty() || self.owner.is_some() {
            // After the interpreter's exit the job is dropped, and the exports need no end.
            let views = ManuallyDrop::new(std::mem::replace(self, Self::none()));
            python_thread::run(move |py| ManuallyDrop::into_inner(views).release(py));
        }
    }
}

fn contiguous(place: usize, object: &Bound<'_, PyAny>) -> PyResult<(PyUntypedBuffer, Span)> {
    let py = object.py();
    let export = export(object).map_err(|e| refused(py, ErrorKind::InvalidInput, e))?;
    if !export.is_c_contiguous() {
        return Err(invalid(py, format!("buffer {place} is not contiguous")));
    }
    let start = NonNull::new(export.buf_ptr().cast()).unwrap_or(NonNull::dangling());
    let span = Span::new(start, export.len_bytes());
    Ok((export, span))
}

/// The object's buffer. A memoryview adds the strides that some objects leave out, such as the arrays of `ctypes`.
fn export(object: &Bound<'_, PyAny>) -> PyResult<PyUntypedBuffer> {
    PyUntypedBuffer::get(object).or_else(|e| {
        let view = PyMemoryView::from(object).and_then(|view| PyUntypedBuffer::get(&view));
        view.map_err(|_| e)
    })
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
