//! `kvconn._kvconn`: what the Python package `kvconn` is made of. The module only; each file below says what it adds.

mod buffer;
mod call;
mod chunk;
mod command;
mod errors;
mod face;
mod listing;
mod lmcache;
mod logging;
mod native;
mod open;
mod own;
mod registry;
mod runtime;
mod store;

use pyo3::prelude::*;

#[pymodule]
fn _kvconn(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<native::NativeClient>()?;
    m.add_class::<chunk::Chunk>()?;
    store::add_to(m)?;
    registry::add_to(m)?;
    command::add_to(m)?;
    lmcache::add_to(m)?;
    runtime::add_to(m)
}
