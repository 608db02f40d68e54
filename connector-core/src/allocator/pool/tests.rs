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
    let pool = pool(8 << 10);
    let fill = || {
        let before = minor_faults();
        get(&pool, 4 << 10).unwrap().fill(1);
        minor_faults() - before
    };
    let fresh = fill();
    // The system may take or move pages in between, above all if it is short of memory.
    let again = (0..10).map(|_| fill()).min().unwrap();
    assert!(again <= fresh / 2, "{again} page faults for pages in use before; {fresh} when they were new");
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
