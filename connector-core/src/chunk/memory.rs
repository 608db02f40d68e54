//! Chunks in memory: owned and writable, or shared and read-only.
#![expect(unsafe_code, reason = "gives out slices of a Region's memory")]

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::region::{Heap, ReadOnly};
use super::{ChunkLayout, Region};
use crate::allocator::PoolRegion;
use crate::{Error, ErrorKind, Result};

/// A chunk's memory with one owner, writable. Derefs to `[u8]`, `layout().len` bytes of it.
///
/// Comes from a [`ChunkAllocator`](crate::ChunkAllocator), from a `Vec<u8>`, or [over memory with another
/// owner](Self::from_region). [`freeze`](Self::freeze) makes it shared and read-only.
pub struct MemoryObjMut {
    /// `None` after [`take`](Self::take). The `Arc` is never shared while it is here.
    region: Option<Arc<dyn Region>>,
    layout: ChunkLayout,
}

/// A chunk's memory, shared and read-only. Derefs to `[u8]`; cheap to clone.
#[derive(Clone)]
pub struct MemoryObj {
    region: Arc<dyn Region>,
    layout: ChunkLayout,
    /// The owner lends it only to be read, so it never becomes writable.
    read_only: bool,
}

impl MemoryObjMut {
    /// A writable chunk over memory with another owner. Dropping the last handle drops `region`, which gives the memory back.
    /// Only that drop tells the owner that its memory is free again.
    ///
    /// # Errors
    /// `SizeMismatch` if the layout is longer than the region.
    pub fn from_region(region: impl Region, layout: ChunkLayout) -> Result<Self> {
        // `region` comes by value, so this is the only `Arc`, and two objects over one region cannot exist.
        let mut this = Self { region: Some(Arc::new(region)), layout: ChunkLayout::binary(0) };
        this.set_layout(layout)?;
        Ok(this)
    }

    /// `len` zero bytes of the ordinary heap, as BINARY.
    pub fn zeroed(len: usize) -> Self {
        Self::from(vec![0; len])
    }

    /// The layout of the bytes. After [`take`](Self::take), the former layout.
    pub fn layout(&self) -> &ChunkLayout {
        &self.layout
    }

    /// Bytes that the memory can hold; 0 after [`take`](Self::take).
    pub fn capacity(&self) -> usize {
        self.region.as_ref().map_or(0, |r| r.len())
    }

    /// Sets the layout, within the capacity. Bytes that become visible are unspecified.
    ///
    /// # Errors
    /// `SizeMismatch` if the layout is longer than the memory; the object is unchanged then.
    pub fn set_layout(&mut self, layout: ChunkLayout) -> Result<()> {
        if layout.len > self.capacity() {
            return Err(does_not_fit(layout.len, self.capacity()));
        }
        self.layout = layout;
        Ok(())
    }

    /// Takes the memory out and leaves an object of 0 bytes. Work that may outlive its future (a blocking thread,
    /// io_uring) must own the memory while it runs. Put the memory back with an assignment.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self { region: self.region.take(), layout: self.layout.clone() }
    }

    /// Drops the memory after a read that failed. A pool returns it to the system instead of keeping it for the next
    /// chunk.
    pub fn discard(self) {
        if let Some(block) = self.region::<PoolRegion>() {
            block.discard();
        }
    }

    /// Whether the memory was taken out and not put back.
    pub fn is_taken(&self) -> bool {
        self.region.is_none()
    }

    /// The address of the memory, to check later that it is still the same memory.
    pub(crate) fn identity(&self) -> Option<usize> {
        self.region.as_ref().map(|r| r.as_ptr().addr().get())
    }

    /// Makes the chunk shared and read-only.
    pub fn freeze(self) -> MemoryObj {
        match self.region {
            Some(region) => MemoryObj { region, layout: self.layout, read_only: false },
            None => MemoryObj::from(Vec::new()),
        }
    }

    /// The region behind this chunk, if it is a `T`.
    pub fn region<T: Region>(&self) -> Option<&T> {
        self.region.as_ref().and_then(|r| (&**r as &dyn Any).downcast_ref())
    }
}

impl MemoryObj {
    /// A read-only chunk over memory with another owner. It never becomes writable, so the memory may be a read-only page, or
    /// have other readers.
    ///
    /// # Errors
    /// `SizeMismatch` if the layout is longer than the region.
    pub fn from_region(region: impl Region, layout: ChunkLayout) -> Result<Self> {
        Self { region: Arc::new(region), layout: ChunkLayout::binary(0), read_only: true }.with_layout(layout)
    }

    /// A chunk over the bytes that `owner` has, as BINARY. Copies nothing. The last handle drops `owner`.
    ///
    /// [`with_layout`](Self::with_layout) sets another layout.
    ///
    /// ```
    /// # use connector_core::MemoryObj;
    /// // For example the `Bytes` of a client library.
    /// let chunk = MemoryObj::from_owner(vec![1, 2, 3]);
    /// assert_eq!(*chunk, [1, 2, 3]);
    /// ```
    pub fn from_owner(owner: impl AsRef<[u8]> + Send + 'static) -> Self {
        let region = ReadOnly::new(owner);
        let layout = ChunkLayout::binary(region.len());
        Self { region: Arc::new(region), layout, read_only: true }
    }

    /// The same memory with another layout. Other handles keep theirs.
    ///
    /// # Errors
    /// `SizeMismatch` if the layout is longer than the memory.
    pub fn with_layout(self, layout: ChunkLayout) -> Result<Self> {
        if layout.len > self.region.len() {
            return Err(does_not_fit(layout.len, self.region.len()));
        }
        Ok(Self { layout, ..self })
    }

    /// The bytes of a `Vec`, labelled.
    ///
    /// # Errors
    /// `SizeMismatch` if the layout is longer than the bytes.
    pub fn from_vec(bytes: Vec<u8>, layout: ChunkLayout) -> Result<Self> {
        Self::from(bytes).with_layout(layout)
    }

    /// The layout of the bytes.
    pub fn layout(&self) -> &ChunkLayout {
        &self.layout
    }

    /// The region behind this chunk, if it is a `T`.
    pub fn region<T: Region>(&self) -> Option<&T> {
        (&*self.region as &dyn Any).downcast_ref()
    }

    /// The chunk as a writable one, if this is its only handle and it is not [read-only](Self::from_region).
    ///
    /// # Errors
    /// Gives the chunk back unchanged otherwise.
    pub fn try_into_mut(mut self) -> Result<MemoryObjMut, Self> {
        // `get_mut` also excludes weak handles.
        if !self.read_only && Arc::get_mut(&mut self.region).is_some() {
            Ok(MemoryObjMut { region: Some(self.region), layout: self.layout })
        } else {
            Err(self)
        }
    }
}

/// The error of a chunk that is longer than the memory for it.
pub(crate) fn does_not_fit(chunk: usize, room: usize) -> Error {
    Error::new(ErrorKind::SizeMismatch, format!("a chunk of {chunk} bytes does not fit memory of {room} bytes"))
}

impl Deref for MemoryObjMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.region {
            // SAFETY: `Region` promises initialised memory of `len()` bytes; `set_layout` keeps `layout.len` within
            // it; the only writer is `deref_mut`, which borrows `self` mutably.
            Some(r) => unsafe { std::slice::from_raw_parts(r.as_ptr().as_ptr(), self.layout.len) },
            None => &[],
        }
    }
}

impl DerefMut for MemoryObjMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &self.region {
            // SAFETY: as in `deref`; the `Arc` is not shared while it is in a `MemoryObjMut`, so `&mut self` is the
            // only way to the memory.
            Some(r) => unsafe { std::slice::from_raw_parts_mut(r.as_ptr().as_ptr(), self.layout.len) },
            None => &mut [],
        }
    }
}

impl Deref for MemoryObj {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `Region` promises initialised memory of `len()` bytes, `layout.len` is within it, and no code writes
        // to it while it is shared.
        unsafe { std::slice::from_raw_parts(self.region.as_ptr().as_ptr(), self.layout.len) }
    }
}

impl From<Vec<u8>> for MemoryObjMut {
    /// BINARY, uint8, `[bytes, 0, 0, 0]`.
    fn from(bytes: Vec<u8>) -> Self {
        let layout = ChunkLayout::binary(bytes.len());
        Self { region: Some(Arc::new(Heap::new(bytes.into_boxed_slice()))), layout }
    }
}

impl From<Vec<u8>> for MemoryObj {
    /// BINARY, uint8, `[bytes, 0, 0, 0]`.
    fn from(bytes: Vec<u8>) -> Self {
        MemoryObjMut::from(bytes).freeze()
    }
}

impl AsRef<[u8]> for MemoryObj {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for MemoryObj {
    /// Equal layout and equal bytes.
    fn eq(&self, other: &Self) -> bool {
        self.layout == other.layout && **self == **other
    }
}

impl fmt::Debug for MemoryObj {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryObj({})", self.layout)
    }
}

impl fmt::Debug for MemoryObjMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = if self.is_taken() { ", taken" } else { "" };
        write!(f, "MemoryObjMut({}, capacity {}{taken})", self.layout, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Dtype, MemoryFormat, Shape};
    use std::ptr::NonNull;
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Lent(Heap, Arc<AtomicUsize>);

    // SAFETY: forwards to a region that keeps the promises.
    unsafe impl Region for Lent {
        fn as_ptr(&self) -> NonNull<u8> {
            self.0.as_ptr()
        }
        fn len(&self) -> usize {
            self.0.len()
        }
    }

    impl Drop for Lent {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn lent(len: usize) -> (MemoryObjMut, Arc<AtomicUsize>) {
        let back = Arc::new(AtomicUsize::new(0));
        let region = Lent(Heap::new(vec![0; len].into()), back.clone());
        (MemoryObjMut::from_region(region, ChunkLayout::binary(len)).unwrap(), back)
    }

    #[test]
    fn foreign_memory_goes_back_with_the_last_handle_and_only_then() {
        let (mut m, back) = lent(8);
        m.copy_from_slice(b"chunk me");
        let a = m.freeze();
        let b = a.clone();
        assert!(a.region::<Lent>().is_some());
        let b = b.try_into_mut().unwrap_err();
        drop(a);
        assert_eq!((back.load(Ordering::SeqCst), &*b), (0, &b"chunk me"[..]));
        let m = b.try_into_mut().unwrap();
        drop(m);
        assert_eq!(back.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn memory_lent_to_be_read_never_becomes_writable() {
        let back = Arc::new(AtomicUsize::new(0));
        let region = Lent(Heap::new(vec![7; 4].into()), back.clone());
        let chunk = MemoryObj::from_region(region, ChunkLayout::binary(4)).unwrap();
        assert_eq!(&*chunk.try_into_mut().unwrap_err(), [7; 4]);
        assert_eq!(back.load(Ordering::SeqCst), 1);
    }

    /// An owner that contains its bytes, so that they move with it.
    struct Inline([u8; 5], Arc<AtomicUsize>);

    impl AsRef<[u8]> for Inline {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Inline {
        fn drop(&mut self) {
            self.0 = [0; 5];
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn an_owner_is_moved_and_dropped_once_with_the_last_handle() {
        let drops = Arc::new(AtomicUsize::new(0));
        let chunk = MemoryObj::from_owner(Inline(*b"chunk", drops.clone()));
        assert_eq!(chunk.layout(), &ChunkLayout::binary(5));
        let start = chunk.as_ptr();
        let moved = Box::new(chunk);
        let clone = MemoryObj::clone(&moved);
        assert_eq!((moved.as_ptr(), clone.as_ptr()), (start, start));
        drop(moved);
        assert_eq!((&*clone, drops.load(Ordering::SeqCst)), (&b"chunk"[..], 0));
        let clone = clone.try_into_mut().expect_err("an owner lends its bytes to be read");
        drop(clone);
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_slice_of_a_clients_bytes_becomes_a_chunk_without_a_copy() {
        let bytes = bytes::Bytes::from(vec![7; 100]);
        let part = bytes.slice(10..34);
        let start = part.as_ptr();
        let shape = Shape::new(&[2, 3, 1, 2]).unwrap();
        let layout = ChunkLayout::new(MemoryFormat::Kv2ltd, shape, Dtype::Bfloat16).unwrap();
        let chunk = MemoryObj::from_owner(part).with_layout(layout.clone()).unwrap();
        assert_eq!((chunk.as_ptr(), chunk.len(), chunk.layout()), (start, 24, &layout));
        let e = MemoryObj::from_owner(bytes.slice(..23)).with_layout(layout).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::SizeMismatch);
        assert!(MemoryObj::from_owner(bytes.slice(..0)).is_empty());
    }

    #[test]
    fn a_taken_object_is_empty_and_the_memory_lives_on() {
        let (mut m, back) = lent(8);
        let taken = m.take();
        assert!(m.is_taken() && m.is_empty() && m.capacity() == 0);
        drop(m);
        assert_eq!((back.load(Ordering::SeqCst), taken.len()), (0, 8));
    }

    #[test]
    fn a_layout_longer_than_the_memory_is_refused_with_both_sizes() {
        let (mut m, _) = lent(8);
        let e = m.set_layout(ChunkLayout::binary(9)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::SizeMismatch);
        assert!(e.to_string().contains('9') && e.to_string().contains('8'), "{e}");
        assert_eq!(m.len(), 8);
    }
}
