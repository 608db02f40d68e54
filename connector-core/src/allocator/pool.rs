//! A bounded pool of aligned memory that it reuses.
#![expect(unsafe_code, reason = "promises that a block is a Region")]

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use futures::future::{BoxFuture, FutureExt, ready};
use memmap2::{MmapMut, MmapRaw};

use super::{ChunkAllocator, no_memory};
use crate::Result;
use crate::chunk::{ChunkLayout, MemoryObjMut, Region};
use crate::observe;
use crate::runtime::{PerProcess, forks};

#[cfg(test)]
mod tests;

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
/// New memory is zero. The pool does not write the zeros: a page takes memory of the system when the first byte reaches
/// it.
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
        let pool = Arc::new(Pool {
            forks: forks(),
            capacity,
            state: Mutex::new(State { in_use: 0, kept: 0, free: BTreeMap::new() }),
        });
        let mut pools = pools();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(&pool));
        Self(pool)
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

    /// Returns free blocks to the system, largest first, until the pool keeps at most `kept` bytes. `trim(0)` keeps
    /// none.
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

/// The pools of this process.
fn pools() -> MutexGuard<'static, Vec<Weak<Pool>>> {
    static POOLS: PerProcess<Mutex<Vec<Weak<Pool>>>> = PerProcess::new();
    // No code panics while it holds the lock.
    POOLS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// The metrics of all pools of this process together, in bytes.
pub(crate) fn pool_totals() -> [(&'static str, usize); 3] {
    // Outside the lock, because the last owner of a pool unmaps its memory.
    let pools: Vec<_> = pools().iter().filter_map(Weak::upgrade).collect();
    let mut totals = [(observe::POOL_CAPACITY, 0), (observe::POOL_IN_USE, 0), (observe::POOL_KEPT, 0)];
    for pool in pools {
        let PoolStats { capacity, in_use, kept } = PoolAllocator(pool).stats();
        for ((_, total), more) in totals.iter_mut().zip([capacity, in_use, kept]) {
            *total += more;
        }
    }
    totals
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

// SAFETY: anonymous memory is initialised with zeros. A region gets out of this module only with its map, which never
// changes its place. Only this region reaches the map until `drop`, which gives it back.
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
