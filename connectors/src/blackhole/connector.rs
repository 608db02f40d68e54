use connector_core::{
    BoxStream, CacheKey, Capabilities, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result,
    external_connector,
};
use futures::stream::{self, StreamExt};

use super::BlackholeOptions;

/// Stores nothing: puts succeed, and every key is a miss.
///
/// URL: `blackhole://`.
#[external_connector(
    module = "kvconn.blackhole",
    name = "BlackholeConnector",
    scheme = "blackhole",
    url = "blackhole://",
    url = "blackhole://host:0",
    options = BlackholeOptions
)]
pub struct BlackholeConnector;

impl FromContext for BlackholeConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        ctx.options::<BlackholeOptions>()?;
        Ok(Self)
    }
}

impl RemoteConnector for BlackholeConnector {
    async fn exists(&self, _key: &CacheKey) -> Result<bool> {
        Ok(false)
    }

    async fn get(&self, _key: &CacheKey) -> Result<Option<MemoryObj>> {
        Ok(None)
    }

    async fn put(&self, _key: &CacheKey, _chunk: MemoryObj) -> Result<()> {
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_remove().with_list().with_ping()
    }

    async fn remove(&self, _key: &CacheKey) -> Result<bool> {
        Ok(false)
    }

    fn list<'a>(&'a self, _prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        stream::empty().boxed()
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}
