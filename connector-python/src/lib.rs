//! The native part of the Python package `kvconn`, and of every other wheel that has connectors of its own.
//!
//! A wheel of your own is a crate of type `cdylib` with these lines, and one `use` for each crate of connectors:
//!
//! ```text
//! use acme_kv as _;
//!
//! connector_python::wheel!(_native);
//! ```
//!
//! Its Python package calls `kvconn.carry(_native)`. The README explains the rest; `examples/acme-kv/wheel` is an example.
//!
//! Each wheel's library has its own registry, runtime, threads and logging. Only the Python code knows all of them.

#[cfg(not(target_os = "linux"))]
compile_error!("the Python package of kvconn needs Linux: it wakes the engine's threads by `eventfd`");

mod array;
mod asyncio;
mod batch;
mod blocking;
mod buffer;
mod call;
mod chunk;
#[cfg(feature = "command")]
mod command;
mod dlpack;
mod engine;
mod errors;
mod key;
mod listing;
mod lmcache;
mod logging;
mod metrics;
mod native;
mod open;
mod process;
mod python_thread;
mod registry;
mod span;
mod store;
mod testing;
mod to_python;

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

/// The number of the interface between kvconn's Python code and a library: this module's names and signatures, and the Python
/// code that it imports. kvconn accepts a library by this number and not by its version.
///
/// A change gets a new number. `tests/test_interface.py` fails without one.
const INTERFACE: u32 = 1;

/// For the code that `wheel!` expands to.
#[doc(hidden)]
pub mod __private {
    pub use super::add_to;
    pub use pyo3;
}

/// Makes a crate of type `cdylib` a library that the Python package `kvconn` can carry. The library has all connectors that
/// are linked into it, for Python and for LMCache.
///
/// The argument is the Python module's name: `wheel!(_native)` for `module-name = "acme._native"` in pyproject.toml. A
/// crate of connectors is linked only if this crate names it: `use acme_kv as _;`.
#[macro_export]
macro_rules! wheel {
    ($module:ident) => {
        #[$crate::__private::pyo3::pymodule]
        #[pyo3(crate = "::connector_python::__private::pyo3", gil_used = true)]
        fn $module(
            m: &$crate::__private::pyo3::Bound<'_, $crate::__private::pyo3::types::PyModule>,
        ) -> $crate::__private::pyo3::PyResult<()> {
            $crate::__private::add_to(m)
        }
    };
    ($($other:tt)*) => {
        ::core::compile_error!(
            "`wheel!` takes the last part of `module-name` in pyproject.toml, without quotes: write `wheel!(_native);`"
        );
    };
}

// No build without the interpreter's lock was tested.
#[pymodule(gil_used = true)]
fn _kvconn(m: &Bound<'_, PyModule>) -> PyResult<()> {
    add_to(m)
}

/// Adds everything to the module of a wheel.
///
/// # Errors
/// What Python raises.
#[doc(hidden)]
pub fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    connectors::Audience::Python.set();
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("INTERFACE", INTERFACE)?;
    m.add_class::<native::NativeClient>()?;
    m.add_class::<engine::EngineClient>()?;
    m.add_class::<engine::EngineUsage>()?;
    m.add_class::<chunk::Chunk>()?;
    errors::add_to(m)?;
    store::add_to(m)?;
    key::add_to(m)?;
    testing::add_to(m)?;
    registry::add_to(m)?;
    metrics::add_to(m)?;
    #[cfg(feature = "command")]
    command::add_to(m)?;
    lmcache::add_to(m)?;
    process::add_to(m)
}

/// Locks a mutex that a panic cannot poison: the guarded data of this crate is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
