//! A connector with a separate pool, whose chunks are checked.

use connectors::{Connector, LocalCpuBackend, MemoryObj, PoolAllocator, Result};

use crate::checked::{chunk, key, until, version};

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

    /// All memory returns to the pool, at the latest when dropped work has ended.
    pub(crate) async fn leaks_nothing(&self) {
        until("the memory comes back", async || self.pool.stats().in_use == 0).await;
    }
}
