//! Memory that Python lends to a call, without Python's types.
#![expect(unsafe_code, reason = "describes memory that Python owns")]

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use connectors::{ChunkLayout, MemoryObj, MemoryObjMut, Region, Result};

/// The address and length of memory that Python owns.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address and a number. The code that turns them into memory says why that is sound.
unsafe impl Send for Span {}
// SAFETY: as above.
unsafe impl Sync for Span {}

/// The memory of a span, which the call may use until this is dropped.
struct Lent {
    span: Span,
    _call: Arc<dyn Any + Send + Sync>,
}

// SAFETY: start and length never change; the callers of `lend_to_write` and `lend_to_read` promise the rest.
unsafe impl Region for Lent {
    fn as_ptr(&self) -> NonNull<u8> {
        self.span.start
    }

    fn len(&self) -> usize {
        self.span.len
    }
}

impl Span {
    /// `len` bytes from `start` on.
    pub(crate) fn new(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len }
    }

    /// `len` bytes from the byte `at` on. Panics if they are not in the span.
    pub(crate) fn part(self, at: usize, len: usize) -> Self {
        assert!(at <= self.len && len <= self.len - at, "a part of a span is inside it");
        // SAFETY: the offset is inside the span, as checked.
        Self { start: unsafe { self.start.add(at) }, len }
    }

    /// The address of the first byte.
    pub(crate) fn start(&self) -> usize {
        self.start.addr().get()
    }

    /// The length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The memory, to write to. It holds `call` until nothing touches the memory any more.
    ///
    /// # Safety
    /// The memory is valid, and nothing else touches it, until `call`'s last holder has dropped it.
    pub(crate) unsafe fn lend_to_write(self, call: Arc<dyn Any + Send + Sync>) -> Result<MemoryObjMut> {
        MemoryObjMut::from_region(Lent { span: self, _call: call }, ChunkLayout::binary(self.len))
    }

    /// The memory, to read from, with a layout. It holds `call` until nothing touches the memory any more.
    ///
    /// # Safety
    /// The memory is valid, and nothing writes to it, until `call`'s last holder has dropped it.
    pub(crate) unsafe fn lend_to_read(
        self,
        layout: ChunkLayout,
        call: Arc<dyn Any + Send + Sync>,
    ) -> Result<MemoryObj> {
        MemoryObj::from_region(Lent { span: self, _call: call }, layout)
    }

    /// The memory, to copy from.
    ///
    /// # Safety
    /// The memory is valid, and nothing writes to it, for the lifetime `'a`.
    pub(crate) unsafe fn to_read<'a>(self) -> &'a [u8] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The memory, to copy to.
    ///
    /// # Safety
    /// The memory is valid, and nothing else touches it, for the lifetime `'a`.
    pub(crate) unsafe fn to_write<'a>(self) -> &'a mut [u8] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}
