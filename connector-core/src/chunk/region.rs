//! Memory with an owner.
#![expect(unsafe_code, reason = "the one place where foreign memory is described")]

use std::any::Any;
use std::ptr::NonNull;

use bytes::Bytes;

/// Memory with an owner: a block of a pool, a Python buffer, pinned memory of another allocator.
///
/// One [`MemoryObjMut`](crate::MemoryObjMut) holds a region, or any number of [`MemoryObj`](crate::MemoryObj)s share
/// it. The last of them drops it, on any thread, and its `Drop` gives the memory back. A `Drop` may run on an
/// executor's thread. It must not block, must not panic, and must not wait for a lock that its caller may hold
/// (Python's GIL).
///
/// # Safety
/// An implementation promises, from the time when kvconn gets it until kvconn drops it, that
/// - [`as_ptr`](Self::as_ptr) and [`len`](Self::len) always give the same answer;
/// - `as_ptr()..as_ptr() + len()` is one allocation, initialised, and valid to read from any thread, and to write if it
///   was handed to [`MemoryObjMut::from_region`](crate::MemoryObjMut::from_region);
/// - no other code writes to that memory, and no other code reads it if it was handed to `MemoryObjMut::from_region`. An owner
///   that could do so, such as a Python program with a view of its buffer, must promise not to. LMCache promises it between
///   submit and completion.
pub unsafe trait Region: Any + Send + Sync {
    /// Start of the memory, with any alignment. May dangle if `len` is 0.
    fn as_ptr(&self) -> NonNull<u8>;

    /// Bytes of the memory, at most `isize::MAX`.
    fn len(&self) -> usize;

    /// Whether the memory is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Memory that only its owner can write, behind a pointer that stays the same when this value moves. Private, because
/// `MemoryObjMut` must never get it.
pub(super) struct ReadOnly(Bytes);

impl ReadOnly {
    pub(super) fn new(owner: impl AsRef<[u8]> + Send + 'static) -> Self {
        // `from_owner` boxes the owner before it asks for the bytes: an array that moves would move its bytes.
        Self(Bytes::from_owner(owner))
    }
}

// SAFETY: a `Bytes` never changes its pointer or length while it is only read, and never writes. It keeps the owner, and so
// the memory, until it is dropped.
unsafe impl Region for ReadOnly {
    fn as_ptr(&self) -> NonNull<u8> {
        NonNull::from(&*self.0).cast()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Memory of the ordinary heap.
pub(crate) struct Heap {
    start: NonNull<u8>,
    len: usize,
}

impl Heap {
    pub(crate) fn new(bytes: Box<[u8]>) -> Self {
        let len = bytes.len();
        // SAFETY: Box::into_raw never gives null.
        let start = unsafe { NonNull::new_unchecked(Box::into_raw(bytes).cast::<u8>()) };
        Self { start, len }
    }
}

// SAFETY: the memory is a leaked `Box<[u8]>` (initialised, one allocation) that only this value knows, and that lives
// until `drop` takes it back.
unsafe impl Region for Heap {
    fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    fn len(&self) -> usize {
        self.len
    }
}

// SAFETY: owns plain bytes, as the `Box<[u8]>` it was made from.
unsafe impl Send for Heap {}
// SAFETY: as above; `&Heap` gives out a pointer but no access.
unsafe impl Sync for Heap {}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: pointer and length come from `Box::into_raw` in `new`, and nothing can use them after this drop.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.len)) });
    }
}
