//! The metrics of this library. `kvconn._metrics` adds up those of all libraries.

use std::collections::HashMap;

use connectors::observe::{self, Family, Metric, Value};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

/// Name, kind, unit, help, names of the labels, and the samples: pairs of labels and values. Labels are pairs of name and value,
/// sorted by name. A histogram's value is a pair: the observations in each bucket, and their sum.
type Described<'py> = (String, &'static str, &'static str, String, Vec<String>, Bound<'py, PyList>);

/// All metrics of this library, sorted by name.
#[pyfunction]
fn metrics(py: Python<'_>) -> PyResult<Vec<Described<'_>>> {
    let listed: HashMap<&str, &Metric> = observe::metrics().into_iter().map(|metric| (metric.name, metric)).collect();
    let (recorder, _) = observe::install();
    recorder.snapshot().into_iter().map(|family| described(py, listed.get(&*family.name).copied(), family)).collect()
}

fn described<'py>(py: Python<'py>, listed: Option<&Metric>, family: Family) -> PyResult<Described<'py>> {
    let labels = match (listed, family.samples.first()) {
        (Some(metric), _) => metric.labels.iter().map(|label| (*label).to_owned()).collect(),
        (None, Some(sample)) => sample.labels.iter().map(|(name, _)| name.clone()).collect(),
        (None, None) => Vec::new(),
    };
    let samples = PyList::empty(py);
    for sample in family.samples {
        let labels = PyTuple::new(py, sample.labels)?;
        match sample.value {
            Value::Number(number) => samples.append((labels, number))?,
            Value::Histogram { counts, sum } => samples.append((labels, (counts, sum)))?,
        }
    }
    let unit = listed.map_or("", |metric| metric.unit);
    Ok((family.name, family.kind.as_str(), unit, family.help, labels, samples))
}

pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    // Nothing else in this library can install one.
    observe::install();
    m.add("METRIC_BUCKETS", observe::BUCKETS.to_vec())?;
    m.add_function(wrap_pyfunction!(metrics, m)?)
}
