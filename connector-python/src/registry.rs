//! What is linked into this library.

use connectors::adapter::ExternalConnectorAdapter;
use connectors::registry::{self, ConnectorEntry, SchemeOwner};
use connectors::{ErrorKind, RemoteUrl, Result};
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// One connector of this wheel.
#[pyclass(module = "kvconn", frozen, get_all)]
pub(crate) struct ConnectorInfo {
    /// The dotted path of an ``external://`` URL: ``"kvconn.redis"``.
    module: &'static str,
    /// The ``connector_name`` of an ``external://`` URL: ``"RedisConnector"``.
    name: &'static str,
    /// Schemes of its own: ``["redis", "unix"]``.
    schemes: Vec<&'static str>,
    /// What it stores, in a sentence.
    summary: &'static str,
    /// All that its author says.
    doc: &'static str,
    /// The Rust package that it comes from.
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

/// Who opens `url` in this library, and the stores that the URL's options, and the URLs in `behind`, name; and whether the
/// library has all of those. None for a URL that nobody here opens. What opens a URL in two libraries is the same if its
/// text is.
#[pyfunction]
fn _opener_of(url: &str, behind: Vec<String>) -> Option<(String, bool)> {
    // Whoever opens the URL says what is wrong with it.
    let url = RemoteUrl::parse(url).ok()?;
    // Two in one library: its own error names both.
    let mut opener = match owner_of(&url) {
        Ok(owner) => name_of(owner?),
        Err(e) if e.kind() == ErrorKind::Conflict => e.message().to_owned(),
        Err(_) => return None,
    };
    let named = url.query_pairs().map(|(_, value)| value).chain(behind.iter().map(String::as_str));
    let mut whole = true;
    for text in named.filter(|text| text.contains("://")) {
        match _opener_of(text, vec![]) {
            Some((behind, all)) => {
                whole &= all;
                opener = format!("{opener}, before {behind}");
            }
            None => whole = false,
        }
    }
    Some((opener, whole))
}

/// Who opens the URL, by its scheme or the name in it; None if nobody has the scheme.
///
/// # Errors
/// As the registry's, for a URL that names a connector.
pub(crate) fn owner_of(url: &RemoteUrl) -> Result<Option<SchemeOwner>> {
    if url.scheme() == ExternalConnectorAdapter::SCHEME {
        return ExternalConnectorAdapter::resolve(url).map(|entry| Some(SchemeOwner::Connector(entry)));
    }
    registry::index().find_scheme(url.scheme())
}

/// `acme.kv/AcmeConnector of acme-kv 1.0.0`
fn name_of(owner: SchemeOwner) -> String {
    let (what, origin) = match owner {
        SchemeOwner::Connector(entry) => (entry.full_name(), entry.origin()),
        SchemeOwner::Adapter(entry) => (format!("the adapter of {}://", entry.scheme()), entry.origin()),
        _ => return String::new(),
    };
    format!("{what} of {} {}", origin.package, origin.version)
}

pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(all, m)?)?;
    m.add_function(wrap_pyfunction!(_opener_of, m)?)?;
    m.add_class::<ConnectorInfo>()
}
