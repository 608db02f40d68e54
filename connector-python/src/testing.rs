//! The conformance kit, for `kvconn.testing`.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use connectors::conformance::{Check, CheckResult, Kit, Outcome, checks};
use connectors::runtime;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::blocking::receive;
use crate::errors::{Arg, OrRaise};
use crate::open::with_options;
use crate::{lock, logging};

/// Name, chapter, rule, outcome, reason and seconds of a check, and the failed check that it needs.
type Row = (&'static str, &'static str, &'static str, &'static str, Option<String>, f64, Option<&'static str>);

/// A run of the kit: an iterator over the results. If it is dropped, the run ends after the check that runs.
#[pyclass(frozen, module = "kvconn._kvconn")]
struct Checks(Mutex<Receiver<CheckResult>>);

#[pymethods]
impl Checks {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Row>> {
        let result = py.detach(|| receive(&lock(&self.0)))?;
        Ok(result.map(row))
    }
}

fn row(result: CheckResult) -> Row {
    let (outcome, why) = match result.outcome {
        Outcome::Passed => ("passed", None),
        Outcome::Failed(why) => ("failed", Some(why)),
        Outcome::Skipped(why) => ("skipped", Some(why)),
    };
    (result.name, result.chapter, result.rule, outcome, why, result.elapsed.as_secs_f64(), result.needs)
}

/// Starts the checks whose name contains `wanted`, or whose chapter it is. None starts all of them.
#[pyfunction]
#[pyo3(name = "_conformance")]
fn conformance(
    py: Python<'_>,
    url: Arg<String>,
    options: &Bound<'_, PyDict>,
    wanted: Option<String>,
    limit: f64,
) -> PyResult<Checks> {
    logging::start(py)?;
    let kit = Kit::from(with_options(&url.0, options)?).limit(Duration::try_from_secs_f64(limit).unwrap_or_default());
    let (send, results) = channel();
    runtime::handle().or_raise(py)?.spawn(async move {
        let is_wanted = |check: &Check| wanted.as_ref().is_none_or(|w| check.name.contains(&**w) || check.chapter == w);
        let _report = kit.run_some(is_wanted, |result| send.send(result.clone()).is_ok()).await;
    });
    Ok(Checks(Mutex::new(results)))
}

/// Name and chapter of every check.
#[pyfunction]
fn _checks() -> Vec<(&'static str, &'static str)> {
    checks().iter().map(|check| (check.name, check.chapter)).collect()
}

pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(conformance, m)?)?;
    m.add_function(wrap_pyfunction!(_checks, m)?)?;
    m.add_class::<Checks>()
}
