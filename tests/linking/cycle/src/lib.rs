//! A connector whose tests use a helper crate that depends on it. So a unit test links this crate twice: as the crate under
//! test, and as a dependency of the helper.
#![forbid(unsafe_code)]

use connector_core::{CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector};

/// Forgets everything.
#[external_connector(module = "cycle.kv", scheme = "cycle")]
pub struct CycleConnector;

impl FromContext for CycleConnector {
    async fn from_context(_ctx: ConnectorContext) -> Result<Self> {
        Ok(CycleConnector)
    }
}

impl RemoteConnector for CycleConnector {
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

#[cfg(test)]
mod tests {
    use connector_core::__private::CONNECTORS as ENTRIES;

    #[test]
    fn an_entry_that_is_linked_twice_counts_once() {
        assert!(cycle_helper::opens("cycle://localhost:0"));
        let linked = ENTRIES.iter().filter(|e| e.module() == "cycle.kv").count();
        assert_eq!(linked, 2, "without two entries this test has tested nothing");
        assert_eq!(connector_core::registry::connectors().len(), 1);
        connector_core::registry::validate().expect("one place is not a conflict");
    }
}
