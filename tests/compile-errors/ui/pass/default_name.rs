use connector_core::{CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector};

#[external_connector(module = "acme.kv")]
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

fn main() {
    assert_eq!(connector_core::registry::find("acme.kv", "Acme").unwrap().full_name(), "acme.kv/Acme");
}
