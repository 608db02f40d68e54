//! `kvconn._kvconn`: what the Python package `kvconn` is made of. The module only; each file below says what it adds.

mod errors;
mod runtime;

use pyo3::prelude::*;

#[pymodule]
fn _kvconn(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    runtime::add_to(m)
}
