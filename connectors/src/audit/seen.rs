//! BLAKE3 of a chunk whose pieces are hashed when they arrive: by the threads that read them, out of their caches.
//!
//! BLAKE3 is a tree: each piece of a power of two KiB is a subtree with a value of its own, and the chunk's hash follows from
//! those. (Measured: what one core has just read it hashes at 7 GiB/s, what another one has read at 4 to 5.)

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use connector_core::chunk::Witness;
use connector_core::{CacheKey, ChunkAllocator, ChunkLayout, LocalCpuBackend, MemoryObj, MemoryObjMut, Result};
use futures::future::{BoxFuture, FutureExt};

use super::checksum::Checksum;

/// A power of two, and large beside what a piece costs: a system call, a few locks.
const PIECE: usize = 128 << 10;

/// The subtrees of one chunk that were seen.
pub(super) struct Seen {
    values: Mutex<Vec<Option<ChainingValue>>>,
    /// The connector that put it on.
    owner: Owner,
}

/// Tells connectors apart, one of which may stand behind another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner(u64);

impl Owner {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Puts a witness on the memory, if that has several pieces, and none yet: who has one wants it to see the bytes.
    fn witness(self, mut memory: MemoryObjMut) -> MemoryObjMut {
        self.put_on(&mut memory, |memory| memory.layout().len);
        memory
    }

    fn put_on(self, memory: &mut MemoryObjMut, len: impl Fn(&MemoryObjMut) -> usize) {
        if memory.witness().is_none() && len(memory) > PIECE {
            memory.set_witness(Some(Arc::new(Seen { values: Mutex::default(), owner: self })));
        }
    }

    fn is_of(self, witness: Option<&Arc<dyn Witness>>) -> bool {
        seen(witness).is_some_and(|seen| seen.owner == self)
    }
}

fn seen(witness: Option<&Arc<dyn Witness>>) -> Option<&Seen> {
    let witness: &(dyn Any + Send + Sync) = &**witness?;
    witness.downcast_ref()
}

impl Seen {
    /// The checksum of the chunk of `len` bytes, if all of its pieces were seen.
    fn checksum(&self, len: usize) -> Option<Checksum> {
        let values = self.values();
        let pieces = len.div_ceil(PIECE);
        if len <= PIECE || values.len() != pieces {
            return None;
        }
        let values = values.iter().copied().collect::<Option<Vec<_>>>()?;
        let (left, right) = halves(&values);
        Some(Checksum::Blake3(*merge_subtrees_root(&merged(left), &merged(right), Mode::Hash).as_bytes()))
    }

    fn values(&self) -> MutexGuard<'_, Vec<Option<ChainingValue>>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The left half of a tree is the largest power of two that leaves something for the right one.
fn halves(values: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    values.split_at(values.len().next_power_of_two() / 2)
}

fn merged(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [one] => *one,
        several => {
            let (left, right) = halves(several);
            merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
        }
    }
}

impl Witness for Seen {
    fn piece_len(&self) -> usize {
        PIECE
    }

    fn forget(&self) {
        self.values().clear();
    }

    fn arrived(&self, offset: usize, bytes: &[u8]) {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset as u64);
        let value = hasher.update(bytes).finalize_non_root();
        let (at, mut values) = (offset / PIECE, self.values());
        if values.len() <= at {
            values.resize(at + 1, None);
        }
        values[at] = Some(value);
    }
}

/// The checksum of a chunk that was read into memory of [`Witnessed`], if all of it was seen. A witness of `owner`'s is on it
/// no more.
pub(super) fn checksum_of(chunk: &mut MemoryObj, owner: Owner) -> Option<Checksum> {
    let checksum = seen(chunk.witness()).and_then(|seen| seen.checksum(chunk.len()));
    if owner.is_of(chunk.witness()) {
        chunk.take_witness();
    }
    checksum
}

/// Where a call reads to.
pub(super) trait Destinations {
    /// Each piece of memory.
    fn each(&mut self) -> impl Iterator<Item = &mut MemoryObjMut>;
}

impl Destinations for MemoryObjMut {
    fn each(&mut self) -> impl Iterator<Item = &mut MemoryObjMut> {
        std::iter::once(self)
    }
}

impl Destinations for [(CacheKey, MemoryObjMut)] {
    fn each(&mut self) -> impl Iterator<Item = &mut MemoryObjMut> {
        self.iter_mut().map(|(_, dst)| dst)
    }
}

/// A caller's memory with witnesses of ours on it, where it had none, until this is dropped.
pub(super) struct Watched<'a, D: Destinations + ?Sized> {
    pub(super) dst: &'a mut D,
    owner: Owner,
    hashed: bool,
}

impl<'a, D: Destinations + ?Sized> Watched<'a, D> {
    /// Puts them on, if bytes are to be `hashed` as they arrive, and where the memory has room for several pieces.
    pub(super) fn new(dst: &'a mut D, owner: Owner, hashed: bool) -> Self {
        if hashed {
            dst.each().for_each(|dst| owner.put_on(dst, MemoryObjMut::capacity));
        }
        Self { dst, owner, hashed }
    }

    /// The checksum of each chunk that was read, if all of it was seen.
    pub(super) fn checksums(self) -> Vec<Option<Checksum>> {
        let checksum = |dst: &MemoryObjMut| seen(dst.witness())?.checksum(dst.layout().len);
        self.dst.each().map(|dst| if self.hashed { checksum(dst) } else { None }).collect()
    }
}

impl<D: Destinations + ?Sized> Drop for Watched<'_, D> {
    fn drop(&mut self) {
        for dst in self.dst.each() {
            if self.owner.is_of(dst.witness()) {
                dst.set_witness(None);
            }
        }
    }
}

/// Memory of another allocator, with a witness on it.
pub(super) struct Witnessed {
    pub(super) backend: LocalCpuBackend,
    pub(super) owner: Owner,
}

impl ChunkAllocator for Witnessed {
    fn try_allocate(&self, layout: &ChunkLayout) -> Option<Result<MemoryObjMut>> {
        self.backend.try_allocate(layout).map(|memory| memory.map(|memory| self.owner.witness(memory)))
    }

    fn allocate<'a>(&'a self, layout: &'a ChunkLayout) -> BoxFuture<'a, Result<MemoryObjMut>> {
        self.backend.allocate(layout).map(|memory| memory.map(|memory| self.owner.witness(memory))).boxed()
    }

    fn allocate_many<'a>(&'a self, layouts: &'a [ChunkLayout]) -> BoxFuture<'a, Result<Vec<MemoryObjMut>>> {
        let all = self.backend.allocate_many(layouts);
        let witness = |memory| self.owner.witness(memory);
        all.map(move |all| all.map(|all| all.into_iter().map(witness).collect())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use connector_core::chunk::Pieces;

    use super::*;

    fn read(len: usize, order: impl Fn(&mut Vec<usize>), leave_out: Option<usize>) -> (Option<Checksum>, Checksum) {
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let owner = Owner::new();
        let pieces = Pieces::new(owner.witness(MemoryObjMut::zeroed(len)), len);
        let mut taken: Vec<_> = std::iter::from_fn(|| pieces.take()).map(Some).collect();
        let mut places: Vec<usize> = (0..taken.len()).collect();
        order(&mut places);
        for at in places {
            let mut piece = taken[at].take().unwrap();
            let from = piece.offset();
            let n = piece.len();
            piece.copy_from_slice(&bytes[from..from + n]);
            if Some(at) != leave_out {
                piece.arrived();
            }
        }
        let mut chunk = pieces.into_memory().unwrap().freeze();
        assert_eq!(&chunk[..], bytes);
        assert_eq!(checksum_of(&mut chunk, Owner::new()).is_some(), leave_out.is_none() && len > PIECE);
        let seen = checksum_of(&mut chunk, owner);
        assert!(chunk.witness().is_none());
        (seen, Checksum::Blake3(*blake3::hash(&bytes).as_bytes()))
    }

    #[test]
    fn pieces_in_any_order_give_the_hash_of_the_whole() {
        for len in [PIECE + 1, 2 * PIECE, 2 * PIECE + 1, 3 * PIECE - 1, 5 * PIECE + 1024, 8 * PIECE, 11 * PIECE + 7] {
            for order in [|_: &mut Vec<usize>| {}, |places: &mut Vec<usize>| places.reverse()] {
                let (seen, expected) = read(len, order, None);
                assert_eq!(seen, Some(expected), "{len} bytes");
            }
        }
    }

    #[test]
    fn a_chunk_that_was_not_seen_whole_has_no_checksum() {
        for missing in 0..4 {
            assert_eq!(read(4 * PIECE, |_| {}, Some(missing)).0, None, "piece {missing}");
        }
        // One piece is hashed as quickly when it has been read.
        assert_eq!(read(PIECE, |_| {}, None).0, None);
    }
}
