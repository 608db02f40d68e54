//! The connectors that are linked into this library.

use connectors::registry::{self, ConnectorEntry, SchemeOwner};
use connectors::{ErrorKind, RemoteUrl, Result};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::Arg;

/// One connector of this wheel.
#[pyclass(module = "kvconn", frozen, get_all)]
pub(crate) struct ConnectorInfo {
    /// The dotted path of an ``external://`` URL: ``"kvconn.redis"``.
    module: &'static str,
    /// The ``connector_name`` of an ``external://`` URL: ``"RedisConnector"``.
    name: &'static str,
    /// The connector's own schemes: ``["redis", "unix"]``.
    schemes: Vec<&'static str>,
    /// The first sentence of its documentation.
    summary: &'static str,
    /// Its author's documentation.
    doc: &'static str,
    /// Its Rust package.
    package: &'static str,
    /// That package's version.
    version: &'static str,
    /// Options, by name: a dict of ``type``, ``default`` (as in a URL, or None), ``doc`` and ``secret``.
    options: Py<PyDict>,
}

#[pymethods]
impl ConnectorInfo {
    fn __repr__(&self) -> String {
        format!("<kvconn.ConnectorInfo {}/{}>", self.module, self.name)
    }
}

#[pyfunction(name = "connectors")]
fn all(py: Python<'_>) -> PyResult<Vec<ConnectorInfo>> {
    registry::connectors().iter().map(|entry| info(py, entry)).collect()
}

fn info(py: Python<'_>, entry: &ConnectorEntry) -> PyResult<ConnectorInfo> {
    let options = PyDict::new(py);
    for option in entry.options().iter().flat_map(|schema| schema.options()) {
        let about = PyDict::new(py);
        about.set_item("type", &option.type_name)?;
        let default = option.default_text();
        about.set_item("unit", &option.unit)?;
        about.set_item("default", (!default.is_empty()).then_some(default))?;
        about.set_item("doc", &option.doc)?;
        about.set_item("secret", option.secret)?;
        options.set_item(&option.name, about)?;
    }
    let origin = entry.origin();
    Ok(ConnectorInfo {
        module: entry.module(),
        name: entry.name(),
        schemes: entry.schemes().to_vec(),
        summary: entry.summary(),
        doc: entry.doc(),
        package: origin.package,
        version: origin.version,
        options: options.unbind(),
    })
}

/// The connector that opens `url` in this library, with the stores behind it, and whether the library has all of them. None for
/// a URL that the library cannot open. The stores behind are those of URLs in the options and in `behind`.
///
/// Two libraries open a URL in the same way if they give the same text.
#[pyfunction]
#[pyo3(name = "_opener_of")]
fn opener_of_arguments(url: Arg<String>, behind: Arg<Vec<String>>) -> Option<(String, bool)> {
    opener_of(&url.0, &behind.0)
}

fn opener_of(url: &str, behind: &[String]) -> Option<(String, bool)> {
    // Opening the URL says what is wrong with it.
    let url = RemoteUrl::parse(url).ok()?;
    // The message of a conflict in this library names both connectors.
    let mut opener = match owner_of(&url) {
        Ok(owner) => name_of(owner?),
        Err(e) if e.kind() == ErrorKind::Conflict => e.message().to_owned(),
        Err(_) => return None,
    };
    let named = url.query_pairs().map(|(_, value)| value).chain(behind.iter().map(String::as_str));
    let mut whole = true;
    for text in named.filter(|text| text.contains("://")) {
        match opener_of(text, &[]) {
            Some((behind, all)) => {
                whole &= all;
                opener = format!("{opener}, before {behind}");
            }
            None => whole = false,
        }
    }
    Some((opener, whole))
}

/// The owner of the URL's scheme, or of the name in an `external://` URL; None if no connector has the scheme.
///
/// # Errors
/// As the registry's, for a URL that names a connector.
pub(crate) fn owner_of(url: &RemoteUrl) -> Result<Option<SchemeOwner>> {
    if url.scheme() == "external" {
        return registry::resolve(url).map(Some);
    }
    registry::find_scheme(url.scheme())
}

/// `acme.kv/AcmeConnector of acme-kv 1.0.0`
fn name_of(owner: SchemeOwner) -> String {
    let (what, origin) = match owner {
        SchemeOwner::Connector(entry) => (entry.full_name(), entry.origin()),
        SchemeOwner::Adapter(entry) => (format!("the adapter of {}://", entry.scheme()), entry.origin()),
    };
    format!("{what} of {} {}", origin.package, origin.version)
}

pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(all, m)?)?;
    m.add_function(wrap_pyfunction!(opener_of_arguments, m)?)?;
    m.add_class::<ConnectorInfo>()
}
