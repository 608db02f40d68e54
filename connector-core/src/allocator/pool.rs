//! A bounded pool of aligned memory that it reuses.
#![expect(unsafe_code, reason = "promises that a block is a Region")]

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, FutureExt, ready};
use memmap2::{MmapMut, MmapRaw};

use super::{ChunkAllocator, no_memory};
use crate::Result;
use crate::chunk::{ChunkLayout, MemoryObjMut, Region};
use crate::runtime::forks;

/// The size of a block is a multiple of this, in bytes: a page, as `O_DIRECT` requires.
const ALIGN: usize = 4096;

/// A free block may serve a chunk that needs at least this share of it: `1 - 1 / SLACK`. Most chunks of a model have
/// one size, and some are partial. With a quarter of slack both share blocks, and little memory is wasted.
const SLACK: usize = 4;

/// A bounded pool: 4 KiB aligned, reused, never more than its capacity.
///
/// The pool keeps freed blocks, which stay mapped, and reuses them. If no free block fits, it returns free blocks to
/// the system, largest first, to make room for a new one. Used and free memory together never exceed the capacity.
/// [`trim`](Self::trim) and [`MemoryObjMut::discard`] return memory to the system earlier.
///
/// New memory is zero. The pool does not write the zeros: a page takes memory of the system when the first byte reaches it.
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
    /// The process that made the pool.
    forks: u64,
    capacity: usize,
    state: Mutex<State>,
}

struct State {
    in_use: usize,
    kept: usize,
    /// Free blocks by size. The last one freed is the first one reused, because it is still in the cache.
    free: BTreeMap<usize, Vec<MmapRaw>>,
}

impl PoolAllocator {
    /// An empty pool that may grow to `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Pool {
            forks: forks(),
            capacity,
            state: Mutex::new(State { in_use: 0, kept: 0, free: BTreeMap::new() }),
        }))
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
        let block = self.0.blocks(std::slice::from_ref(layout))?.swap_remove(0);
        MemoryObjMut::from_region(block, layout.clone())
    }

    /// Returns free blocks to the system, largest first, until the pool keeps at most `kept` bytes. `trim(0)` keeps none.
    pub fn trim(&self, kept: usize) {
        let mut to_free = Vec::new();
        let mut state = self.0.lock();
        while state.kept > kept {
            to_free.extend(state.take_largest());
        }
        drop(state);
        // Outside the lock, because unmapping memory is a system call.
        drop(to_free);
    }

    /// Memory for all of the chunks, or none.
    fn allocate_all(&self, layouts: &[ChunkLayout]) -> Result<Vec<MemoryObjMut>> {
        let blocks = self.0.blocks(layouts)?.into_iter();
        blocks.zip(layouts).map(|(block, layout)| MemoryObjMut::from_region(block, layout.clone())).collect()
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
        ready(self.allocate_all(layouts)).boxed()
    }

    fn fitting(&self, layouts: &[ChunkLayout]) -> usize {
        let mut room = Some(self.0.capacity);
        let fits = |layout: &&ChunkLayout| {
            room = room.and_then(|room| room.checked_sub(block_size(layout)));
            room.is_some()
        };
        layouts.iter().take_while(fits).count()
    }

    fn trim(&self) {
        self.trim(0);
    }
}

impl std::fmt::Debug for PoolAllocator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PoolAllocator({:?})", self.stats())
    }
}

fn block_size(layout: &ChunkLayout) -> usize {
    layout.len.max(1).checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX)
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, and the counts are right after each step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block for each layout, or none at all.
    fn blocks(self: &Arc<Self>, layouts: &[ChunkLayout]) -> Result<Vec<PoolRegion>> {
        let wanted = layouts.iter().fold(0_usize, |sum, layout| sum.saturating_add(block_size(layout)));
        let (mut blocks, mut to_free) = (Vec::with_capacity(layouts.len()), Vec::new());
        {
            let mut state = self.lock();
            let room = self.capacity - state.in_use;
            let Some(mut slack) = room.checked_sub(wanted) else {
                return Err(no_memory(layouts, wanted, room, self.capacity));
            };
            let mut new = 0;
            for layout in layouts {
                let size = block_size(layout);
                let map = state.take_free(size, slack);
                let size = map.as_ref().map_or(size, MmapRaw::len);
                slack -= size - block_size(layout);
                new += if map.is_some() { 0 } else { size };
                state.in_use += size;
                blocks.push(PoolRegion { map, size, pool: self.clone(), is_discarded: AtomicBool::new(false) });
            }
            while new > 0 && state.in_use + state.kept > self.capacity {
                to_free.extend(state.take_largest());
            }
        }
        // Outside the lock, because unmapping and mapping memory are system calls.
        drop(to_free);
        for block in blocks.iter_mut().filter(|block| block.map.is_none()) {
            let map = MmapMut::map_anon(block.size).map_err(|e| {
                let e = no_memory(layouts, wanted, 0, self.capacity).with_source(e);
                e.with_hint("the system has no memory left")
            })?;
            block.map = Some(map.into());
        }
        Ok(blocks)
    }
}

impl State {
    /// A free block of `wanted` bytes, or of up to `slack` bytes more if that wastes little.
    fn take_free(&mut self, wanted: usize, slack: usize) -> Option<MmapRaw> {
        let most = wanted.saturating_add((wanted / (SLACK - 1)).max(ALIGN).min(slack));
        let size = *self.free.range(wanted..=most).next()?.0;
        self.take(size)
    }

    fn take_largest(&mut self) -> Option<MmapRaw> {
        let size = *self.free.last_key_value()?.0;
        self.take(size)
    }

    fn take(&mut self, size: usize) -> Option<MmapRaw> {
        let blocks = self.free.get_mut(&size)?;
        let block = blocks.pop();
        if blocks.is_empty() {
            self.free.remove(&size);
        }
        self.kept -= size;
        block
    }
}

/// A block in use. It returns to its pool when dropped.
pub(crate) struct PoolRegion {
    /// `None` before the system gave the memory, and during the drop.
    map: Option<MmapRaw>,
    size: usize,
    pool: Arc<Pool>,
    is_discarded: AtomicBool,
}

impl PoolRegion {
    /// Makes the drop return the memory to the system.
    pub(crate) fn discard(&self) {
        self.is_discarded.store(true, Ordering::Relaxed);
    }
}

// SAFETY: anonymous memory is initialised with zeros. A region gets out of this module only with its map, which never changes
// its place. Only this region reaches the map until `drop`, which gives it back.
unsafe impl Region for PoolRegion {
    fn as_ptr(&self) -> NonNull<u8> {
        self.map.as_ref().and_then(|map| NonNull::new(map.as_mut_ptr())).unwrap_or(NonNull::dangling())
    }

    fn len(&self) -> usize {
        self.map.as_ref().map_or(0, MmapRaw::len)
    }
}

impl Drop for PoolRegion {
    fn drop(&mut self) {
        let map = self.map.take();
        if self.pool.forks != forks() {
            // A child of `fork`: no thread may be left to release the pool's lock.
            return;
        }
        let mut state = self.pool.lock();
        state.in_use -= self.size;
        match map {
            Some(map) if !*self.is_discarded.get_mut() => {
                state.kept += self.size;
                state.free.entry(self.size).or_default().push(map);
            }
            unkept => {
                // Outside the lock, because unmapping memory is a system call.
                drop(state);
                drop(unkept);
            }
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
    #[cfg(target_os = "linux")]
    fn a_new_block_takes_no_memory_of_the_system_before_it_is_written() {
        let pool = pool(256 << 10);
        let before = minor_faults();
        let blocks: Vec<_> = (0..16).map(|_| get(&pool, 16 << 10).unwrap()).collect();
        let faults = minor_faults() - before;
        assert!(faults < 1000, "{faults} page faults for {} KiB that hold nothing", blocks.len() * (16 << 10));
    }

    #[test]
    fn a_discarded_block_and_a_trimmed_pool_keep_no_memory() {
        let pool = pool(64);
        get(&pool, 16).unwrap().discard();
        assert_eq!((pool.stats().in_use, pool.stats().kept), (0, 0));
        let held = get(&pool, 16).unwrap();
        drop((get(&pool, 8), get(&pool, 24)));
        pool.trim(10 << 10);
        assert_eq!((pool.stats().in_use, pool.stats().kept), (16 << 10, 8 << 10), "the largest goes first");
        pool.trim(0);
        assert_eq!(pool.stats().kept, 0);
        drop(held);
        assert_eq!(pool.stats().kept, 16 << 10);
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

    #[test]
    fn a_child_of_fork_drops_a_chunk_although_its_parent_holds_the_pools_lock() {
        let pool = pool(64);
        let mut chunk = Some(get(&pool, 16).unwrap());
        let (locked, is_locked) = std::sync::mpsc::channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let of_thread = pool.clone();
        let holder = std::thread::spawn(move || {
            let _lock = of_thread.0.lock();
            locked.send(()).unwrap();
            released.recv().unwrap();
        });
        is_locked.recv().unwrap();
        assert!(crate::runtime::in_child(|| {
            chunk = None;
            true
        }));
        release.send(()).unwrap();
        holder.join().unwrap();
        drop(chunk);
        assert_eq!(pool.stats().in_use, 0);
    }

    #[tokio::test]
    async fn several_chunks_are_all_or_none() {
        let pool = pool(64);
        let layouts = vec![ChunkLayout::binary(20 << 10); 4];
        let e = pool.allocate_many(&layouts).await.unwrap_err();
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::TooLarge, false), "{e}");
        let held = get(&pool, 8).unwrap();
        let e = pool.allocate_many(&layouts[..3]).await.unwrap_err();
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::PoolFull, true), "{e}");
        drop(held);
        assert_eq!(pool.stats().in_use, 0);
        assert_eq!(pool.allocate_many(&layouts[..3]).await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_batch_that_fits_never_fails_because_kept_blocks_are_longer() {
        let pool = pool(64);
        drop((0..4).map(|_| get(&pool, 16).unwrap()).collect::<Vec<_>>());
        let chunks = pool.allocate_many(&vec![ChunkLayout::binary(12 << 10); 5]).await.unwrap();
        let s = pool.stats();
        assert!(chunks.len() == 5 && s.in_use + s.kept <= s.capacity, "{s:?}");
    }

    #[test]
    fn two_batches_at_once_never_both_fail_for_memory_that_holds_one() {
        let pool = pool(64);
        let layouts = vec![ChunkLayout::binary(8 << 10); 6];
        for _ in 0..500 {
            let start = std::sync::Barrier::new(2);
            let both = std::thread::scope(|scope| {
                let batch = || {
                    start.wait();
                    pool.allocate_all(&layouts)
                };
                let (a, b) = (scope.spawn(batch), scope.spawn(batch));
                [a.join().unwrap(), b.join().unwrap()]
            });
            assert!(both.iter().any(Result::is_ok), "{both:?}");
        }
    }

    #[tokio::test]
    async fn a_reservation_gives_the_leading_chunks_that_fit_at_once() {
        let pool = pool(64);
        let backend = crate::LocalCpuBackend::with_allocator(pool.clone());
        let kib = |sizes: &[usize]| sizes.iter().map(|kib| ChunkLayout::binary(kib << 10)).collect::<Vec<_>>();
        let kinds = |answers: &[Result<MemoryObjMut>]| {
            answers.iter().map(|a| a.as_ref().err().map(crate::Error::kind)).collect::<Vec<_>>()
        };
        let (full, large) = (Some(ErrorKind::PoolFull), Some(ErrorKind::TooLarge));
        let all = backend.reserve(&kib(&[20, 20, 20])).await;
        assert_eq!(kinds(&all), [None; 3]);
        // Other chunks hold the memory: a later call may get more.
        let some = backend.reserve(&kib(&[2, 3, 1])).await;
        assert_eq!(kinds(&some), [None, full, full]);
        assert_eq!(some[1].as_ref().unwrap_err().status(), crate::ErrorStatus::Temporary);
        drop((all, some));
        // The batch itself is too large: a retry would fail again.
        let over = backend.reserve(&kib(&[20, 65, 30, 20, 1])).await;
        assert_eq!(kinds(&over), [None, large, None, full, full]);
        assert_eq!(over[3].as_ref().unwrap_err().status(), crate::ErrorStatus::Persistent);
        assert!(backend.reserve(&[]).await.is_empty());
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
