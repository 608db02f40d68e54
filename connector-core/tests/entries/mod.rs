//! An index of any number of invented connectors, and a connector that answers at once.

use connector_core::__private::Index;
use connector_core::registry::{ConnectorEntry, Origin};
use connector_core::{CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result};

/// Gives its chunk at once, so that a benchmark measures only the cost of the call.
#[derive(Clone)]
pub(crate) struct Ready(pub(crate) MemoryObj);

impl FromContext for Ready {
    async fn from_context(_: ConnectorContext) -> Result<Self> {
        Ok(Self(MemoryObj::from(vec![7; 64])))
    }
}

impl RemoteConnector for Ready {
    async fn exists(&self, _: &CacheKey) -> Result<bool> {
        Ok(true)
    }
    async fn get(&self, _: &CacheKey) -> Result<Option<MemoryObj>> {
        Ok(Some(self.0.clone()))
    }
    async fn put(&self, _: &CacheKey, _: MemoryObj) -> Result<()> {
        Ok(())
    }
}

/// Module and name of invented connector `i`.
#[allow(dead_code, reason = "each of the binaries that include this file uses another part of it")]
pub(crate) fn name_of(i: usize) -> (String, String) {
    (format!("company{}.stores.kv{i}", i % 97), format!("Connector{i}"))
}

/// An index of `n` invented connectors.
#[allow(dead_code, reason = "each of the binaries that include this file uses another part of it")]
pub(crate) fn index_of(n: usize) -> Index {
    let entries: Vec<ConnectorEntry> = (0..n)
        .map(|i| {
            let (module, name) = name_of(i);
            let origin = Origin::new(Some("made-up"), Some("1.0.0"), file!(), i as u32, 1);
            ConnectorEntry::new::<Ready>(module.leak(), name.leak(), &[], "", origin)
        })
        .collect();
    Index::new(entries.leak(), &[], &[])
}
