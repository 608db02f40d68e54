//! `tiered://` over redis servers.

use std::time::{Duration, Instant};

use connectors::{
    CacheKey, ChunkAllocator, ChunkLayout, Connector, Dtype, Error, ErrorKind, LMCacheMetadata, LayerGroup,
    LocalCpuBackend, MemoryFormat, MemoryObj, MemoryObjMut, PoolAllocator, Result, Shape,
};
use futures::future::{BoxFuture, FutureExt, join};
use kvconn_redis_server::RedisServer;

fn key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().unwrap()
}

async fn open(server: &RedisServer, options: &str) -> Result<Connector> {
    let back = server.url("redis").replace(':', "%3A").replace('/', "%2F");
    let url = format!("tiered://?front=memory%3A%2F%2F&back={back}&mode=write_back{options}");
    connectors::open(&url).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_back_is_away_opens_lazily_and_loses_nothing() {
    let mut server = RedisServer::start(&[]);
    server.kill9();
    let e = open(&server, "&timeout_ms=300&retries=1").await.unwrap_err();
    assert!(e.kind() == ErrorKind::Unavailable && e.to_string().contains("option `back`"), "{e}");

    let begun = Instant::now();
    let connector = open(&server, "&timeout_ms=300&connect=lazy").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    for n in 0..20 {
        connector.put(&key(n), MemoryObj::from(vec![n as u8; 1000])).await.unwrap();
    }
    assert_eq!(connector.get(&key(3)).await.unwrap().unwrap()[0], 3, "from the front");
    connector.get(&key(30)).await.unwrap_err();

    server.restart();
    let begun = Instant::now();
    while let Err(e) = connector.close().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "{e}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let back = connectors::open(&server.url("redis")).await.unwrap();
    for n in 0..20 {
        assert_eq!(back.get(&key(n)).await.unwrap().unwrap()[0], n as u8);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_that_is_full_for_a_time_gets_every_chunk() {
    let server = RedisServer::start(&["--maxmemory", "6mb", "--maxmemory-policy", "noeviction"]);
    let connector = open(&server, "").await.unwrap();
    for n in 0..9 {
        connector.put(&key(n), MemoryObj::from(vec![n as u8; 1 << 20])).await.unwrap();
    }
    let e = connector.close().await.unwrap_err();
    assert!(e.kind() == ErrorKind::StoreFull && e.to_string().contains("the back store lacks"), "{e}");
    server.cli(&["CONFIG", "SET", "maxmemory", "100mb"]);
    connector.close().await.unwrap();
    let back = connectors::open(&server.url("redis")).await.unwrap();
    for n in 0..9 {
        assert_eq!(back.get(&key(n)).await.unwrap().unwrap()[0], n as u8);
    }
}

/// An allocator that waits until chunks were dropped, as LMCache's does.
#[derive(Clone)]
struct Waiting(PoolAllocator);

impl ChunkAllocator for Waiting {
    fn allocate<'a>(&'a self, layout: &'a ChunkLayout) -> BoxFuture<'a, Result<MemoryObjMut>> {
        let one = self.allocate_many(std::slice::from_ref(layout));
        one.map(|all| all?.pop().ok_or_else(Error::closed)).boxed()
    }

    fn allocate_many<'a>(&'a self, layouts: &'a [ChunkLayout]) -> BoxFuture<'a, Result<Vec<MemoryObjMut>>> {
        async move {
            loop {
                match self.0.allocate_many(layouts).await {
                    Err(e) if e.kind() == ErrorKind::PoolFull => tokio::time::sleep(Duration::from_millis(2)).await,
                    other => return other,
                }
            }
        }
        .boxed()
    }

    fn fitting(&self, layouts: &[ChunkLayout]) -> usize {
        self.0.fitting(layouts)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_find_one_half_in_each_store_do_not_wait_for_each_others_memory() {
    const CHUNK: usize = 64 << 10;
    let (dir, back) = (tempfile::tempdir().unwrap(), RedisServer::start(&[]));
    let front = format!("fs://{}", dir.path().display());
    let encoded = |url: &str| url.replace(':', "%3A").replace('/', "%2F");
    let url = format!("tiered://?front={}&back={}", encoded(&front), encoded(&back.url("redis")));
    let group = LayerGroup { kv_size: 2, num_layers: 1, hidden_dim: 256, dtype: Dtype::Bfloat16 };
    let metadata = LMCacheMetadata::new("facebook/opt-125m", 1, 0, CHUNK >> 10, &[group]).unwrap();
    let memory = PoolAllocator::new(10 * CHUNK);
    let builder = connectors::builder(&url).metadata(metadata);
    let store =
        builder.local_cpu_backend(LocalCpuBackend::with_allocator(Waiting(memory.clone()))).open().await.unwrap();
    let near = connectors::open(&front).await.unwrap();
    let chunk = |n: u32, tokens: usize| {
        let shape = Shape::new(&[2, 1, tokens, 256]).unwrap();
        let layout = ChunkLayout::new(MemoryFormat::Kv2ltd, shape, Dtype::Bfloat16).unwrap();
        MemoryObj::from_vec(vec![n as u8; layout.len], layout).unwrap()
    };
    // The last chunk of each batch is shorter.
    let tokens = |n: u32| if n % 8 == 7 { 5 } else { CHUNK >> 10 };
    let batches: [Vec<u32>; 2] = [(0..8).collect(), (8..16).collect()];
    for n in batches.iter().flatten() {
        store.put(&key(*n), chunk(*n, tokens(*n))).await.unwrap();
    }
    for round in 0..40 {
        let far: Vec<CacheKey> = batches.iter().flatten().filter(|n| *n % 2 == round % 2).map(|n| key(*n)).collect();
        assert!(near.batched_remove(&far).await.iter().all(Result::is_ok));
        let read = |numbers: &[u32]| {
            let (store, numbers) = (store.clone(), numbers.to_vec());
            tokio::spawn(async move {
                let keys: Vec<CacheKey> = numbers.iter().map(|n| key(*n)).collect();
                let answers = store.batched_get(&keys).await;
                for (n, answer) in numbers.into_iter().zip(answers) {
                    assert_eq!(answer.unwrap().unwrap(), chunk(n, tokens(n)), "round {round}");
                }
            })
        };
        let both = join(read(&batches[0]), read(&batches[1]));
        let (a, b) = tokio::time::timeout(Duration::from_secs(60), both).await.expect("the batches end");
        a.unwrap();
        b.unwrap();
    }
    store.close().await.unwrap();
    assert_eq!(memory.stats().in_use, 0);
}
