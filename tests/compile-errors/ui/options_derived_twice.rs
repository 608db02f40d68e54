use connector_core::serde::Deserialize;
use connector_core::{ConnectorOptions, connector_options};

#[connector_options]
#[derive(Debug, Default, Deserialize)]
struct AcmeOptions {
    connections: usize,
}

impl ConnectorOptions for AcmeOptions {}

fn main() {}
