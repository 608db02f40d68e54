use connector_core::ConnectorOptions;
use schemars::JsonSchema;
use serde::Deserialize;

/// Options of `memory://`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MemoryOptions {
    /// The largest number of bytes of chunks. The default is 1073741824 (1 GiB), or the capacity of a store that is
    /// open.
    pub capacity: Option<u64>,
}

impl MemoryOptions {
    /// The default capacity of a new store, in bytes.
    pub const DEFAULT_CAPACITY: u64 = 1 << 30;
}

impl ConnectorOptions for MemoryOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "memory_connector_";
}
