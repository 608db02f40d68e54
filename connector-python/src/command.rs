//! The `kvconn` command in the wheel.

use std::ffi::OsString;

use pyo3::prelude::*;

/// Runs the command and gives its exit code. The first argument is the command's name. The process does nothing else
/// from then on.
#[pyfunction]
fn _command(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| kvconn::command(args))
}

pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(_command, m)?)
}
