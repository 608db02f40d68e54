//! BLAKE3 of a chunk whose pieces are hashed when they arrive: by the threads that read them, out of their caches.
//!
//! BLAKE3 is a tree: each piece of a power of two KiB is a subtree with a value of its own, and the chunk's hash follows from
//! those. (Measured: what one core has just read it hashes at 7 GiB/s, what another one has read at 4 to 5.)

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use connector_core::chunk::Witness;
use connector_core::{CacheKey, ChunkAllocator, ChunkLayout, LocalCpuBackend, MemoryObj, MemoryObjMut, Result};
use futures::future::{BoxFuture, FutureExt};

use super::checksum::Checksum;

/// A power of two, and large beside what a piece costs: a system call, a few locks.
const PIECE: usize = 128 << 10;

/// The subtrees of one chunk that were seen.
#[derive(Default)]
pub(super) struct Seen(Mutex<Vec<Option<ChainingValue>>>);

impl Seen {
    /// One for a chunk of so many bytes, if that has several pieces.
    pub(super) fn for_chunk(len: usize) -> Option<Arc<Self>> {
        (len > PIECE).then(Arc::default)
    }

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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The checksum of a chunk that was read into memory of [`Witnessed`], if all of it was seen. It has no witness then.
pub(super) fn checksum_of(chunk: &mut MemoryObj) -> Option<Checksum> {
    checksum(chunk.take_witness(), chunk.len())
}

fn checksum(witness: Option<Arc<dyn Witness>>, len: usize) -> Option<Checksum> {
    let witness: Arc<dyn Any + Send + Sync> = witness?;
    witness.downcast::<Seen>().ok()?.checksum(len)
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

/// A caller's memory with witnesses of ours on it, instead of its own, until this is dropped.
pub(super) struct Watched<'a, D: Destinations + ?Sized> {
    pub(super) dst: &'a mut D,
    callers: Vec<Option<Arc<dyn Witness>>>,
}

impl<'a, D: Destinations + ?Sized> Watched<'a, D> {
    /// Puts them on, if bytes are to be `hashed` as they arrive, and where the memory has room for several pieces.
    pub(super) fn new(dst: &'a mut D, hashed: bool) -> Self {
        let of = |dst: &MemoryObjMut| if hashed { Seen::for_chunk(dst.capacity()) } else { None };
        let put = |dst: &mut MemoryObjMut| dst.set_witness(of(dst).map(|seen| seen as Arc<dyn Witness>));
        let callers = dst.each().map(put).collect();
        Self { dst, callers }
    }

    /// The checksum of each chunk that was read, if all of it was seen.
    pub(super) fn checksums(self) -> Vec<Option<Checksum>> {
        self.dst.each().map(|dst| checksum(dst.set_witness(None), dst.len())).collect()
    }
}

impl<D: Destinations + ?Sized> Drop for Watched<'_, D> {
    fn drop(&mut self) {
        for (dst, callers) in self.dst.each().zip(self.callers.drain(..)) {
            dst.set_witness(callers);
        }
    }
}

/// Memory of another allocator, with a witness on it.
pub(super) struct Witnessed(pub(super) LocalCpuBackend);

fn witnessed(mut memory: MemoryObjMut) -> MemoryObjMut {
    if let Some(seen) = Seen::for_chunk(memory.layout().len) {
        memory.set_witness(Some(seen));
    }
    memory
}

impl ChunkAllocator for Witnessed {
    fn try_allocate(&self, layout: &ChunkLayout) -> Option<Result<MemoryObjMut>> {
        self.0.try_allocate(layout).map(|memory| memory.map(witnessed))
    }

    fn allocate<'a>(&'a self, layout: &'a ChunkLayout) -> BoxFuture<'a, Result<MemoryObjMut>> {
        self.0.allocate(layout).map(|memory| memory.map(witnessed)).boxed()
    }

    fn allocate_many<'a>(&'a self, layouts: &'a [ChunkLayout]) -> BoxFuture<'a, Result<Vec<MemoryObjMut>>> {
        let all = self.0.allocate_many(layouts);
        all.map(|all| all.map(|all| all.into_iter().map(witnessed).collect())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use connector_core::chunk::Pieces;

    use super::*;

    fn read(len: usize, order: impl Fn(&mut Vec<usize>), leave_out: Option<usize>) -> (Option<Checksum>, Checksum) {
        let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let pieces = Pieces::new(witnessed(MemoryObjMut::zeroed(len)), len);
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
        (checksum_of(&mut chunk), Checksum::Blake3(*blake3::hash(&bytes).as_bytes()))
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
