//! What the Python package `kvconn` is made of, and every other wheel that has connectors of its own.
//!
//! A wheel of your own is a crate of type `cdylib` with these lines, one for each crate whose connectors it carries:
//!
//! ```text
//! use acme_kv as _;
//!
//! connector_python::wheel!(_native);
//! ```
//!
//! and, in its Python package, `kvconn.carry(_native)`. The README has all of it, `examples/acme-kv-wheel` is one.
//!
//! Each wheel's library has everything once: registry, runtime, threads, logging. Python is where they meet.

mod buffer;
mod call;
mod chunk;
#[cfg(feature = "command")]
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

/// What `wheel!` names. Not for anyone else.
#[doc(hidden)]
pub mod __private {
    pub use super::add_to;
    pub use pyo3;
}

/// Makes the crate, of type `cdylib`, a library that the Python package `kvconn` can carry: all connectors that are linked
/// into it, for Python and for LMCache.
///
/// The name is that of the Python module: `wheel!(_native)` for `module-name = "acme._native"` in pyproject.toml. A crate
/// of connectors is linked only if this one names it: `use acme_kv as _;`.
#[macro_export]
macro_rules! wheel {
    ($module:ident) => {
        #[$crate::__private::pyo3::pymodule]
        #[pyo3(crate = "::connector_python::__private::pyo3")]
        fn $module(
            m: &$crate::__private::pyo3::Bound<'_, $crate::__private::pyo3::types::PyModule>,
        ) -> $crate::__private::pyo3::PyResult<()> {
            $crate::__private::add_to(m)
        }
    };
}

#[pymodule]
fn _kvconn(m: &Bound<'_, PyModule>) -> PyResult<()> {
    add_to(m)
}

/// Adds everything to the module of a wheel; each file above says what it adds.
///
/// # Errors
/// Whatever Python raises.
#[doc(hidden)]
pub fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<native::NativeClient>()?;
    m.add_class::<chunk::Chunk>()?;
    store::add_to(m)?;
    registry::add_to(m)?;
    #[cfg(feature = "command")]
    command::add_to(m)?;
    lmcache::add_to(m)?;
    runtime::add_to(m)
}
