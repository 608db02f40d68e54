//! A store under test, and chunks that reveal whether they are whole.

use std::future::Future;
use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, ErrorKind, LocalCpuBackend, MemoryObj, PoolAllocator, Result};
use kvconn_redis_server::RedisServer;
use tokio::time::timeout;

/// Longer than every timeout here, even on a busy machine.
const SOON: Duration = Duration::from_secs(120);

/// The facts about a store that a fault needs.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// The scheme of its URL.
    pub(crate) scheme: &'static str,
    /// The name of a chunk's bytes on the server.
    pub(crate) value_key: fn(&CacheKey) -> String,
}

/// Ends a test that hangs.
pub(crate) async fn within(test: impl Future<Output = ()>) {
    timeout(SOON, test).await.expect("nothing hangs");
}

/// A connector with a separate pool.
pub(crate) struct Store {
    pub(crate) connector: Connector,
    pool: PoolAllocator,
}

impl Store {
    pub(crate) async fn try_open(url: &str) -> Result<Self> {
        let pool = PoolAllocator::new(256 << 20);
        let backend = LocalCpuBackend::with_allocator(pool.clone());
        let connector = connectors::builder(url).local_cpu_backend(backend).open().await?;
        Ok(Self { connector, pool })
    }

    pub(crate) async fn open(url: &str) -> Self {
        Self::try_open(url).await.unwrap_or_else(|e| panic!("the store opens: {e}"))
    }

    pub(crate) async fn put(&self, n: u64, version: u64, len: usize) -> Result<()> {
        self.connector.put(&key(n), chunk(n, version, len)).await
    }

    /// The stored version.
    ///
    /// # Panics
    /// If the chunk is not this key's, or not whole.
    pub(crate) async fn get(&self, n: u64) -> Result<Option<u64>> {
        Ok(self.connector.get(&key(n)).await?.map(|chunk| version(n, &chunk)))
    }

    pub(crate) async fn batched_get(&self, numbers: &[u64]) -> Vec<Result<Option<u64>>> {
        let keys: Vec<_> = numbers.iter().map(|&n| key(n)).collect();
        let answers = self.connector.batched_get(&keys).await;
        assert_eq!(answers.len(), numbers.len());
        let checked = |(&n, answer): (&u64, Result<Option<MemoryObj>>)| Ok(answer?.map(|chunk| version(n, &chunk)));
        numbers.iter().zip(answers).map(checked).collect()
    }

    /// Every operation succeeds, several times, so that each connection takes part.
    #[track_caller]
    pub(crate) fn is_right(&self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let right = async {
                for n in 9_000..9_012 {
                    self.put(n, 1, 100_000).await?;
                    assert_eq!(self.get(n).await?, Some(1), "{caller}");
                    assert!(self.connector.exists(&key(n)).await?, "{caller}");
                    assert_eq!(self.get(n + 100).await?, None, "{caller}");
                    assert!(self.connector.remove(&key(n)).await?, "{caller}");
                }
                Ok::<_, connectors::Error>(())
            };
            right.await.unwrap_or_else(|e| panic!("{caller}: {e:?}"));
        }
    }

    /// The server answers again. kvconn tries to connect a few times a second.
    pub(crate) async fn is_back(&self) {
        until("the store is back", async || self.connector.ping().await.is_ok()).await;
    }

    /// All memory returns to the pool, at the latest when dropped work has ended.
    pub(crate) async fn leaks_nothing(&self) {
        until("the memory comes back", async || self.pool.stats().in_use == 0).await;
    }
}

/// The server has no more connections than the URL allows: `connections` for chunks, four for the rest, and the test's
/// own.
pub(crate) async fn connections_are_at_most(server: &RedisServer, connections: usize) {
    until("the server sees that connections were closed", async || {
        let list = server.cli(&["CLIENT", "LIST"]);
        list.bytes().expect("a text").split(|&b| b == b'\n').filter(|line| !line.is_empty()).count() <= connections + 5
    })
    .await;
}

/// # Panics
/// If it is not true after a minute.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The call failed because the server is gone or silent.
#[track_caller]
pub(crate) fn is_lost<T: std::fmt::Debug>(answer: Result<T>) {
    let e = answer.expect_err("the server is gone");
    assert!(matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{:?}: {e}", e.kind());
    assert!(e.is_temporary(), "a retry may help: {e}");
}

pub(crate) fn key(n: u64) -> CacheKey {
    format!("faults@1@0@{n:x}@bfloat16").parse().expect("a valid key")
}

/// Bytes that name their key, version and length, and that differ from every other chunk's at each offset.
pub(crate) fn chunk(n: u64, version: u64, len: usize) -> MemoryObj {
    MemoryObj::from(content(n, version, len))
}

fn content(n: u64, version: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(n.rotate_left(32) ^ version ^ ((len as u64) << 16));
    let mut block = [n, version, len as u64].map(u64::to_le_bytes).concat();
    // A prime length, so that a missing or doubled piece shifts the rest visibly.
    block.resize_with(1021, || random.u8(..));
    let mut bytes = block.repeat(len.div_ceil(block.len()));
    bytes.truncate(len);
    bytes
}

#[track_caller]
fn version(n: u64, bytes: &[u8]) -> u64 {
    let word = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().expect("eight bytes"));
    let (of, version, len) = (word(0), word(1), word(2));
    assert!((of, len) == (n, bytes.len() as u64), "{} bytes of key {n} say that they are {len} of {of}", bytes.len());
    assert!(content(n, version, bytes.len()) == bytes, "the chunk of key {n} is torn");
    version
}
