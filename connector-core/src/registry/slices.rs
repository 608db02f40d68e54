//! The lists that the linker gathers. Their names are global to the binary.
#![expect(unsafe_code, reason = "linkme places statics in link sections")]

use super::{AdapterEntry, ConnectorEntry, ConnectorHint};
use crate::observe::{self, MetricList};

/// The list that `#[external_connector]` adds to. The name carries this crate's version, because an entry's layout may
/// change with it: two versions in one binary each see their own entries.
#[linkme::distributed_slice]
#[doc(hidden)]
pub static KVCONN_CONNECTOR_ENTRIES_0_1: [ConnectorEntry];

/// The list that `#[connector_adapter]` adds to.
#[linkme::distributed_slice]
#[doc(hidden)]
pub static KVCONN_ADAPTER_ENTRIES_0_1: [AdapterEntry];

/// The connectors that a crate has, but that were compiled out.
#[linkme::distributed_slice]
#[doc(hidden)]
pub static KVCONN_CONNECTOR_HINTS_0_1: [ConnectorHint];

/// The lists of metrics.
#[linkme::distributed_slice]
#[doc(hidden)]
pub static KVCONN_METRIC_LISTS_0_1: [MetricList];

// One sentinel in each list: at least one linker crashes on an empty one. The index leaves them out.
#[linkme::distributed_slice(KVCONN_CONNECTOR_ENTRIES_0_1)]
static SENTINEL_CONNECTOR: ConnectorEntry = ConnectorEntry::SENTINEL;
#[linkme::distributed_slice(KVCONN_ADAPTER_ENTRIES_0_1)]
static SENTINEL_ADAPTER: AdapterEntry = AdapterEntry::SENTINEL;
#[linkme::distributed_slice(KVCONN_CONNECTOR_HINTS_0_1)]
static SENTINEL_HINT: ConnectorHint = ConnectorHint::SENTINEL;
#[linkme::distributed_slice(KVCONN_METRIC_LISTS_0_1)]
static METRICS_OF_EVERY_CONNECTOR: MetricList = observe::METRICS;

#[cfg(test)]
mod tests {
    #[test]
    fn the_lists_names_carry_the_crates_version() {
        let suffix = concat!("_", env!("CARGO_PKG_VERSION_MAJOR"), "_", env!("CARGO_PKG_VERSION_MINOR"));
        let declared = include_str!("slices.rs").lines().filter_map(|line| line.strip_prefix("pub static "));
        let names: Vec<&str> = declared.filter_map(|line| line.split(':').next()).collect();
        assert_eq!(names.len(), 4);
        assert!(names.iter().all(|name| name.ends_with(suffix)), "rename {names:?}: they end with {suffix}");
    }
}
