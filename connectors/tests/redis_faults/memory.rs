//! Memory. A server that announces more than it sends takes no more memory than the bytes that came. A call that waits
//! for memory stops no other call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use connectors::{
    ChunkAllocator, ChunkHeader, ChunkLayout, Connector, Dtype, Error, ErrorKind, ErrorStatus, LMCacheMetadata,
    LayerGroup, LocalCpuBackend, MemoryFormat, MemoryObj, MemoryObjMut, PoolAllocator, Result, Shape,
};
use futures::future::{BoxFuture, FutureExt, join, join_all};
use kvconn_redis_server::{RedisServer, fake};
use tokio::sync::Notify;

use crate::store::{Kind, key, until};

const MIB: usize = 1 << 20;

/// A server that announces values of `len` bytes and sends `sent` bytes of each.
fn announcing(len: usize, sent: usize) -> u16 {
    fake::answering(move |words| {
        let header = ChunkHeader::new(&ChunkLayout::binary(len)).expect("a header");
        let header = [b"$28\r\n", header.as_bytes(), b"\r\n"].concat();
        let value = [format!("${len}\r\n").into_bytes(), vec![7; sent]].concat();
        match words[0].as_str() {
            "HELLO" => Some(b"-NOPROTO\r\n".to_vec()),
            "CLIENT" => Some(b"+OK\r\n".to_vec()),
            "PING" => Some(b"+PONG\r\n".to_vec()),
            "STRLEN" => Some(format!(":{len}\r\n").into_bytes()),
            "MGET" if words.len() == 2 => Some([b"*1\r\n", &header[..]].concat()),
            "MGET" => Some([b"*2\r\n", &header[..], &value[..]].concat()),
            "GET" => Some(value),
            other => panic!("a test's server does not know {other}"),
        }
    })
}

async fn open(url: &str, backend: LocalCpuBackend, metadata: Option<LMCacheMetadata>) -> Connector {
    let builder = connectors::builder(url).local_cpu_backend(backend);
    let builder = match metadata {
        Some(metadata) => builder.metadata(metadata),
        None => builder,
    };
    builder.open().await.unwrap_or_else(|e| panic!("the store opens: {e}"))
}

/// Metadata of a model whose full chunk has `tokens` KiB.
fn metadata(tokens: usize) -> LMCacheMetadata {
    let group = LayerGroup { kv_size: 2, num_layers: 1, hidden_dim: 256, dtype: Dtype::Bfloat16 };
    LMCacheMetadata::new("faults", 1, 0, tokens, &[group]).expect("metadata")
}

/// A chunk of that model.
fn tokens(n: usize) -> MemoryObj {
    let layout = ChunkLayout::new(MemoryFormat::Kv2ltd, Shape::new(&[2, 1, n, 256]).unwrap(), Dtype::Bfloat16).unwrap();
    MemoryObj::from_vec(vec![5; layout.len], layout).unwrap()
}

pub(crate) async fn an_announced_length_takes_no_memory_before_a_byte_comes(kind: Kind) {
    let port = announcing(100 * MIB, 0);
    let pool = PoolAllocator::new(8 << 30);
    let url = format!("{}://127.0.0.1:{port}?io_timeout_ms=300", kind.scheme);
    let store = open(&url, LocalCpuBackend::with_allocator(pool.clone()), None).await;
    let keys: Vec<_> = (0..36).map(key).collect();
    let mut batch = std::pin::pin!(store.batched_get(&keys));
    let answers = loop {
        let tick = tokio::time::timeout(Duration::from_millis(10), batch.as_mut()).await;
        assert_eq!((pool.stats().in_use, pool.stats().kept), (0, 0));
        if let Ok(answers) = tick {
            break answers;
        }
    };
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::Timeout)), "{answers:?}");
    assert!(store.get(&keys[0]).await.is_err());
    assert_eq!((pool.stats().in_use, pool.stats().kept), (0, 0));
}

pub(crate) async fn a_read_that_stops_half_way_keeps_no_memory(kind: Kind) {
    let port = announcing(4 * MIB, 100_000);
    let pool = PoolAllocator::new(64 * MIB);
    let url = format!("{}://127.0.0.1:{port}?io_timeout_ms=300", kind.scheme);
    let keys: Vec<_> = (0..4).map(key).collect();
    for metadata in [None, Some(metadata(4096))] {
        let store = open(&url, LocalCpuBackend::with_allocator(pool.clone()), metadata).await;
        assert!(store.get(&keys[0]).await.is_err());
        assert!(store.batched_get(&keys).await.iter().all(Result::is_err));
        assert_eq!((pool.stats().in_use, pool.stats().kept), (0, 0), "after a timeout");
        {
            let mut batch = Box::pin(store.batched_get(&keys));
            while pool.stats().in_use < 4 * MIB {
                // It ends at once while no connection was opened again after the timeout.
                if tokio::time::timeout(Duration::from_millis(1), batch.as_mut()).await.is_ok() {
                    batch = Box::pin(store.batched_get(&keys));
                }
            }
        }
        assert_eq!((pool.stats().in_use, pool.stats().kept), (0, 0), "after a dropped call");
        store.close().await.unwrap();
    }
}

pub(crate) async fn close_returns_the_pools_memory(kind: Kind) {
    let server = RedisServer::start(&[]);
    let pool = PoolAllocator::new(64 * MIB);
    let store = open(&server.url(kind.scheme), LocalCpuBackend::with_allocator(pool.clone()), None).await;
    store.put(&key(1), MemoryObj::from(vec![1; MIB])).await.unwrap();
    drop(store.get(&key(1)).await.unwrap().expect("a chunk"));
    assert_eq!(pool.stats().kept, MIB, "for the next read");
    store.close().await.unwrap();
    assert_eq!(pool.stats().kept, 0);
}

/// An allocator that waits until chunks were dropped, as LMCache's does.
#[derive(Clone)]
struct Waiting(Arc<WaitingInner>);

struct WaitingInner {
    pool: PoolAllocator,
    freed: Notify,
    waiting: AtomicUsize,
    /// The layouts that the last call asked for.
    asked: Mutex<Vec<ChunkLayout>>,
}

impl Waiting {
    fn new(capacity: usize) -> Self {
        Self(Arc::new(WaitingInner {
            pool: PoolAllocator::new(capacity),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            asked: Mutex::default(),
        }))
    }
}

impl ChunkAllocator for Waiting {
    fn allocate<'a>(&'a self, layout: &'a ChunkLayout) -> BoxFuture<'a, Result<MemoryObjMut>> {
        async move {
            let mut one = self.allocate_many(std::slice::from_ref(layout)).await?;
            one.pop().ok_or_else(Error::closed)
        }
        .boxed()
    }

    fn allocate_many<'a>(&'a self, layouts: &'a [ChunkLayout]) -> BoxFuture<'a, Result<Vec<MemoryObjMut>>> {
        async move {
            *self.0.asked.lock().unwrap() = layouts.to_vec();
            self.0.waiting.fetch_add(1, Ordering::SeqCst);
            let answer = loop {
                match self.0.pool.allocate_many(layouts).await {
                    Err(e) if e.kind() == ErrorKind::PoolFull => {
                        let _ = tokio::time::timeout(Duration::from_millis(5), self.0.freed.notified()).await;
                    }
                    other => break other,
                }
            };
            self.0.waiting.fetch_sub(1, Ordering::SeqCst);
            answer
        }
        .boxed()
    }

    fn fitting(&self, layouts: &[ChunkLayout]) -> usize {
        self.0.pool.fitting(layouts)
    }
}

pub(crate) async fn calls_that_wait_for_memory_hold_no_connection(kind: Kind) {
    let server = RedisServer::start(&[]);
    for metadata in [None, Some(metadata(1024))] {
        let memory = Waiting::new(4 * MIB);
        let url = format!("{}?connections=1&io_timeout_ms=1000&connect_timeout_ms=1000", server.url(kind.scheme));
        let store = open(&url, LocalCpuBackend::with_allocator(memory.clone()), metadata).await;
        for n in 0..8 {
            store.put(&key(n), tokens(1024)).await.unwrap();
        }
        let held = memory.0.pool.allocate_now(&ChunkLayout::binary(4 * MIB)).unwrap();
        let reads = (0..8).map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.get(&key(n)).await.map(|chunk| chunk.map(|chunk| chunk.len())) })
        });
        let reads: Vec<_> = reads.collect();
        until("all reads wait", async || memory.0.waiting.load(Ordering::SeqCst) == 8).await;
        // Longer than each wait for a connection or a byte.
        for round in 0..25 {
            let mut into = MemoryObjMut::zeroed(MIB);
            assert_eq!(store.get_into(&key(round % 8), &mut into).await.unwrap(), Some(MIB));
            store.put(&key(100), tokens(1)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drop(held);
        for read in reads {
            assert_eq!(read.await.unwrap().unwrap(), Some(MIB));
        }
        assert_eq!(memory.0.pool.stats().in_use, 0);
    }
}

pub(crate) async fn batches_that_each_fit_come_back_whole(kind: Kind) {
    let server = RedisServer::start(&[]);
    for metadata in [None, Some(metadata(64))] {
        let memory = Waiting::new(10 * (64 << 10));
        let store = open(&server.url(kind.scheme), LocalCpuBackend::with_allocator(memory.clone()), metadata).await;
        let keys: [Vec<_>; 2] = [(0..8).map(key).collect(), (8..16).map(key).collect()];
        for key in keys.iter().flatten() {
            store.put(key, tokens(64)).await.unwrap();
        }
        for pair in 0..40 {
            let read = |keys: &[connectors::CacheKey]| {
                let (store, keys) = (store.clone(), keys.to_vec());
                tokio::spawn(async move {
                    let answers = store.batched_get(&keys).await;
                    answers.iter().filter(|answer| matches!(answer, Ok(Some(_)))).count()
                })
            };
            let (a, b) = join(read(&keys[0]), read(&keys[1])).await;
            assert_eq!((a.unwrap(), b.unwrap()), (8, 8), "pair {pair}");
        }
    }
}

/// LMCache's memory has the layout that it was allocated with.
pub(crate) async fn memory_of_an_allocator_that_waits_has_the_chunks_own_layout(kind: Kind) {
    let server = RedisServer::start(&[]);
    let memory = Waiting::new(MIB);
    let backend = LocalCpuBackend::with_allocator(memory.clone());
    let store = open(&server.url(kind.scheme), backend, Some(metadata(64))).await;
    let chunks = [tokens(64), tokens(64), tokens(3)];
    let keys: Vec<_> = (0..3).map(key).collect();
    for (key, chunk) in keys.iter().zip(&chunks) {
        store.put(key, chunk.clone()).await.unwrap();
    }
    // Twice: the second time the store knows that short chunks come.
    for _ in 0..2 {
        for (key, chunk) in keys.iter().zip(&chunks) {
            assert_eq!(store.get(key).await.unwrap().as_ref(), Some(chunk));
            assert_eq!(memory.0.asked.lock().unwrap()[..], [chunk.layout().clone()]);
        }
        let answers = store.batched_get(&keys).await;
        assert!(answers.into_iter().zip(&chunks).all(|(got, put)| got.unwrap().as_ref() == Some(put)));
        assert_eq!(memory.0.asked.lock().unwrap()[..], chunks.clone().map(|chunk| chunk.layout().clone()));
    }
    assert!(store.get(&key(9)).await.unwrap().is_none());
    assert_eq!(memory.0.pool.stats().in_use, 0);
}

pub(crate) async fn batches_never_both_lose_memory_that_one_of_them_needs(kind: Kind) {
    let server = RedisServer::start(&[]);
    for metadata in [None, Some(metadata(64))] {
        let pool = PoolAllocator::new(10 * (64 << 10));
        let store = open(&server.url(kind.scheme), LocalCpuBackend::with_allocator(pool.clone()), metadata).await;
        let keys: Vec<_> = (0..8).map(key).collect();
        for key in &keys {
            store.put(key, tokens(64)).await.unwrap();
        }
        for pair in 0..40 {
            let batches = join_all((0..2).map(|_| {
                let (store, keys) = (store.clone(), keys.clone());
                tokio::spawn(async move { store.batched_get(&keys).await })
            }));
            for (batch, answers) in batches.await.into_iter().enumerate() {
                let answers = answers.unwrap();
                // The chunks that were read are the leading ones.
                let leading = answers.iter().take_while(|answer| matches!(answer, Ok(Some(_)))).count();
                for answer in &answers[leading..] {
                    let e = answer.as_ref().expect_err("nothing behind the first error");
                    assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::PoolFull, true), "{pair} {batch}: {e}");
                }
            }
        }
        assert_eq!(pool.stats().in_use, 0);
    }
}

pub(crate) async fn a_batch_larger_than_the_pool_gets_the_leading_chunks_at_once(kind: Kind) {
    let server = RedisServer::start(&[]);
    for metadata in [None, Some(metadata(64))] {
        for waits in [false, true] {
            let memory = Waiting::new(3 * (64 << 10));
            let backend = match waits {
                true => LocalCpuBackend::with_allocator(memory),
                false => LocalCpuBackend::with_allocator(memory.0.pool.clone()),
            };
            let store = open(&server.url(kind.scheme), backend, metadata.clone()).await;
            for n in [1, 3, 4, 6, 7] {
                store.put(&key(n), tokens(64)).await.unwrap();
            }
            let keys: Vec<_> = (0..8).map(key).collect();
            // Memory for three chunks. The missing ones need none.
            let answers: Vec<_> = store.batched_get(&keys).await;
            let shown: String = answers
                .iter()
                .map(|answer| match answer {
                    Ok(Some(_)) => '#',
                    Ok(None) => '-',
                    Err(e) => {
                        assert_eq!((e.kind(), e.status()), (ErrorKind::PoolFull, ErrorStatus::Persistent), "{e}");
                        '!'
                    }
                })
                .collect();
            assert_eq!(shown, "-#-##-!!");
        }
    }
}

pub(crate) async fn a_full_pool_does_not_hide_a_miss(kind: Kind) {
    let server = RedisServer::start(&[]);
    for metadata in [None, Some(metadata(64))] {
        let pool = PoolAllocator::new(64 << 10);
        let store = open(&server.url(kind.scheme), LocalCpuBackend::with_allocator(pool.clone()), metadata).await;
        store.put(&key(1), tokens(64)).await.unwrap();
        let held = store.get(&key(1)).await.unwrap();
        assert!(store.get(&key(2)).await.unwrap().is_none());
        let answers = store.batched_get(&[key(2), key(1), key(3)]).await;
        assert!(matches!(&answers[..], [Ok(None), Err(e), Ok(None)] if e.kind() == ErrorKind::PoolFull), "{answers:?}");
        drop(held);
        assert!(store.get(&key(1)).await.unwrap().is_some());
    }
}

pub(crate) async fn a_short_chunk_takes_little_of_the_memory_reserved_for_it(kind: Kind) {
    let server = RedisServer::start(&[]);
    let pool = PoolAllocator::new(64 * MIB);
    let backend = LocalCpuBackend::with_allocator(pool.clone());
    let store = open(&server.url(kind.scheme), backend, Some(metadata(1024))).await;
    store.put(&key(1), tokens(1024)).await.unwrap();
    store.put(&key(2), tokens(10)).await.unwrap();
    let chunks = store.batched_get(&[key(1), key(2)]).await;
    assert_eq!(chunks[1].as_ref().unwrap().as_ref().unwrap().layout(), tokens(10).layout());
    assert!(pool.stats().in_use < MIB + (64 << 10), "{:?}", pool.stats());
    // A chunk that is longer than the model's.
    let other = open(&server.url("redis"), LocalCpuBackend::with_capacity(0), None).await;
    other.put(&key(3), tokens(2048)).await.unwrap();
    if kind.scheme == "redis" {
        let chunks = store.batched_get(&[key(1), key(3)]).await;
        assert_eq!(chunks[1].as_ref().unwrap().as_ref().unwrap().len(), 2 * MIB);
    }
}
