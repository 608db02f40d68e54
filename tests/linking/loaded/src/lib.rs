//! A shared library that another program loads, as Python loads a wheel.

use alpha_kv as _;

/// The number of connectors in this library.
#[unsafe(no_mangle)]
pub extern "C" fn kvconn_test_connectors() -> u32 {
    connector_core::registry::connectors().len() as u32
}

/// 1 if the registry finds the connector of the linked crate, else 0.
#[unsafe(no_mangle)]
pub extern "C" fn kvconn_test_finds_alpha() -> u32 {
    u32::from(connector_core::registry::find("alpha.kv", "AlphaConnector").is_ok())
}
