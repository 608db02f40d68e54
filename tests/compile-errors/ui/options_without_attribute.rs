use connector_core::{
    CacheKey, ConnectorContext, ConnectorOptions, FromContext, MemoryObj, RemoteConnector, Result, external_connector,
};

#[derive(Default)]
struct AcmeOptions {
    connections: usize,
}

impl ConnectorOptions for AcmeOptions {}

#[external_connector(module = "acme.kv", options = AcmeOptions)]
struct Acme;

impl FromContext for Acme {
    async fn from_context(_ctx: ConnectorContext) -> Result<Self> {
        Ok(Acme)
    }
}

impl RemoteConnector for Acme {
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

fn main() {}
