//! The lists that the linker gathers. Their names are global to the binary.
#![expect(unsafe_code, reason = "linkme places statics in link sections")]

use super::{AdapterEntry, ConnectorEntry, ConnectorHint};

/// The list that `#[external_connector]` adds to. The name is global to the binary and carries the version of the
/// entry's layout: two versions of this crate in one binary each see their own entries.
#[doc(hidden)]
#[linkme::distributed_slice]
pub static KVCONN_CONNECTOR_ENTRIES_0_1: [ConnectorEntry];

/// The list that `#[connector_adapter]` adds to.
#[doc(hidden)]
#[linkme::distributed_slice]
pub static KVCONN_ADAPTER_ENTRIES_0_1: [AdapterEntry];

/// The list of connectors that a crate has, but that were compiled out.
#[doc(hidden)]
#[linkme::distributed_slice]
pub static KVCONN_CONNECTOR_HINTS_0_1: [ConnectorHint];

// One sentinel in each list: at least one linker crashes on an empty one. The index leaves them out.
#[linkme::distributed_slice(KVCONN_CONNECTOR_ENTRIES_0_1)]
static SENTINEL_CONNECTOR: ConnectorEntry = ConnectorEntry::sentinel();
#[linkme::distributed_slice(KVCONN_ADAPTER_ENTRIES_0_1)]
static SENTINEL_ADAPTER: AdapterEntry = AdapterEntry::sentinel();
#[linkme::distributed_slice(KVCONN_CONNECTOR_HINTS_0_1)]
static SENTINEL_HINT: ConnectorHint = ConnectorHint::sentinel();
