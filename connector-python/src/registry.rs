//! What is linked into this wheel.

use connectors::registry::{self, ConnectorEntry};
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

pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(all, m)?)?;
    m.add_class::<ConnectorInfo>()
}
