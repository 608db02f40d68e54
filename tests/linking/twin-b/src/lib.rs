//! Claims a name and a scheme that `twin-a` claims, too.
#![forbid(unsafe_code)]

use connector_core::{CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector};

/// Forgets everything.
#[external_connector(module = "twin.kv", name = "TwinConnector")]
pub struct TwinConnector;

impl FromContext for TwinConnector {
    async fn from_context(_ctx: ConnectorContext) -> Result<Self> {
        Ok(TwinConnector)
    }
}

impl RemoteConnector for TwinConnector {
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

/// Forgets everything.
#[external_connector(module = "right.kv", name = "RightConnector", scheme = "twin")]
pub struct RightConnector;

impl FromContext for RightConnector {
    async fn from_context(_ctx: ConnectorContext) -> Result<Self> {
        Ok(RightConnector)
    }
}

impl RemoteConnector for RightConnector {
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
