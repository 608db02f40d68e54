use core_renamed::{CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector};

/// Forgets everything.
#[external_connector(module = "renamed.kv", crate = ::core_renamed)]
pub struct RenamedConnector;

impl FromContext for RenamedConnector {
    async fn from_context(_ctx: ConnectorContext) -> Result<Self> {
        Ok(RenamedConnector)
    }
}

impl RemoteConnector for RenamedConnector {
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
    probe::run(core_renamed::open);
}
