//! Chunks that are read into memory with a witness on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use connectors::chunk::Witness;
use connectors::{ChunkLayout, ErrorKind, LocalCpuBackend, MemoryObj, MemoryObjMut, PoolAllocator};

use super::{Place, Random, bytes, key};

/// What arrived, by its place.
#[derive(Default)]
struct Seen(Mutex<BTreeMap<usize, Vec<u8>>>);

const PIECE: usize = 100_000;

impl Witness for Seen {
    fn piece_len(&self) -> usize {
        PIECE
    }
    fn forget(&self) {
        self.0.lock().unwrap().clear();
    }
    fn arrived(&self, offset: usize, bytes: &[u8]) {
        let before = self.0.lock().unwrap().insert(offset, bytes.to_vec());
        assert!(before.is_none(), "byte {offset} arrives once");
    }
}

impl Seen {
    fn on(memory: &mut MemoryObjMut) -> Arc<Self> {
        let seen = Arc::new(Self::default());
        memory.set_witness(Some(seen.clone()));
        seen
    }

    fn all(&self) -> Vec<u8> {
        let seen = self.0.lock().unwrap();
        assert!(seen.keys().enumerate().all(|(n, offset)| n * PIECE == *offset));
        seen.values().flatten().copied().collect()
    }
}

fn forget(place: &Place) {
    for name in super::files(&place.dir()) {
        let file = std::fs::File::open(place.dir().join(name)).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_sees_all_of_what_is_read_however_it_is_read() {
    for (dir, options) in [
        ("/var/tmp", ""),
        ("/var/tmp", "?save_chunk_meta=false"),
        ("/var/tmp", "?capacity=1000000000"),
        ("/dev/shm", ""),
        ("/dev/shm", "?save_chunk_meta=false"),
    ] {
        let place = Place(tempfile::tempdir_in(dir).unwrap());
        let store = place.open(options).await;
        for len in [1, PIECE, PIECE + 1, 5 * PIECE, 40 * PIECE + 77] {
            let value = bytes(len, len as u32);
            store.put(&key(1), MemoryObj::from(value.clone())).await.unwrap();
            store.put(&key(2), MemoryObj::from(value.clone())).await.unwrap();
            for cold in [false, true, false] {
                if cold {
                    forget(&place);
                }
                let mut memory = MemoryObjMut::zeroed(len + 10);
                let seen = Seen::on(&mut memory);
                assert_eq!(store.get_into(&key(1), &mut memory).await.unwrap(), Some(len));
                assert_eq!(seen.all(), value, "{dir} {options}, {len} bytes, cold: {cold}");
                assert_eq!(*memory, value);

                let mut requests = [1, 2].map(|n| (key(n), MemoryObjMut::zeroed(len)));
                let seen = requests.each_mut().map(|(_, memory)| Seen::on(memory));
                let answers = store.batched_get_into(&mut requests).await;
                assert!(answers.into_iter().all(|answer| answer.unwrap() == Some(len)));
                assert!(seen.iter().all(|seen| seen.all() == value), "{dir} {options}, {len} bytes, cold: {cold}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_of_what_passes_the_page_cache_by_claims_nothing() {
    let place = Place(tempfile::tempdir_in("/var/tmp").unwrap());
    let store = place.open("?save_chunk_meta=false&use_odirect=true").await;
    let value = bytes(1 << 20, 1);
    store.put(&key(1), MemoryObj::from(value.clone())).await.unwrap();
    let mut memory = MemoryObjMut::zeroed(1 << 20);
    let seen = Seen::on(&mut memory);
    assert_eq!(store.get_into(&key(1), &mut memory).await.unwrap(), Some(1 << 20));
    assert_eq!((seen.all(), &*memory), (vec![], &value[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_ends_early_is_corrupt_and_the_memory_is_back() {
    let place = Place::new();
    let store = place.open("").await;
    let len = 20 * PIECE;
    store.put(&key(1), MemoryObj::from(bytes(len, 1))).await.unwrap();
    let mut memory = MemoryObjMut::zeroed(len);
    let seen = Seen::on(&mut memory);
    std::fs::OpenOptions::new()
        .write(true)
        .open(place.dir().join(super::file_name(1)))
        .unwrap()
        .set_len(len as u64)
        .unwrap();
    let e = store.get_into(&key(1), &mut memory).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert!(!memory.is_taken() && seen.all().len() < len && memory.witness().is_some());
    assert_eq!(store.get_into(&key(2), &mut memory).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_dropped_futures_comes_back_although_two_threads_read_to_it() {
    let place = Place(tempfile::tempdir_in("/dev/shm").unwrap());
    let pool = PoolAllocator::new(64 << 20);
    let backend = LocalCpuBackend::with_allocator(pool.clone());
    let store = connectors::builder(&place.url("")).local_cpu_backend(backend.clone()).open().await.unwrap();
    let value = bytes(20 * PIECE, 1);
    store.put(&key(1), MemoryObj::from(value.clone())).await.unwrap();
    let mut random = Random::new(20_261_124);
    for n in 0..2_000 {
        let mut memory = loop {
            // A thread that reads to it on behalf of nobody keeps it a moment longer.
            match backend.allocate(&ChunkLayout::binary(value.len())).await {
                Ok(memory) => break memory,
                Err(e) if e.kind() == ErrorKind::OutOfMemory => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(e) => panic!("{e}"),
            }
        };
        let seen = Seen::on(&mut memory);
        let wanted = key(1);
        let mut reading = Box::pin(store.get_into(&wanted, &mut memory));
        let polls = random.below(30);
        let mut read = None;
        for _ in 0..polls {
            if let std::task::Poll::Ready(answer) = futures::poll!(&mut reading) {
                read = Some(answer.unwrap());
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(reading);
        if let Some(read) = read {
            assert_eq!((read, &*memory), (Some(value.len()), &value[..]), "read {n}");
            assert_eq!(seen.all(), value, "read {n}");
        }
    }
    let closed = tokio::time::timeout(Duration::from_secs(60), store.close()).await;
    closed.expect("nothing hangs").unwrap();
    assert_eq!(pool.stats().in_use, 0);
}
