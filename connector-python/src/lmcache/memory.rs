//! Chunks whose memory belongs to LMCache's memory objects.
#![expect(unsafe_code, reason = "hands LMCache's memory to connectors")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use connectors::{ChunkLayout, Error, ErrorKind, MemoryObj, MemoryObjMut, Region};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyMemoryView};

use super::layout;
use super::pool::{GivenBack, Pool};
use crate::errors::{OrRaise, invalid};
use crate::process::{ProcessId, in_python};
use crate::python_thread;

/// The memory of one of LMCache's memory objects, with one count of its references.
pub(super) struct LentObject {
    object: Option<Py<PyAny>>,
    /// Keeps memory outside LMCache's pool where it is.
    view: Option<Py<PyMemoryView>>,
    start: NonNull<u8>,
    len: usize,
    pool: Option<Arc<Pool>>,
    /// The layout that the object was allocated for, if kvconn allocated it.
    made_for: Option<ChunkLayout>,
    /// Set when Python got the object together with its count.
    handed_over: AtomicBool,
    process: ProcessId,
}

// SAFETY: the memory is a block of LMCache's pool, or a bytes object that the view pins. A block stays this object's while its
// count is above zero, and this holds one count. LMCache frees the pool only after `Pool` has waited for every
// `LentObject`. An allocated block has no other user before it is handed over; a chunk that is put is only read.
unsafe impl Region for LentObject {
    fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    fn len(&self) -> usize {
        self.len
    }
}

// SAFETY: the pointer is to memory that any thread may read and, while it is in a `MemoryObjMut`, write.
unsafe impl Send for LentObject {}
// SAFETY: as above; `LentObject` itself is changed through an atomic only.
unsafe impl Sync for LentObject {}

impl Drop for LentObject {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // The objects are copies of the parent's, and another thread may have held their locks at the fork.
            std::mem::forget((self.object.take(), self.view.take(), self.pool.take()));
            return;
        }
        let handed_over = *self.handed_over.get_mut();
        let (object, view) = (self.object.take(), self.view.take());
        // Counts also if the job is dropped because the interpreter exits: nothing uses the memory any more.
        let pool = self.pool.take().map(GivenBack);
        // This may be any thread, and a thread that waits for it may hold the interpreter's lock.
        python_thread::run(move |py| {
            if let (Some(object), false) = (object, handed_over) {
                release(object.bind(py));
            }
            drop(view);
            if let Some(given_back) = pool {
                let pool = given_back.0.clone();
                drop(given_back);
                pool.serve(py);
            }
        });
    }
}

impl LentObject {
    /// Takes over the count that `object` came with. On an error the count goes back.
    fn new(object: &Bound<'_, PyAny>, made_for: Option<&ChunkLayout>, pool: Option<&Arc<Pool>>) -> PyResult<Self> {
        let open = pool.map_or(Ok(()), |pool| pool.lend());
        // Before anything can fail, so that an error gives the count back.
        let mut this = Self {
            object: Some(object.clone().unbind()),
            view: None,
            made_for: made_for.cloned(),
            start: NonNull::dangling(),
            len: 0,
            pool: pool.cloned(),
            handed_over: AtomicBool::new(false),
            process: ProcessId::current(),
        };
        let py = object.py();
        open.or_raise(py)?;
        let array = object.getattr(intern!(py, "byte_array"))?;
        let view = PyMemoryView::from(&array)?;
        let buffer = PyUntypedBuffer::get(&view)?;
        let len = made_for.map(|layout| layout.len);
        let bytes = buffer.len_bytes();
        if !buffer.is_c_contiguous() || (len.is_some() && buffer.readonly()) {
            return Err(invalid(py, "LMCache's memory object is not contiguous and writable"));
        }
        if len.is_some_and(|len| len > bytes) {
            return Err(invalid(py, format!("LMCache gave {bytes} bytes of memory instead of {len:?}")));
        }
        if let Some(start) = NonNull::new(buffer.buf_ptr().cast::<u8>()) {
            this.start = start;
            this.len = len.unwrap_or(bytes);
        }
        // A tensor's memory stays while this holds its count; bytes stay while this has a view of them.
        this.view = Some(view.unbind());
        Ok(this)
    }
}

/// A chunk over an object that LMCache has just allocated; its count goes with the chunk.
pub(super) fn allocated(object: &Bound<'_, PyAny>, layout: &ChunkLayout, pool: &Arc<Pool>) -> PyResult<MemoryObjMut> {
    let lent = LentObject::new(object, Some(layout), Some(pool))?;
    MemoryObjMut::from_region(lent, layout.clone()).map_err(|e| crate::errors::to_py(object.py(), &e))
}

/// A chunk to be put: LMCache's own object, read where it is. The chunk holds a count of its own, because LMCache gives its
/// count back as soon as the call has ended.
pub(super) fn to_put(object: &Bound<'_, PyAny>, pool: Option<&Arc<Pool>>) -> PyResult<MemoryObj> {
    let py = object.py();
    let (lent, layout) = in_python(py, || {
        object.call_method0(intern!(py, "ref_count_up"))?;
        let lent = LentObject::new(object, None, pool)?;
        let layout = layout::of_object(object, lent.len)?;
        PyResult::Ok((lent, layout))
    })?;
    MemoryObj::from_region(lent, layout).map_err(|e| crate::errors::to_py(py, &e))
}

/// Whether [`to_object`] can give LMCache the chunk's own object: the object has the chunk's layout.
pub(super) fn is_lent(chunk: &MemoryObj) -> bool {
    chunk.region::<LentObject>().is_some_and(|lent| lent.made_for.as_ref() == Some(chunk.layout()))
}

/// LMCache's object behind a chunk, with a count for the caller; None for a miss.
///
/// # Errors
/// `Closed` if LMCache is about to free its pool. LMCache waits for connectors then, but not for the chunks that they gave.
pub(super) fn to_object(py: Python<'_>, chunk: Option<MemoryObj>) -> PyResult<Py<PyAny>> {
    let Some(chunk) = chunk else { return Ok(py.None()) };
    let not_lent = || Error::new(ErrorKind::Other, "the chunk is not in LMCache's memory");
    if let Some(pool) = chunk.region::<LentObject>().and_then(|lent| lent.pool.as_ref()) {
        pool.check_open().or_raise(py)?;
    }
    match chunk.try_into_mut() {
        Ok(only) => {
            let lent = only.region::<LentObject>().ok_or_else(not_lent).or_raise(py)?;
            let object = lent.object.as_ref().ok_or_else(not_lent).or_raise(py)?.clone_ref(py);
            lent.handed_over.store(true, Ordering::Relaxed);
            Ok(object)
        }
        // The connector kept the chunk, so both hold a count.
        Err(shared) => {
            let lent = shared.region::<LentObject>().ok_or_else(not_lent).or_raise(py)?;
            let object = lent.object.as_ref().ok_or_else(not_lent).or_raise(py)?;
            object.call_method0(py, intern!(py, "ref_count_up"))?;
            Ok(object.clone_ref(py))
        }
    }
}

/// Gives one count back.
pub(super) fn release(object: &Bound<'_, PyAny>) {
    if let Err(e) = object.call_method0(intern!(object.py(), "ref_count_down")) {
        e.write_unraisable(object.py(), Some(object));
    }
}

/// Gives back the memory of an answer that nothing takes: an object, or a list of objects.
#[pyfunction(name = "_give_back")]
pub(super) fn give_back(value: &Bound<'_, PyAny>) {
    if let Ok(list) = value.cast::<PyList>() {
        list.iter().for_each(|value| give_back(&value));
    } else if value.hasattr(intern!(value.py(), "ref_count_down")).unwrap_or(false) {
        release(value);
    }
}
