//! `kvconn._kvconn`: what the Python package `kvconn` is made of. The module only; each file below says what it adds.

mod buffer;
mod call;
mod errors;
mod lmcache;
mod logging;
mod native;
mod open;
mod runtime;

use pyo3::prelude::*;

#[pymodule]
fn _kvconn(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<native::NativeClient>()?;
    lmcache::add_to(m)?;
    runtime::add_to(m)
}
