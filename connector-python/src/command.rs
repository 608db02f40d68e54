//! The `kvconn` command, which the wheel brings along.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command with these arguments, the first of which is its name, and gives its exit code. The process does nothing
/// else from then on.
#[pyfunction]
fn _command(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| connector_cli::command(args))
}

pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(_command, m)?)
}
