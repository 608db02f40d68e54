//! An example is a separate binary, so it must name the crate that it belongs to.
use alpha_kv as _;

fn main() {
    probe::run(connector_core::open);
}
