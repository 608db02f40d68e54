use std::time::Duration;

use connector_core::{
    BoxStream, CacheKey, Capabilities, ConnectorContext, FromContext, ListEntry, LocalCpuBackend, MemoryObj,
    MemoryObjMut, RemoteConnector, Result, external_connector,
};
use futures::stream::{self, StreamExt};

use super::MockOptions;
use super::bandwidth::Bandwidth;
use crate::lru_chunks::LruChunks;

/// A store in memory that is as slow as a remote store, for measurements without one.
///
/// URL: `mock://GIGABYTES`.
///
/// Calls that move no chunk take a fixed latency. Reads have one throughput, writes another, on tokio's clock. The
/// chunks are real, and are lost with the connector. A full store evicts the least recently used chunk.
#[external_connector(
    module = "kvconn.mock",
    name = "MockConnector",
    scheme = "mock",
    url = "mock://100/?peeking_latency=1",
    options = MockOptions
)]
pub struct MockConnector {
    chunks: LruChunks,
    backend: LocalCpuBackend,
    latency: Duration,
    reads: Bandwidth,
    writes: Bandwidth,
}

impl FromContext for MockConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: MockOptions = ctx.options()?;
        let bandwidth = |name, throughput| MockOptions::seconds_per_byte(name, throughput).map(Bandwidth::new);
        Ok(Self {
            chunks: LruChunks::new(options.capacity_bytes(&ctx)?),
            backend: ctx.local_cpu_backend().clone(),
            latency: options.latency()?,
            reads: bandwidth("read_throughput", options.read_throughput)?,
            writes: bandwidth("write_throughput", options.write_throughput)?,
        })
    }
}

impl MockConnector {
    /// One round trip without a chunk.
    async fn peek(&self) {
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
    }
}

impl RemoteConnector for MockConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.peek().await;
        Ok(self.chunks.contains(key))
    }

    /// Copies into pool memory, as a store does that reads from a socket.
    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let Some(chunk) = self.chunks.get(key) else { return Ok(None) };
        let mut memory = self.backend.allocate(chunk.layout()).await?;
        self.reads.transfer(chunk.len()).await;
        memory.copy_from_slice(&chunk);
        Ok(Some(memory.freeze()))
    }

    /// Stores the chunk after the transfer: a cancelled put leaves the old chunk.
    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.chunks.check(&chunk)?;
        self.writes.transfer(chunk.len()).await;
        self.chunks.put(key, &chunk)
    }

    fn capabilities(&self) -> Capabilities {
        let all = Capabilities::new().with_remove().with_list().with_ping().with_layout_kept();
        all.with_max_chunk_bytes(self.chunks.capacity())
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let Some(chunk) = self.chunks.get(key) else { return Ok(None) };
        dst.set_layout(chunk.layout().clone())?;
        self.reads.transfer(chunk.len()).await;
        dst.copy_from_slice(&chunk);
        Ok(Some(chunk.len()))
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        self.peek().await;
        Ok(self.chunks.remove(key))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        let keys = async move {
            self.peek().await;
            stream::iter(self.chunks.keys(prefix)).map(Ok)
        };
        stream::once(keys).flatten().boxed()
    }

    fn list_entries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        let entries = async move {
            self.peek().await;
            stream::iter(self.chunks.entries(prefix)).map(Ok)
        };
        stream::once(entries).flatten().boxed()
    }

    async fn ping(&self) -> Result<()> {
        self.peek().await;
        Ok(())
    }

    /// Reserves the memory of all chunks at once: two batches that each hold a part would wait for each other.
    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let chunks: Vec<_> = keys.iter().map(|key| self.chunks.get(key)).collect();
        let layouts: Vec<_> = chunks.iter().flatten().map(|chunk| chunk.layout().clone()).collect();
        let mut memory = self.backend.reserve(&layouts).await.into_iter();
        let reads = chunks.into_iter().map(|chunk| (chunk.as_ref().and_then(|_| memory.next()), chunk));
        let read = |(memory, chunk): (Option<Result<MemoryObjMut>>, Option<MemoryObj>)| async move {
            let (Some(mut memory), Some(chunk)) = (memory.transpose()?, chunk) else { return Ok(None) };
            self.reads.transfer(chunk.len()).await;
            memory.copy_from_slice(&chunk);
            Ok(Some(memory.freeze()))
        };
        stream::iter(reads.map(read)).buffered(self.capabilities().batch_concurrency).collect().await
    }

    /// One round trip for all keys.
    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.peek().await;
        keys.iter().map(|key| Ok(self.chunks.contains(key))).collect()
    }

    /// One round trip, as in [`batched_exists`](RemoteConnector::batched_exists).
    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        self.peek().await;
        Ok(self.chunks.leading_run(keys))
    }

    /// One round trip, as in [`batched_exists`](RemoteConnector::batched_exists).
    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.peek().await;
        keys.iter().map(|key| Ok(self.chunks.remove(key))).collect()
    }
}
