//! The attribute keeps the struct's derives, visibility, fields and other attributes.
#![deny(missing_docs, unreachable_pub, warnings)]

use connector_core::{CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector};

#[derive(Debug, Clone, PartialEq)]
#[external_connector(module = "acme.kv")]
/// The doc comment may stand below the attribute.
#[must_use]
pub(crate) struct Acme {
    /// A field with a comment of its own.
    pub(crate) connections: usize,
}

impl FromContext for Acme {
    async fn from_context(_ctx: ConnectorContext) -> Result<Self> {
        Ok(Acme { connections: 8 })
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
    let acme = Acme { connections: 8 };
    assert_eq!(acme.clone(), acme);
    let entry = connector_core::registry::find("acme.kv", "Acme").unwrap();
    assert_eq!(entry.doc(), "The doc comment may stand below the attribute.");
}
