//! LMCache's in-process mode: its connector classes, over the registry's stores and LMCache's own memory.
//!
//! - `remote`: one store, as the Python classes of `kvconn._connector` call it.
//! - `pool`, `memory`: LMCache's CPU backend as an allocator, its memory objects as chunks.
//! - `layout`: shapes, dtypes and formats.

mod layout;
mod memory;
mod pool;
mod remote;

use connectors::RemoteUrl;
use connectors::registry::SchemeOwner;
use pyo3::prelude::*;

use crate::errors::{Arg, OrRaise};
use crate::registry::owner_of;

/// Adds what `kvconn._connector` calls.
pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<remote::LMCacheRemote>()?;
    m.add_function(wrap_pyfunction!(memory::give_back, m)?)?;
    m.add_function(wrap_pyfunction!(_entry_of, m)?)
}

/// Module and name of the connector that opens `url`; None for a URL that an adapter opens.
#[pyfunction]
fn _entry_of(py: Python<'_>, url: Arg<String>) -> PyResult<Option<(&'static str, &'static str)>> {
    let url = RemoteUrl::parse(&url.0).or_raise(py)?;
    match owner_of(&url).or_raise(py)? {
        Some(SchemeOwner::Connector(entry)) => Ok(Some((entry.module(), entry.name()))),
        _ => Ok(None),
    }
}
