use connector_core::ConnectorOptions;
use schemars::JsonSchema;
use serde::Deserialize;

/// Options of `memory://`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MemoryOptions {
    /// Most bytes of chunks; 1073741824 (1 GiB) unless the store is open already, which keeps its own.
    pub capacity: Option<u64>,
}

impl MemoryOptions {
    /// The capacity of a new store, in bytes, if nothing sets it.
    pub const DEFAULT_CAPACITY: u64 = 1 << 30;
}

impl ConnectorOptions for MemoryOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "memory_connector_";
}
