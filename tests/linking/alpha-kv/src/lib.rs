//! A connector in another author's crate.
#![forbid(unsafe_code)]

use connector_core::{CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector};

/// Forgets everything.
#[external_connector(module = "alpha.kv", name = "AlphaConnector", scheme = "alpha")]
pub struct AlphaConnector;

impl FromContext for AlphaConnector {
    async fn from_context(_ctx: ConnectorContext) -> Result<Self> {
        Ok(AlphaConnector)
    }
}

impl RemoteConnector for AlphaConnector {
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
    #[test]
    fn a_unit_test_sees_the_entry_of_its_own_crate() {
        let names: Vec<_> = connector_core::registry::connectors().iter().map(|e| e.full_name()).collect();
        assert_eq!(names, ["alpha.kv/AlphaConnector"]);
        connector_core::registry::validate().expect("no conflict");
    }
}
