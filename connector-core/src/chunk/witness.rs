//! Bytes that are seen as they arrive in memory.
#![expect(unsafe_code, reason = "gives out parts of one memory to several threads")]

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::MemoryObjMut;

/// Sees the bytes of a chunk as they arrive in its memory, while they are still in the cache of the processor that read
/// them: a checksum, or a copy to another device that need not wait for the whole chunk.
///
/// It is put on memory by whoever gives it to a store ([`MemoryObjMut::set_witness`]), and asked afterwards by the same. A
/// store that reads in [pieces](Pieces) tells it; one that does not need not know of it: whatever is written in another way
/// makes it [forget](Self::forget). So what a witness has seen is what the memory holds, or less.
pub trait Witness: Any + Send + Sync {
    /// How many bytes it wants to see at once: 1 or more. The last piece of a chunk is shorter.
    fn piece_len(&self) -> usize;

    /// The memory is about to be written: what was seen does not hold any more.
    fn forget(&self);

    /// These bytes of the chunk, from its byte `offset` on, have arrived. Comes once for each piece, in any order, on the
    /// threads that read them, several at once.
    fn arrived(&self, offset: usize, bytes: &[u8]);
}

/// A chunk's memory in pieces, for those who fill them: one thread, or several that each take the next piece. Cheap to
/// clone; clones hand out the same pieces, each of them once.
#[derive(Clone)]
pub struct Pieces(Arc<Shared>);

struct Shared {
    /// Nobody looks into it, or even borrows its bytes, while there may be a [`Piece`].
    memory: MemoryObjMut,
    start: *mut u8,
    len: usize,
    piece_len: usize,
    /// Of the next piece, in bytes.
    next: AtomicUsize,
    stopped: AtomicBool,
}

// SAFETY: `start` is the address of `memory`, which is `Send` and `Sync` itself; `Piece` says why its use of it is sound.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// One piece, to be filled. Derefs to `[u8]`.
pub struct Piece {
    of: Arc<Shared>,
    offset: usize,
    len: usize,
}

impl Pieces {
    /// Takes the chunk's bytes apart: into pieces as its witness wants them, or else of `len` bytes (at least one).
    pub fn new(mut memory: MemoryObjMut, len: usize) -> Self {
        let piece_len = memory.witness().map_or(len, |witness| witness.piece_len()).max(1);
        // The witness forgets here.
        let bytes = &mut *memory;
        let (start, len) = (bytes.as_mut_ptr(), bytes.len());
        Self(Arc::new(Shared {
            memory,
            start,
            len,
            piece_len,
            next: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        }))
    }

    /// How many pieces there are, taken or not.
    pub fn count(&self) -> usize {
        self.0.len.div_ceil(self.0.piece_len)
    }

    /// The next piece that nobody has taken; `None` if there is none, or after [`stop`](Self::stop).
    pub fn take(&self) -> Option<Piece> {
        if self.0.stopped.load(Ordering::Relaxed) {
            return None;
        }
        let (len, piece_len) = (self.0.len, self.0.piece_len);
        let step = |offset: usize| (offset < len).then(|| offset.saturating_add(piece_len));
        let offset = self.0.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).ok()?;
        Some(Piece { of: self.0.clone(), offset, len: piece_len.min(len - offset) })
    }

    /// No more pieces are handed out: reading failed, or nobody wants the chunk any more.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether [`stop`](Self::stop) was called.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Relaxed)
    }

    /// The memory, whole again. Bytes of pieces that were not filled hold whatever was there.
    ///
    /// # Errors
    /// Gives the pieces back while somebody has a clone of them, or a piece.
    pub fn into_memory(self) -> Result<MemoryObjMut, Self> {
        Arc::try_unwrap(self.0).map(|shared| shared.memory).map_err(Self)
    }
}

impl Piece {
    /// Where it stands in the chunk, in bytes.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// It is filled: the chunk's witness, if there is one, sees it now.
    pub fn arrived(self) {
        if let Some(witness) = self.of.memory.witness() {
            witness.arrived(self.offset, &self);
        }
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pieces({} of {} bytes)", self.count(), self.0.piece_len)
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Piece({} bytes from {})", self.len, self.offset)
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `offset..offset + len` lies within the chunk's bytes, which are initialised and live as long as `of`.
        // Every offset is handed out once, so this `Piece` is the only way to these bytes: `memory` itself can only be
        // reached by `into_memory`, which needs the last `Arc`, and of its fields only the witness is used in here.
        unsafe { std::slice::from_raw_parts(self.of.start.add(self.offset), self.len) }
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.of.start.add(self.offset), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::chunk::{ChunkLayout, MemoryObj};

    #[derive(Default)]
    struct Seen(Mutex<Vec<(usize, Vec<u8>)>>);

    impl Witness for Seen {
        fn piece_len(&self) -> usize {
            4
        }
        fn forget(&self) {
            self.0.lock().unwrap().clear();
        }
        fn arrived(&self, offset: usize, bytes: &[u8]) {
            self.0.lock().unwrap().push((offset, bytes.to_vec()));
        }
    }

    fn witnessed(len: usize) -> (MemoryObjMut, Arc<Seen>) {
        let seen = Arc::new(Seen::default());
        let mut memory = MemoryObjMut::zeroed(len);
        memory.set_witness(Some(seen.clone()));
        (memory, seen)
    }

    fn filled(memory: MemoryObjMut) -> MemoryObjMut {
        let pieces = Pieces::new(memory, 100);
        while let Some(mut piece) = pieces.take() {
            let offset = piece.offset() as u8;
            piece.iter_mut().zip(offset..).for_each(|(byte, n)| *byte = n);
            piece.arrived();
        }
        pieces.into_memory().expect("nobody has a piece")
    }

    #[test]
    fn every_piece_is_handed_out_and_seen_once_and_the_last_is_shorter() {
        let (memory, seen) = witnessed(10);
        let memory = filled(memory);
        let expected = [(0, vec![0, 1, 2, 3]), (4, vec![4, 5, 6, 7]), (8, vec![8, 9])];
        assert_eq!(*seen.0.lock().unwrap(), expected);
        assert_eq!(*memory, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let (empty, _) = witnessed(0);
        assert!(Pieces::new(empty, 1).take().is_none());
    }

    #[test]
    fn without_a_witness_pieces_are_as_long_as_the_reader_wants() {
        let pieces = Pieces::new(MemoryObjMut::zeroed(10), 6);
        let lens: Vec<_> = std::iter::from_fn(|| pieces.take()).map(|piece| (piece.offset(), piece.len())).collect();
        assert_eq!((lens, pieces.count()), (vec![(0, 6), (6, 4)], 2));
    }

    #[test]
    fn whatever_else_may_have_changed_the_bytes_is_forgotten() {
        let changes: [fn(&mut MemoryObjMut); 4] = [
            |memory| memory[3] = 9,
            |memory| {
                let seen = memory.set_witness(None);
                memory[3] = 9;
                memory.set_witness(seen);
            },
            |memory| memory.set_layout(ChunkLayout::binary(9)).unwrap(),
            |memory| drop(Pieces::new(memory.take(), 1)),
        ];
        for change in changes {
            let (memory, seen) = witnessed(10);
            let mut memory = filled(memory);
            assert_eq!(seen.0.lock().unwrap().len(), 3);
            change(&mut memory);
            assert!(seen.0.lock().unwrap().is_empty());
        }
    }

    #[test]
    fn a_chunk_carries_its_witness_until_it_is_asked() {
        let (memory, seen) = witnessed(10);
        let mut chunk: MemoryObj = filled(memory).freeze();
        let mut other = chunk.clone();
        let witness: Arc<dyn Any + Send + Sync> = chunk.take_witness().unwrap();
        assert!(Arc::ptr_eq(&witness.downcast::<Seen>().unwrap(), &seen));
        assert!(chunk.take_witness().is_none() && other.take_witness().is_some());
        assert_eq!(seen.0.lock().unwrap().len(), 3);
    }

    #[test]
    fn the_memory_comes_back_only_when_nobody_can_write_to_it_any_more() {
        let (memory, _) = witnessed(10);
        let pieces = Pieces::new(memory, 1);
        let piece = pieces.take();
        let pieces = pieces.into_memory().expect_err("a piece is out");
        drop(piece);
        let other = pieces.clone();
        let pieces = pieces.into_memory().expect_err("somebody can take a piece");
        other.stop();
        assert!(pieces.take().is_none() && pieces.is_stopped());
        drop(other);
        assert_eq!(pieces.into_memory().expect("all are back").len(), 10);
    }

    #[test]
    fn threads_that_share_the_pieces_fill_each_of_them_once() {
        let pieces = Pieces::new(MemoryObjMut::zeroed(100_000), 7);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let pieces = pieces.clone();
                scope.spawn(move || {
                    while let Some(mut piece) = pieces.take() {
                        piece.iter_mut().for_each(|byte| *byte += 1);
                    }
                });
            }
        });
        let memory = pieces.into_memory().expect("all threads have ended");
        assert!(memory.iter().all(|byte| *byte == 1));
    }
}
