//! Python's buffers as memory that a store reads from or writes to.
//!
//! Nothing may touch the memory after its owner got the answer. So every piece of lent memory holds the
//! [`Call`](crate::call::Call), whose last drop delivers the answer. A buffer's export ends only on a thread that is attached to
//! the interpreter, but calls end on threads that must not attach.
#![expect(unsafe_code, reason = "describes memory that Python owns")]

use std::any::Any;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use connectors::{ChunkLayout, MemoryObj, MemoryObjMut, Region, Result};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::python_thread;

/// Exports of Python's buffers. While this lives, Python neither frees nor resizes them.
///
/// A drop on any thread ends the exports a little later, on the thread that is attached. [`release`](Self::release) ends
/// them at once.
pub(crate) struct Views(Vec<PyUntypedBuffer>);

/// The address and length of one view's bytes.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address and a number. The code that turns them into memory says why that is sound.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

impl Views {
    /// No views, for a call without memory.
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    /// Views to be read.
    ///
    /// # Errors
    /// `BufferError` or `TypeError` for an object that is not a buffer, `ValueError` for a buffer that is not contiguous.
    pub(crate) fn to_read(objects: &[Bound<'_, PyAny>]) -> PyResult<(Self, Vec<Span>)> {
        let views = objects.iter().map(PyUntypedBuffer::get).collect::<PyResult<Vec<_>>>()?;
        let spans = views.iter().enumerate().map(|(i, view)| span(i, view)).collect::<PyResult<_>>()?;
        Ok((Self(views), spans))
    }

    /// Views to be written.
    ///
    /// # Errors
    /// As [`to_read`](Self::to_read); `ValueError` also for a read-only buffer and for two that overlap.
    pub(crate) fn to_write(objects: &[Bound<'_, PyAny>]) -> PyResult<(Self, Vec<Span>)> {
        let views = objects.iter().map(PyUntypedBuffer::get).collect::<PyResult<Vec<_>>>()?;
        if let Some(i) = views.iter().position(PyUntypedBuffer::readonly) {
            return Err(PyValueError::new_err(format!("buffer {i} is read-only, and the chunk would be read into it")));
        }
        let spans: Vec<_> = views.iter().enumerate().map(|(i, view)| span(i, view)).collect::<PyResult<_>>()?;
        let mut by_address: Vec<_> = spans.iter().enumerate().filter(|(_, span)| span.len > 0).collect();
        by_address.sort_by_key(|(_, span)| span.start);
        for pair in by_address.windows(2) {
            let [(i, a), (j, b)] = pair else { continue };
            if a.start.addr().get() + a.len > b.start.addr().get() {
                return Err(PyValueError::new_err(format!("buffers {} and {} overlap", i.min(j), i.max(j))));
            }
        }
        Ok((Self(views), spans))
    }

    /// Ends the exports now.
    pub(crate) fn release(mut self, py: Python<'_>) {
        for view in std::mem::take(&mut self.0) {
            view.release(py);
        }
    }
}

impl Drop for Views {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            // After the interpreter's exit the job is dropped, and the exports need no end.
            let views = ManuallyDrop::new(std::mem::take(&mut self.0));
            python_thread::run(move |py| Self(ManuallyDrop::into_inner(views)).release(py));
        }
    }
}

fn span(i: usize, view: &PyUntypedBuffer) -> PyResult<Span> {
    if !view.is_c_contiguous() {
        return Err(PyValueError::new_err(format!("buffer {i} is not contiguous")));
    }
    Ok(Span { start: NonNull::new(view.buf_ptr().cast()).unwrap_or(NonNull::dangling()), len: view.len_bytes() })
}

/// Memory of a Python buffer, which the call may use until this is dropped.
struct LentBuffer {
    span: Span,
    _call: Arc<dyn Any + Send + Sync>,
}

// SAFETY: start and length never change; the callers of `lend_to_write` and `lend_to_read` promise the rest.
unsafe impl Region for LentBuffer {
    fn as_ptr(&self) -> NonNull<u8> {
        self.span.start
    }

    fn len(&self) -> usize {
        self.span.len
    }
}

impl Span {
    /// The length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The memory, to be written. It holds `call` until nothing touches the memory any more.
    ///
    /// # Safety
    /// The memory is valid, and nothing else touches it, until `call`'s last holder has dropped it.
    pub(crate) unsafe fn lend_to_write(self, call: Arc<dyn Any + Send + Sync>) -> Result<MemoryObjMut> {
        MemoryObjMut::from_region(LentBuffer { span: self, _call: call }, ChunkLayout::binary(self.len))
    }

    /// The memory, to be read, with a layout. It holds `call` until nothing touches the memory any more.
    ///
    /// # Safety
    /// The memory is valid, and nothing writes to it, until `call`'s last holder has dropped it.
    pub(crate) unsafe fn lend_to_read(
        self,
        layout: ChunkLayout,
        call: Arc<dyn Any + Send + Sync>,
    ) -> Result<MemoryObj> {
        MemoryObj::from_region(LentBuffer { span: self, _call: call }, layout)
    }
}

/// Whether a buffer holds these bytes; `None` if the object is not a contiguous buffer of single bytes.
pub(crate) fn bytes_equal(bytes: &[u8], other: &Bound<'_, PyAny>) -> PyResult<Option<bool>> {
    let Ok(view) = PyUntypedBuffer::get(other) else { return Ok(None) };
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
