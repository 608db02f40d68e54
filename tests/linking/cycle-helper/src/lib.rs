//! A helper for the tests of the crate `cycle`, which it depends on.
#![forbid(unsafe_code)]

use cycle as _;

/// Whether the URL opens.
pub fn opens(url: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(connector_core::open(url)).is_ok()
}
