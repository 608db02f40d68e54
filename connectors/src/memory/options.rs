use connector_core::{ConnectorOptions, Namespace, connector_options};

/// Options of `memory://`.
#[connector_options]
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct MemoryOptions {
    /// The largest size of all chunks. The default is 1073741824 (1 GiB), or the capacity of a store that is
    /// open.
    #[option(unit = "bytes")]
    pub capacity: Option<u64>,
    /// The part of the store to use. Each namespace of a name has its own chunks and its own capacity.
    pub namespace: Option<Namespace>,
}

impl MemoryOptions {
    /// The default capacity of a new store, in bytes.
    pub const DEFAULT_CAPACITY: u64 = 1 << 30;
}

impl ConnectorOptions for MemoryOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "memory_connector_";
}
