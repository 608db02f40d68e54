use std::sync::Arc;

use connector_core::{
    BoxStream, CacheKey, Capabilities, ConnectorContext, FromContext, ListEntry, MemoryObj, RemoteConnector, Result,
    external_connector,
};
use futures::stream::{self, StreamExt};

use super::MemoryOptions;
use super::store;
use crate::lru_chunks::LruChunks;

/// Chunks in this process's memory.
///
/// URL: `memory://NAME`.
///
/// All connectors of a process that are opened with the same name share one store. A full store evicts the least
/// recently used chunk. The chunks are lost when the last of these connectors is dropped.
#[external_connector(
    module = "kvconn.memory",
    name = "MemoryConnector",
    scheme = "memory",
    url = "memory://name",
    options = MemoryOptions
)]
pub struct MemoryConnector {
    store: Arc<LruChunks>,
}

impl FromContext for MemoryConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: MemoryOptions = ctx.options()?;
        // The URL `plugin://name` has no host: the plugin's name is the store's name.
        let location = ctx.location();
        let plugin = ctx.plugin_name().filter(|_| location.scheme().is_none());
        let name = location.host().or(plugin);
        Ok(Self { store: store::open(name, options)? })
    }
}

impl RemoteConnector for MemoryConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        Ok(self.store.contains(key))
    }

    /// Gives out the stored memory without a copy.
    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        Ok(self.store.get(key))
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.store.put(key, &chunk)
    }

    fn capabilities(&self) -> Capabilities {
        let all = Capabilities::new().with_remove().with_list().with_ping().with_layout_kept();
        all.with_max_chunk_bytes(self.store.capacity())
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        Ok(self.store.remove(key))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        stream::iter(self.store.keys(prefix)).map(Ok).boxed()
    }

    fn list_entries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        stream::iter(self.store.entries(prefix)).map(Ok).boxed()
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    /// Under one lock.
    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        Ok(self.store.leading_run(keys))
    }
}
