use connector_core::{CacheKey, MemoryObj, RemoteConnector, Result, external_connector};

#[external_connector(module = "acme.kv")]
struct Acme;

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
