//! A bounded pool of aligned memory that it reuses.
#![expect(unsafe_code, reason = "asks the system for aligned memory")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, FutureExt, ready};

use super::{ChunkAllocator, no_memory};
use crate::Result;
use crate::chunk::{ChunkLayout, MemoryObjMut, Region};

/// The alignment of blocks and of their sizes, in bytes: a page, as `O_DIRECT` requires.
const ALIGN: usize = 4096;

/// A free block may serve a chunk that needs at least this share of it: `1 - 1 / SLACK`. Most chunks of a model have
/// one size, and some are partial. With a quarter of slack both share blocks, and little memory is wasted.
const SLACK: usize = 4;

/// A bounded pool: 4 KiB aligned, reused, never more than its capacity.
///
/// The pool keeps freed blocks, which stay mapped, and reuses them. If no free block fits, it returns free blocks to
/// the system, largest first, to make room for a new one. Used and free memory together never exceed the capacity.
///
/// Cheap to clone; clones are one pool.
#[derive(Clone)]
pub struct PoolAllocator(Arc<Pool>);

/// The memory of a pool, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// The most memory that it may hold.
    pub capacity: usize,
    /// Bytes that chunks hold.
    pub in_use: usize,
    /// Free bytes that the pool keeps for the next chunk.
    pub kept: usize,
}

struct Pool {
    capacity: usize,
    state: Mutex<State>,
}

struct State {
    in_use: usize,
    kept: usize,
    /// Free blocks by size. The last one freed is the first one reused, because it is still in the cache.
    free: BTreeMap<usize, Vec<Block>>,
}

impl PoolAllocator {
    /// An empty pool that may grow to `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Pool { capacity, state: Mutex::new(State { in_use: 0, kept: 0, free: BTreeMap::new() }) }))
    }

    /// The memory that the pool holds now.
    pub fn stats(&self) -> PoolStats {
        let state = self.0.lock();
        PoolStats { capacity: self.0.capacity, in_use: state.in_use, kept: state.kept }
    }

    /// Memory for one chunk, without waiting.
    ///
    /// # Errors
    /// `PoolFull` and `TooLarge` with both sizes.
    pub fn allocate_now(&self, layout: &ChunkLayout) -> Result<MemoryObjMut> {
        let wanted = layout.len.max(1).checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
        let block = self.0.block(wanted, layout.len)?;
        let region = PoolRegion { block: Some(block), pool: self.0.clone() };
        MemoryObjMut::from_region(region, layout.clone())
    }
}

impl ChunkAllocator for PoolAllocator {
    fn try_allocate(&self, layout: &ChunkLayout) -> Option<Result<MemoryObjMut>> {
        Some(self.allocate_now(layout))
    }

    fn allocate<'a>(&'a self, layout: &'a ChunkLayout) -> BoxFuture<'a, Result<MemoryObjMut>> {
        ready(self.allocate_now(layout)).boxed()
    }

    fn allocate_many<'a>(&'a self, layouts: &'a [ChunkLayout]) -> BoxFuture<'a, Result<Vec<MemoryObjMut>>> {
        ready(layouts.iter().map(|layout| self.allocate_now(layout)).collect()).boxed()
    }
}

impl std::fmt::Debug for PoolAllocator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PoolAllocator({:?})", self.stats())
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, and the counts are right after each step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of `wanted` bytes for a chunk of `chunk` bytes, which an error shows.
    fn block(&self, wanted: usize, chunk: usize) -> Result<Block> {
        let mut to_free = Vec::new();
        {
            let mut state = self.lock();
            if let Some(block) = state.take_free(wanted) {
                state.in_use += block.size;
                return Ok(block);
            }
            let room = self.capacity - state.in_use;
            if wanted > room {
                return Err(no_memory(chunk, wanted, room, self.capacity));
            }
            while state.in_use + state.kept + wanted > self.capacity {
                to_free.extend(state.take_largest());
            }
            state.in_use += wanted;
        }
        // Outside the lock, because unmapping and mapping memory are system calls.
        drop(to_free);
        Block::new(wanted).ok_or_else(|| {
            self.lock().in_use -= wanted;
            no_memory(chunk, wanted, 0, self.capacity).with_hint("the system has no memory left")
        })
    }
}

impl State {
    fn take_free(&mut self, wanted: usize) -> Option<Block> {
        let most = wanted.saturating_add(wanted / (SLACK - 1)).max(wanted.saturating_add(ALIGN));
        let size = *self.free.range(wanted..=most).next()?.0;
        self.take(size)
    }

    fn take_largest(&mut self) -> Option<Block> {
        let size = *self.free.last_key_value()?.0;
        self.take(size)
    }

    fn take(&mut self, size: usize) -> Option<Block> {
        let blocks = self.free.get_mut(&size)?;
        let block = blocks.pop();
        if blocks.is_empty() {
            self.free.remove(&size);
        }
        self.kept -= size;
        block
    }
}

/// Memory of the system, aligned and zeroed when new.
struct Block {
    start: NonNull<u8>,
    size: usize,
}

// SAFETY: a block is plain memory that only its holder reaches.
unsafe impl Send for Block {}
// SAFETY: as above; `&Block` gives out a pointer but no access.
unsafe impl Sync for Block {}

impl Block {
    /// `size` is a multiple of `ALIGN`, and not 0.
    fn new(size: usize) -> Option<Self> {
        let layout = Layout::from_size_align(size, ALIGN).ok()?;
        // SAFETY: the size is not 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { start, size })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Ok(layout) = Layout::from_size_align(self.size, ALIGN) {
            // SAFETY: `start` came from `alloc_zeroed` with this very layout and is freed once.
            unsafe { dealloc(self.start.as_ptr(), layout) };
        }
    }
}

/// A block in use. It returns to its pool when dropped.
struct PoolRegion {
    /// `None` only during the drop.
    block: Option<Block>,
    pool: Arc<Pool>,
}

// SAFETY: the block is zeroed when new, only this region reaches it until `drop`, and `drop` is when it goes back.
unsafe impl Region for PoolRegion {
    fn as_ptr(&self) -> NonNull<u8> {
        self.block.as_ref().map_or(NonNull::dangling(), |b| b.start)
    }

    fn len(&self) -> usize {
        self.block.as_ref().map_or(0, |b| b.size)
    }
}

impl Drop for PoolRegion {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            let mut state = self.pool.lock();
            state.in_use -= block.size;
            state.kept += block.size;
            state.free.entry(block.size).or_default().push(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn pool(kib: usize) -> PoolAllocator {
        PoolAllocator::new(kib << 10)
    }

    fn get(pool: &PoolAllocator, kib: usize) -> Result<MemoryObjMut> {
        pool.allocate_now(&ChunkLayout::binary(kib << 10))
    }

    #[test]
    fn memory_is_aligned_zeroed_and_comes_back_the_same() {
        let pool = pool(64);
        let mut a = get(&pool, 16).unwrap();
        assert!(a.as_ptr().addr().is_multiple_of(ALIGN) && a.iter().all(|b| *b == 0));
        a.fill(9);
        let address = a.as_ptr();
        drop(a);
        let b = get(&pool, 13).unwrap();
        assert_eq!((b.as_ptr(), b.len(), b.capacity()), (address, 13 << 10, 16 << 10), "a near size reuses the block");
        assert_eq!(pool.stats(), PoolStats { capacity: 64 << 10, in_use: 16 << 10, kept: 0 });
    }

    /// The page faults of this thread so far that did not need a disk.
    #[cfg(target_os = "linux")]
    fn minor_faults() -> u64 {
        // `proc(5)`: the tenth field; the second is in parentheses and may hold spaces.
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let behind_name = stat.rsplit_once(')').unwrap().1;
        behind_name.split_whitespace().nth(7).unwrap().parse().unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_block_that_comes_back_is_still_mapped() {
        const PAGES: u64 = (4 << 20) / ALIGN as u64;
        let pool = pool(8 << 10);
        let fill = || {
            let before = minor_faults();
            get(&pool, 4 << 10).unwrap().fill(1);
            minor_faults() - before
        };
        let (fresh, again) = (fill(), fill());
        assert!(again <= PAGES / 64, "{again} page faults for {PAGES} pages in use before; {fresh} when they were new");
    }

    #[test]
    fn a_full_pool_says_both_sizes_and_whether_waiting_helps() {
        let pool = pool(16);
        let held = get(&pool, 12).unwrap();
        let e = get(&pool, 8).unwrap_err();
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::PoolFull, true));
        assert!(e.to_string().contains("8192") && e.to_string().contains("4096"), "{e}");
        drop(held);
        let e = get(&pool, 20).unwrap_err();
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::TooLarge, false));
        assert!(e.to_string().contains("20480") && e.to_string().contains("16384"), "{e}");
    }

    #[test]
    fn kept_blocks_make_room_for_other_sizes_within_the_capacity() {
        let pool = pool(64);
        drop((0..4).map(|_| get(&pool, 16).unwrap()).collect::<Vec<_>>());
        assert_eq!(pool.stats().kept, 64 << 10);
        let big = get(&pool, 40).unwrap();
        let s = pool.stats();
        assert!(s.in_use + s.kept <= s.capacity, "{s:?}");
        drop(big);
        for kib in [1, 63, 5, 33, 64, 2] {
            drop(get(&pool, kib).unwrap());
            let s = pool.stats();
            assert!(s.in_use == 0 && s.kept <= s.capacity, "{s:?}");
        }
    }

    #[test]
    fn a_size_that_overflows_is_refused() {
        let e = pool(64).allocate_now(&ChunkLayout::binary(usize::MAX)).unwrap_err();
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::TooLarge, false));
    }

    #[tokio::test]
    async fn several_chunks_are_all_or_none() {
        let pool = pool(64);
        let layouts = vec![ChunkLayout::binary(20 << 10); 4];
        assert_eq!(pool.allocate_many(&layouts).await.unwrap_err().kind(), ErrorKind::PoolFull);
        assert_eq!(pool.stats().in_use, 0);
        assert_eq!(pool.allocate_many(&layouts[..3]).await.unwrap().len(), 3);
    }

    #[test]
    fn shared_chunks_give_their_block_back_once() {
        let pool = pool(64);
        let chunk = get(&pool, 16).unwrap().freeze();
        let clones = vec![chunk.clone(); 9];
        drop(chunk);
        assert_eq!(pool.stats().in_use, 16 << 10);
        drop(clones);
        assert_eq!((pool.stats().in_use, pool.stats().kept), (0, 16 << 10));
    }
}
