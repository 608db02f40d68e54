//! The contract of the stores, as callers of the handle see it.

use std::path::Path;
use std::time::Duration;

use connectors::{
    CacheKey, ChunkLayout, Connector, Dtype, ErrorKind, Group, LocalCpuBackend, MemoryFormat, MemoryObj, MemoryObjMut,
    PoolAllocator, Result, Shape,
};
use futures::StreamExt;

fn key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().unwrap()
}

fn object_key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@01000100@0@{n:08x}").parse().unwrap()
}

fn bytes(len: usize, seed: u32) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 11) as u8).collect()
}

fn kv(tokens: usize, seed: u32) -> MemoryObj {
    let shape = Shape::new(&[2, 3, tokens, 8]).unwrap();
    let layout = ChunkLayout::new(MemoryFormat::Kv2ltd, shape, Dtype::Bfloat16).unwrap();
    MemoryObj::from_vec(bytes(layout.len, seed), layout).unwrap()
}

struct Stores {
    dir: tempfile::TempDir,
}

impl Stores {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn fs(&self) -> String {
        format!("fs://{}", self.path("fs"))
    }

    fn memory(&self) -> String {
        // A name that no other test has.
        format!("memory://{}", self.dir.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.'))
    }

    /// The stores that keep a chunk's layout.
    async fn labelled(&self) -> Vec<Connector> {
        let two = format!("fs://{},{}", self.path("a"), self.path("b"));
        let mut all = Vec::new();
        for url in [self.memory(), self.fs(), two] {
            all.push(connectors::open(&url).await.unwrap());
        }
        all
    }
}

async fn keys(connector: &Connector, prefix: &str) -> Vec<String> {
    let mut all: Vec<String> = connector.list(prefix).map(|k| k.unwrap().to_string()).collect().await;
    all.sort();
    all
}

fn files(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[tokio::test]
async fn a_chunk_of_any_rank_dtype_and_format_comes_back_with_its_layout() {
    let stores = Stores::new();
    for connector in stores.labelled().await {
        let mut chunks = vec![kv(17, 1), MemoryObj::from(bytes(1, 2)), MemoryObj::from(Vec::new())];
        for dtype in Dtype::ALL {
            for dims in [&[4][..], &[4, 3], &[4, 3, 2], &[4, 3, 2, 5]] {
                let layout = ChunkLayout::new(MemoryFormat::KvT2d, Shape::new(dims).unwrap(), dtype).unwrap();
                chunks.push(MemoryObj::from_vec(bytes(layout.len, 3), layout).unwrap());
            }
        }
        let groups = [(3, Dtype::Float16), (1, Dtype::Float32), (2, Dtype::Float8E5m2)]
            .map(|(n, d)| Group { shape: Shape::new(&[2, n, 5, 4]).unwrap(), dtype: Some(d) });
        let layout = ChunkLayout::from_groups(MemoryFormat::Kv2ltd, &groups).unwrap();
        chunks.push(MemoryObj::from_vec(bytes(layout.len, 4), layout).unwrap());

        let declared = connector.capabilities().dtypes;
        for (n, chunk) in chunks.into_iter().enumerate() {
            let key = key(n as u32);
            let storable = chunk
                .layout()
                .groups
                .iter()
                .all(|g| declared.is_none_or(|all| g.dtype.is_some_and(|d| all.contains(&d))));
            let put = connector.put(&key, chunk.clone()).await;
            if storable {
                put.unwrap();
                assert_eq!(connector.get(&key).await.unwrap(), Some(chunk), "{}", connector.name());
                assert!(connector.exists(&key).await.unwrap());
            } else {
                assert_eq!(put.unwrap_err().kind(), ErrorKind::Unsupported);
                assert_eq!(connector.get(&key).await.unwrap(), None);
            }
        }
    }
}

#[tokio::test]
async fn a_put_replaces_and_a_miss_is_none() {
    let stores = Stores::new();
    for connector in stores.labelled().await {
        for key in [key(1), object_key(1)] {
            assert_eq!(connector.get(&key).await.unwrap(), None);
            assert!(!connector.exists(&key).await.unwrap());
            assert!(!connector.remove(&key).await.unwrap());
            let mut memory = MemoryObjMut::zeroed(10);
            assert_eq!(connector.get_into(&key, &mut memory).await.unwrap(), None);
            assert_eq!(memory.capacity(), 10, "after a miss the memory is back");

            connector.put(&key, MemoryObj::from(bytes(100, 1))).await.unwrap();
            connector.put(&key, MemoryObj::from(bytes(7, 2))).await.unwrap();
            assert_eq!(connector.get(&key).await.unwrap().as_deref(), Some(&bytes(7, 2)[..]));
            assert!(connector.remove(&key).await.unwrap());
            assert_eq!(connector.get(&key).await.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn get_into_fills_the_callers_memory_or_names_both_sizes() {
    let stores = Stores::new();
    for connector in stores.labelled().await {
        let chunk = kv(4, 9);
        connector.put(&key(1), chunk.clone()).await.unwrap();
        for room in [chunk.len(), chunk.len() + 5000] {
            let mut memory = MemoryObjMut::zeroed(room);
            let address = memory.as_ptr();
            assert_eq!(connector.get_into(&key(1), &mut memory).await.unwrap(), Some(chunk.len()));
            assert_eq!((memory.as_ptr(), memory.capacity(), memory.layout()), (address, room, chunk.layout()));
            assert_eq!(&*memory, &*chunk);
        }
        let mut small = MemoryObjMut::zeroed(chunk.len() - 1);
        let e = connector.get_into(&key(1), &mut small).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::SizeMismatch);
        assert!(e.to_string().contains("384") && e.to_string().contains("383"), "{e}");
        assert_eq!(small.capacity(), chunk.len() - 1, "after an error the memory is back");
    }
}

#[tokio::test]
async fn batches_answer_in_order_with_holes() {
    let stores = Stores::new();
    for connector in stores.labelled().await {
        let all: Vec<CacheKey> = (0..40).map(key).collect();
        let items: Vec<_> = all.iter().filter(|k| **k != key(30)).map(|k| (k.clone(), kv(2, 5))).collect();
        assert!(connector.batched_put(&items).await.iter().all(Result::is_ok));
        assert_eq!(connector.batched_contains(&all).await.unwrap(), 30);
        assert_eq!(connector.batched_contains(&[]).await.unwrap(), 0);
        assert_eq!(connector.batched_contains(&all[30..]).await.unwrap(), 0);
        let exists = connector.batched_exists(&all).await;
        let got = connector.batched_get(&all).await;
        assert_eq!((exists.len(), got.len()), (40, 40));
        for (n, (exists, got)) in exists.into_iter().zip(got).enumerate() {
            assert_eq!((exists.unwrap(), got.unwrap()), (n != 30, (n != 30).then(|| kv(2, 5))));
        }
        let mut requests: Vec<_> = all.iter().map(|k| (k.clone(), MemoryObjMut::zeroed(4096))).collect();
        let lengths = connector.batched_get_into(&mut requests).await;
        for (n, (length, (_, memory))) in lengths.into_iter().zip(&requests).enumerate() {
            assert_eq!(length.unwrap(), (n != 30).then(|| kv(2, 5).len()));
            assert!(n == 30 || **memory == *kv(2, 5));
        }
        let removed = connector.batched_remove(&all).await;
        assert_eq!(removed.into_iter().filter(|r| matches!(r, Ok(true))).count(), 39);
    }
}

#[tokio::test]
async fn list_gives_every_key_with_the_prefix_and_nothing_else() {
    let stores = Stores::new();
    for connector in stores.labelled().await {
        let texts = [
            "a/b@1@0@1@half",
            "a/b@1@0@2@half@7",
            "c@1@0@-1@half@t%x/y",
            "模型/测试@1@0@ff@int8",
            "m@01000100@0@ff@salt",
        ];
        for text in texts {
            connector.put(&text.parse().unwrap(), MemoryObj::from(vec![1])).await.unwrap();
        }
        let mut expected: Vec<&str> = texts.to_vec();
        expected.sort_unstable();
        assert_eq!(keys(&connector, "").await, expected, "{}", connector.name());
        assert_eq!(keys(&connector, "a/b@").await, ["a/b@1@0@1@half", "a/b@1@0@2@half@7"]);
        assert!(keys(&connector, "nothing").await.is_empty());
        let first = connector.list("").next().await;
        assert!(first.is_some_and(|k| k.is_ok()), "a stream may be dropped early");
    }
}

#[tokio::test]
async fn close_refuses_later_calls_and_may_be_called_twice() {
    let stores = Stores::new();
    for connector in stores.labelled().await {
        let clone = connector.clone();
        connector.close().await.unwrap();
        clone.close().await.unwrap();
        assert!(clone.is_closed());
        assert_eq!(clone.get(&key(1)).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(clone.put(&key(1), kv(1, 1)).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(clone.batched_get(&[key(1), key(2)]).await.len(), 2);
        assert_eq!(clone.list("").next().await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[tokio::test]
async fn close_does_not_wait_for_a_stream_that_is_not_polled() {
    let stores = Stores::new();
    for connector in stores.labelled().await {
        for n in 0..600 {
            connector.put(&key(n), MemoryObj::from(vec![1])).await.unwrap();
        }
        let mut listing = connector.list("");
        assert!(listing.next().await.unwrap().is_ok());
        connector.close().await.unwrap();
        let rest: Vec<_> = listing.collect().await;
        assert!(rest.iter().map(|k| k.as_ref().unwrap_err().kind()).eq([ErrorKind::Closed]), "{rest:?}");
    }
}

#[tokio::test]
async fn a_full_pool_is_an_error_and_never_a_leak() {
    let stores = Stores::new();
    let pool = PoolAllocator::new(16 << 10);
    let backend = LocalCpuBackend::with_allocator(pool.clone());
    let connector = connectors::builder(&stores.fs()).local_cpu_backend(backend).open().await.unwrap();
    connector.put(&key(1), MemoryObj::from(bytes(10 << 10, 1))).await.unwrap();
    let held = connector.get(&key(1)).await.unwrap().unwrap();
    let e = connector.get(&key(1)).await.unwrap_err();
    assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::PoolFull, true));
    assert!(e.to_string().contains("get (kvconn.fs/FSConnector)") && e.to_string().contains("10240"), "{e}");
    drop(held);
    assert!(connector.get(&key(1)).await.unwrap().is_some());
    assert_eq!(pool.stats().in_use, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_futures_leak_no_memory_and_leave_whole_chunks() {
    let stores = Stores::new();
    let pool = PoolAllocator::new(64 << 20);
    let backend = LocalCpuBackend::with_allocator(pool.clone());
    let connector = connectors::builder(&stores.fs()).local_cpu_backend(backend).open().await.unwrap();
    let (old, new) = (kv(200, 1), kv(200, 2));
    connector.put(&key(1), old.clone()).await.unwrap();
    for round in 0..600u64 {
        let limit = Duration::from_micros(round % 150);
        let mut memory = MemoryObjMut::zeroed(old.len());
        match round % 3 {
            0 => drop(tokio::time::timeout(limit, connector.get(&key(1))).await),
            1 => drop(tokio::time::timeout(limit, connector.get_into(&key(1), &mut memory)).await),
            _ => drop(tokio::time::timeout(limit, connector.put(&key(1), new.clone())).await),
        }
        let found = connector.get(&key(1)).await.unwrap().unwrap();
        assert!(found == old || found == new);
    }
    connector.close().await.unwrap();
    assert_eq!(pool.stats().in_use, 0);
    assert_eq!(
        files(&stores.dir.path().join("fs")),
        ["facebook-SEP-opt-125m@1@0@1@half.data"],
        "no temporary file is left"
    );
}

#[tokio::test]
async fn a_call_after_a_dropped_one_works() {
    let stores = Stores::new();
    let connector = connectors::open(&stores.fs()).await.unwrap();
    // Drops a future before its first poll, and one after it.
    drop(connector.put(&key(1), kv(1, 1)));
    let key_1 = key(1);
    let mut put = Box::pin(connector.put(&key_1, kv(2, 2)));
    let _ = futures::poll!(&mut put);
    drop(put);
    connector.put(&key(1), kv(3, 3)).await.unwrap();
    assert_eq!(connector.get(&key(1)).await.unwrap(), Some(kv(3, 3)));
}

#[tokio::test]
async fn memory_evicts_the_least_recently_used_chunk_by_bytes() {
    let stores = Stores::new();
    let connector = connectors::open(&format!("{}?capacity=1000", stores.memory())).await.unwrap();
    for n in 0..10 {
        connector.put(&key(n), MemoryObj::from(bytes(100, n))).await.unwrap();
    }
    connector.get(&key(0)).await.unwrap();
    connector.put(&key(10), MemoryObj::from(bytes(150, 10))).await.unwrap();
    let there: Vec<bool> =
        connector.batched_exists(&(0..11).map(key).collect::<Vec<_>>()).await.into_iter().flatten().collect();
    assert_eq!(there, [true, false, false, true, true, true, true, true, true, true, true]);
    let e = connector.put(&key(11), MemoryObj::from(bytes(1001, 1))).await.unwrap_err();
    assert!(e.kind() == ErrorKind::TooLarge && e.to_string().contains("1001") && e.to_string().contains("1000"), "{e}");
}

#[tokio::test]
async fn memory_bounds_the_number_of_empty_chunks_too() {
    let connector = connectors::open("memory://?capacity=1000000").await.unwrap();
    for n in 0..3000 {
        connector.put(&key(n), MemoryObj::from(Vec::new())).await.unwrap();
    }
    assert_eq!(connector.list("").count().await, 1_000_000 / 512);
    assert!(connector.exists(&key(2999)).await.unwrap() && !connector.exists(&key(0)).await.unwrap());
}

#[tokio::test]
async fn memory_is_shared_by_name_in_a_process_and_copies_its_chunks() {
    let stores = Stores::new();
    let (a, b) = (connectors::open(&stores.memory()).await.unwrap(), connectors::open(&stores.memory()).await.unwrap());
    let pool = PoolAllocator::new(1 << 20);
    let mut chunk = pool.allocate_now(&ChunkLayout::binary(100 << 10)).unwrap();
    chunk.fill(3);
    a.put(&key(1), chunk.freeze()).await.unwrap();
    assert_eq!(pool.stats().in_use, 0, "the caller's memory is free after the put");
    assert_eq!(b.get(&key(1)).await.unwrap().as_deref(), Some(&[3; 100 << 10][..]));
    let e = connectors::open(&format!("{}?capacity=7", stores.memory())).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidOption);
    drop((a, b));
    assert!(
        !connectors::open(&stores.memory()).await.unwrap().exists(&key(1)).await.unwrap(),
        "the chunks are lost with the last connector"
    );
    let nameless = [connectors::open("memory://").await.unwrap(), connectors::open("memory://").await.unwrap()];
    nameless[0].put(&key(1), kv(1, 1)).await.unwrap();
    assert!(!nameless[1].exists(&key(1)).await.unwrap());
}

#[tokio::test]
async fn namespaces_of_one_name_in_memory_never_meet() {
    let name = Stores::new().memory();
    let mut handles = Vec::new();
    for query in ["", "?namespace=a", "?namespace=b&capacity=2000", "?namespace=a&capacity=1073741824"] {
        handles.push(connectors::open(&format!("{name}{query}")).await.unwrap());
    }
    for (n, connector) in handles[..3].iter().enumerate() {
        connector.put(&key(0), MemoryObj::from(vec![n as u8; 1000])).await.unwrap();
        connector.put(&key(1 + n as u32), MemoryObj::from(vec![n as u8; 1000])).await.unwrap();
    }
    for (n, of) in [0, 1, 2, 1].into_iter().enumerate() {
        let connector = &handles[n];
        assert_eq!(connector.get(&key(0)).await.unwrap().unwrap()[0], of as u8);
        let mut listed: Vec<CacheKey> = connector.list("").map(Result::unwrap).collect().await;
        listed.sort();
        assert_eq!(listed, [key(0), key(1 + of)]);
    }
    assert!(handles[0].remove(&key(0)).await.unwrap());
    assert!(handles[1].exists(&key(0)).await.unwrap(), "a removal stays inside its namespace");
    handles[2].put(&key(9), MemoryObj::from(vec![9; 1500])).await.unwrap();
    assert!(!handles[2].exists(&key(0)).await.unwrap() && handles[1].exists(&key(0)).await.unwrap(), "a capacity, too");
    let e = connectors::open(&format!("{name}?namespace=a/b")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidOption);
    for wrapper in
        ["tiered://?front=memory%3A%2F%2F&back=memory%3A%2F%2F", "audit://?actual_remote_url=memory%3A%2F%2F"]
    {
        let e = connectors::open(&format!("{wrapper}&namespace=a")).await.unwrap_err();
        assert!(e.kind() == ErrorKind::InvalidOption && e.to_string().contains("inner store"), "{e}");
    }
}
