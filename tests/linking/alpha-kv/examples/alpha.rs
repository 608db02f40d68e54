//! An example is a binary like any other: it has to name the crate whose example it is.
use alpha_kv as _;

fn main() {
    probe::run(connector_core::create_connector);
}
