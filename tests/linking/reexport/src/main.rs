use connectors::{CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result};

/// Forgets everything.
#[connectors::external_connector(module = "reexport.kv", crate = ::connectors)]
pub struct ReexportConnector;

impl FromContext for ReexportConnector {
    async fn from_context(_ctx: ConnectorContext) -> Result<Self> {
        Ok(ReexportConnector)
    }
}

impl RemoteConnector for ReexportConnector {
    async fn exists(&self, _key: &CacheKey) -> Result<bool> {
        Ok(false)
    }

    async fn get(&self, _key: &CacheKey) -> Result<Option<MemoryObj>> {
        Ok(None)
    }

    async fn put(&self, _key: &CacheKey, _chunk: MemoryObj) -> Result<()> {
        Ok(())
    }
}

fn main() {
    probe::run(connectors::open);
}
