//! Chunks whose memory belongs to LMCache's memory objects.
#![expect(unsafe_code, reason = "hands LMCache's memory to connectors")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use connectors::{ChunkLayout, MemoryObj, MemoryObjMut, Region};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyMemoryView;

use super::layout;
use super::pool::{GivenBack, Pool};
use crate::errors::OrRaise;
use crate::runtime::Process;

/// The memory of one of LMCache's memory objects, with one count of its references.
pub(super) struct Lent {
    object: Option<Py<PyAny>>,
    /// What keeps memory outside LMCache's pool where it is.
    view: Option<Py<PyMemoryView>>,
    start: NonNull<u8>,
    len: usize,
    pool: Option<Arc<Pool>>,
    /// What LMCache's object says that it is, if it was allocated here.
    made_for: Option<ChunkLayout>,
    /// Set when Python got the object, and its count with it.
    handed_over: AtomicBool,
    process: &'static Process,
}

// SAFETY: the memory is LMCache's: a block of its pool, which stays this object's while its count, which is held here, is
// above zero, and which LMCache frees only after `Pool` has waited for every `Lent`; or a bytes object that the view pins.
// Who writes: an allocated block has no other user before it is handed over; a chunk that is put is only read.
unsafe impl Region for Lent {
    fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    fn len(&self) -> usize {
        self.len
    }
}

// SAFETY: the pointer is to memory that any thread may read and, while it is in a `MemoryObjMut`, write.
unsafe impl Send for Lent {}
// SAFETY: as above; `Lent` itself is changed through an atomic only.
unsafe impl Sync for Lent {}

impl Drop for Lent {
    fn drop(&mut self) {
        let handed_over = *self.handed_over.get_mut();
        let (object, view) = (self.object.take(), self.view.take());
        // Given back also if the news reaches nobody, because the interpreter exits: nothing uses the memory any more.
        let pool = self.pool.take().map(GivenBack);
        // Not attached here: this may be any thread, and somebody who waits for it may hold the interpreter's lock.
        self.process.tell(move |py| {
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

impl Lent {
    /// Takes over the count that `object` came with. If its memory cannot be reached, the count goes back.
    fn new(
        object: &Bound<'_, PyAny>,
        made_for: Option<&ChunkLayout>,
        pool: Option<&Arc<Pool>>,
        process: &'static Process,
    ) -> PyResult<Self> {
        let open = pool.map_or(Ok(()), |pool| pool.lend());
        // Before anything can fail, so that whatever fails gives the count back.
        let mut this = Self {
            object: Some(object.clone().unbind()),
            view: None,
            made_for: made_for.cloned(),
            start: NonNull::dangling(),
            len: 0,
            pool: pool.cloned(),
            handed_over: AtomicBool::new(false),
            process,
        };
        let py = object.py();
        open.or_raise(py)?;
        let array = object.getattr(intern!(py, "byte_array"))?;
        let view = PyMemoryView::from(&array)?;
        let buffer = PyUntypedBuffer::get(&view)?;
        let len = made_for.map(|layout| layout.len);
        let bytes = buffer.len_bytes();
        if !buffer.is_c_contiguous() || (len.is_some() && buffer.readonly()) {
            return Err(PyValueError::new_err("LMCache's memory object is not contiguous and writable"));
        }
        if len.is_some_and(|len| len > bytes) {
            return Err(PyValueError::new_err(format!("LMCache gave {bytes} bytes of memory instead of {len:?}")));
        }
        if let Some(start) = NonNull::new(buffer.buf_ptr().cast::<u8>()) {
            this.start = start;
            this.len = len.unwrap_or(bytes);
        }
        // A tensor's memory stays while its count does; bytes stay where they are while somebody has a view of them.
        this.view = Some(view.unbind());
        Ok(this)
    }
}

/// A chunk over an object that LMCache has just allocated; its count goes with the chunk.
pub(super) fn allocated(
    object: &Bound<'_, PyAny>,
    layout: &ChunkLayout,
    pool: &Arc<Pool>,
    process: &'static Process,
) -> PyResult<MemoryObjMut> {
    let lent = Lent::new(object, Some(layout), Some(pool), process)?;
    MemoryObjMut::from_region(lent, layout.clone()).map_err(|e| crate::errors::to_py(object.py(), &e))
}

/// A chunk to be put: LMCache's own object, read where it is, with a count of its own until the last holder lets go.
/// (LMCache gives its own count back as soon as the call has ended.)
pub(super) fn to_put(
    object: &Bound<'_, PyAny>,
    pool: Option<&Arc<Pool>>,
    process: &'static Process,
) -> PyResult<MemoryObj> {
    let py = object.py();
    object.call_method0(intern!(py, "ref_count_up"))?;
    let lent = Lent::new(object, None, pool, process)?;
    let layout = layout::of_object(object, lent.len)?;
    MemoryObj::from_region(lent, layout).map_err(|e| crate::errors::to_py(py, &e))
}

/// Whether [`hand_over`] can give the chunk's object away: one of LMCache's, which says the same of itself as the chunk.
pub(super) fn is_lent(chunk: &MemoryObj) -> bool {
    chunk.region::<Lent>().is_some_and(|lent| lent.made_for.as_ref() == Some(chunk.layout()))
}

/// LMCache's object behind a chunk, with a count for whoever gets it. `None` if the memory is not LMCache's.
///
/// # Errors
/// `Closed` if LMCache is about to free its pool: it waits for connectors, but not for those who got a chunk from one.
pub(super) fn hand_over(py: Python<'_>, chunk: MemoryObj) -> PyResult<Option<Py<PyAny>>> {
    if let Some(pool) = chunk.region::<Lent>().and_then(|lent| lent.pool.as_ref()) {
        pool.check_open().or_raise(py)?;
    }
    match chunk.try_into_mut() {
        Ok(only) => {
            let Some(lent) = only.region::<Lent>() else { return Ok(None) };
            let object = lent.object.as_ref().map(|object| object.clone_ref(py));
            lent.handed_over.store(true, Ordering::Relaxed);
            Ok(object)
        }
        // The connector kept it: both hold a count then.
        Err(shared) => {
            let Some(object) = shared.region::<Lent>().and_then(|lent| lent.object.as_ref()) else { return Ok(None) };
            object.call_method0(py, intern!(py, "ref_count_up"))?;
            Ok(Some(object.clone_ref(py)))
        }
    }
}

/// Gives one count back.
pub(super) fn release(object: &Bound<'_, PyAny>) {
    if let Err(e) = object.call_method0(intern!(object.py(), "ref_count_down")) {
        e.write_unraisable(object.py(), Some(object));
    }
}
