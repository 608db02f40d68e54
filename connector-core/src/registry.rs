//! The connectors that are linked into this binary, and lookup by name.
//!
//! `#[external_connector]` puts one [`ConnectorEntry`] into a list that the linker gathers. No code runs before `main`, and
//! kvconn loads nothing at run time. The first lookup builds an index of the list.
//!
//! A crate is linked only if live code names it: `use acme_kv as _;` is enough. If two entries have one name, or two
//! claims one scheme, each lookup of it is an error that names both places. [`validate`] finds all of them in a one-line
//! test:
//!
//! ```
//! # fn main() -> connector_core::Result<()> {
//! connector_core::registry::validate()?;
//! # Ok(())
//! # }
//! ```

mod entry;
mod form;
mod index;
mod slices;
mod suggest;

#[doc(hidden)]
pub use entry::ConnectorHint;
pub use entry::{AdapterEntry, ConnectorEntry, Origin};
pub(crate) use form::UrlForm;
#[doc(hidden)]
pub use index::Index;
pub use index::SchemeOwner;
#[doc(hidden)]
pub use slices::{
    KVCONN_ADAPTER_ENTRIES_0_1 as ADAPTERS, KVCONN_CONNECTOR_ENTRIES_0_1 as CONNECTORS,
    KVCONN_CONNECTOR_HINTS_0_1 as HINTS, KVCONN_METRIC_LISTS_0_1 as METRIC_LISTS,
};
pub use suggest::did_you_mean;
pub(crate) use suggest::nearest;

use crate::adapter::{CONNECTOR_NAME, ExternalConnectorAdapter};
use crate::runtime::PerProcess;
use crate::url::RemoteUrl;
use crate::{Error, Result};

fn index() -> &'static Index {
    static INDEX: PerProcess<Index> = PerProcess::new();
    INDEX.get_or_init(|| Index::new(&CONNECTORS, &ADAPTERS, &HINTS))
}

/// All linked connectors, sorted by module and name.
pub fn connectors() -> &'static [&'static ConnectorEntry] {
    index().connectors()
}

/// All linked adapters that crates registered, sorted by scheme.
pub fn adapters() -> &'static [&'static AdapterEntry] {
    index().adapters()
}

/// Checks that no name and no scheme is claimed twice in this binary. Also checks that no connector has an option
/// with the name of a [layer](crate::layer)'s option.
///
/// # Errors
/// `Conflict`, naming every such claim with its file, line, package and version.
pub fn validate() -> Result<()> {
    index().validate()
}

/// The connector of this module and name.
///
/// # Errors
/// `Conflict` if two places claim the name. Otherwise `NotFound` with the nearest name and all linked names. For a
/// connector that was compiled out, it names the feature to enable.
pub fn find(module: &str, name: &str) -> Result<&'static ConnectorEntry> {
    index().find(module, name)
}

/// The owner of a scheme, if there is one.
///
/// # Errors
/// `Conflict` if two places claim the scheme.
pub fn find_scheme(scheme: &str) -> Result<Option<SchemeOwner>> {
    index().find_scheme(scheme)
}

/// The connector or adapter that opens `url`, for every URL but `plugin://`, which only the configuration resolves.
///
/// # Errors
/// As [`find`] and [`find_scheme`]; `NotFound` with the nearest scheme if none of the linked crates serves it.
pub fn resolve(url: &RemoteUrl) -> Result<SchemeOwner> {
    if ExternalConnectorAdapter.serves(url) {
        return ExternalConnectorAdapter::resolve(url).map(SchemeOwner::Connector);
    }
    find_scheme(url.scheme())?.ok_or_else(|| no_scheme(url.scheme()))
}

/// The one connector that opens `url`. Gives no error, because the text of a URL in an error needs this function.
pub(crate) fn entry_of(url: &RemoteUrl) -> Option<&'static ConnectorEntry> {
    if ExternalConnectorAdapter.serves(url) {
        return index().find(url.path().trim_matches('/'), url.query(CONNECTOR_NAME)?).ok();
    }
    match index().find_scheme(url.scheme()) {
        Ok(Some(SchemeOwner::Connector(entry))) => Some(entry),
        _ => None,
    }
}

/// Whether a linked crate, kvconn itself, or a crate that was compiled out serves the scheme.
pub(crate) fn knows_scheme(scheme: &str) -> bool {
    index().knows_scheme(scheme)
}

/// An example of the URLs of a scheme, if its connector gives one.
pub(crate) fn example_of(scheme: &str) -> Option<&'static str> {
    let Ok(Some(SchemeOwner::Connector(entry))) = find_scheme(scheme) else { return None };
    entry.urls().iter().copied().find(|url| url.split_once("://").is_some_and(|(own, _)| own == scheme))
}

/// Whether a text is an identifier, as modules and names of connectors are.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// All connectors that a text names. The text is `module/Name`, a module or a name.
///
/// # Errors
/// `NotFound` with the nearest name and all linked ones.
pub fn search(text: &str) -> Result<Vec<&'static ConnectorEntry>> {
    index().search(text)
}

/// All schemes that linked crates claim, in no order.
pub(crate) fn schemes() -> impl Iterator<Item = &'static str> {
    index().schemes()
}

/// The error of a scheme that no linked crate serves.
pub(crate) fn no_scheme(scheme: &str) -> Error {
    index().no_scheme(scheme)
}
