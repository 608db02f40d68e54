//! What is linked into this binary, and how a name finds it.
//!
//! `#[external_connector]` puts one [`ConnectorEntry`] into a list that the linker gathers; nothing runs before `main`,
//! nothing is loaded at run time. The first lookup builds an [`Index`] of it.
//!
//! A crate is linked only if live code names it: `use acme_kv as _;` is enough. Two entries of one name, or two claims to
//! one scheme, never pick a winner in silence: lookups of that name are an error that names both places, and
//! [`validate`] finds them all in a one-line test:
//!
//! ```
//! # fn main() -> connector_core::Result<()> {
//! connector_core::registry::validate()?;
//! # Ok(())
//! # }
//! ```

mod entry;
mod index;
mod slices;
mod suggest;

use std::sync::LazyLock;

pub use entry::{AdapterEntry, ConnectorEntry, ConnectorHint, Origin};
pub use index::{Index, SchemeOwner};
#[doc(hidden)]
pub use slices::{KVCONN_ADAPTER_ENTRIES_0_1, KVCONN_CONNECTOR_ENTRIES_0_1, KVCONN_CONNECTOR_HINTS_0_1};
pub(crate) use suggest::did_you_mean;
pub use suggest::nearest;

use crate::Result;

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    Index::new(&KVCONN_CONNECTOR_ENTRIES_0_1, &KVCONN_ADAPTER_ENTRIES_0_1, &KVCONN_CONNECTOR_HINTS_0_1)
});

/// The index of everything linked into this binary, built at the first use.
pub fn index() -> &'static Index {
    &INDEX
}

/// All linked connectors, sorted by module and name.
pub fn connectors() -> &'static [&'static ConnectorEntry] {
    index().connectors()
}

/// All linked adapters that crates registered for schemes of their own, sorted by scheme.
pub fn adapters() -> &'static [&'static AdapterEntry] {
    index().adapters()
}

/// Checks that no name and no scheme is claimed twice in this binary, and that no connector has an option of a name that
/// its [layers](crate::layer) have.
///
/// # Errors
/// `Conflict`, naming every such claim with its file, line, package and version.
pub fn validate() -> Result<()> {
    index().validate()
}

/// The connector of this module and name.
///
/// # Errors
/// `NotFound` with the nearest name, what is linked, and, for one that was compiled out, the feature to enable;
/// `Conflict` if two places claim the name.
pub fn find(module: &str, name: &str) -> Result<&'static ConnectorEntry> {
    index().find(module, name)
}
