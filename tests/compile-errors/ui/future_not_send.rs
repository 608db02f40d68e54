use std::rc::Rc;

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

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let misses = Rc::new(1);
        self.exists(key).await?;
        assert_eq!(*misses, 1);
        Ok(None)
    }

    async fn put(&self, _key: &CacheKey, _chunk: MemoryObj) -> Result<()> {
        Ok(())
    }
}

fn main() {}
