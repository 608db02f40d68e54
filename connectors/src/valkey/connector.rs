use connector_core::{
    BoxStream, CacheKey, Capabilities, ConnectorContext, Diagnosis, FromContext, ListEntry, MemoryObj, MemoryObjMut,
    RemoteConnector, Result, ServerInfo, external_connector,
};

use super::ValkeyOptions;
use crate::resp::RESPConnector;

/// Chunks on a valkey or redis server, one plain value each, as LMCache's `valkey://` keeps them.
///
/// URLs: `valkey://[USER:PASSWORD@]HOST:PORT[/DATABASE]`, `valkey://[USER:PASSWORD@]HOST:PORT,HOST:PORT?cluster=true`.
/// `valkeys` in place of `valkey` means TLS.
///
/// The store is `kvconn.resp` with LMCache's option names for valkey.
#[external_connector(
    module = "kvconn.valkey",
    name = "ValkeyConnector",
    scheme = "valkey",
    scheme = "valkeys",
    url = "valkey://user:password@host:6379/0",
    url = "valkeys://user:password@host:6379/0",
    url = "valkey://user:password@host:7000,host:7001/0?cluster=true",
    url = "valkeys://user:password@host:7000,host:7001/0?cluster=true",
    options = ValkeyOptions
)]
pub struct ValkeyConnector(RESPConnector);

impl FromContext for ValkeyConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: ValkeyOptions = ctx.options()?;
        RESPConnector::open(options.plain()?, &ctx).await.map(Self)
    }
}

#[deny(clippy::missing_trait_methods, reason = "a missing method would bypass the store's own")]
impl RemoteConnector for ValkeyConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.0.exists(key).await
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        self.0.get(key).await
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.0.put(key, chunk).await
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        self.0.get_into(key, dst).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        self.0.remove(key).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        self.0.list(prefix)
    }

    fn list_entries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        self.0.list_entries(prefix)
    }

    async fn ping(&self) -> Result<()> {
        self.0.ping().await
    }

    async fn servers(&self) -> Result<Vec<ServerInfo>> {
        self.0.servers().await
    }

    async fn diagnose(&self) -> Result<Vec<Diagnosis>> {
        self.0.diagnose().await
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }

    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.0.batched_exists(keys).await
    }

    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        self.0.batched_contains(keys).await
    }

    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        self.0.batched_get(keys).await
    }

    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        self.0.batched_get_into(requests).await
    }

    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        self.0.batched_put(items).await
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.0.batched_remove(keys).await
    }

    async fn get_prefix(&self, keys: &[CacheKey]) -> Result<Vec<MemoryObj>> {
        self.0.get_prefix(keys).await
    }
}
