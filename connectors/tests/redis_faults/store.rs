//! A store under test.

use std::future::Future;

use connectors::{CacheKey, Connector, LocalCpuBackend, MemoryObj, PoolAllocator, Result};
use kvconn_redis_server::RedisServer;

use crate::checked::version;
pub(crate) use crate::checked::{chunk, is_lost, key, until, within};

/// The facts about a store that a fault needs.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// The scheme of its URL.
    pub(crate) scheme: &'static str,
    /// The name of a chunk's bytes on the server.
    pub(crate) value_key: fn(&CacheKey) -> String,
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
