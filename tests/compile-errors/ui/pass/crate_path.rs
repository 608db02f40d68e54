//! `crate` takes any path that leads to `connector-core`, even a path in this crate.

mod vendored {
    pub use connector_core as core;
}

use vendored::core::{
    CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector, registry,
};

#[external_connector(crate = crate::vendored::core, module = "acme.kv")]
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
    assert_eq!(registry::find("acme.kv", "Acme").unwrap().name(), "Acme");
}
