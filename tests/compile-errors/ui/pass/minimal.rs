//! The least that an author must write.
#![forbid(unsafe_code)]

use connector_core::{CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector};

/// Forgets everything.
///
/// Quickly.
#[external_connector(module = "acme.kv", name = "AcmeConnector")]
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
    let entry = connector_core::registry::find("acme.kv", "AcmeConnector").unwrap();
    assert_eq!((entry.module(), entry.name(), entry.summary()), ("acme.kv", "AcmeConnector", "Forgets everything."));
    assert_eq!(entry.doc(), "Forgets everything.\n\nQuickly.");
    assert!(entry.schemes().is_empty() && entry.options().is_none());
    let origin = entry.origin();
    assert!(origin.file.ends_with("minimal.rs") && origin.line == 9, "{origin}");
    connector_core::registry::validate().unwrap();
}
