use connector_core::{ConnectorOptions, connector_options};

#[connector_options]
#[derive(Default)]
struct AcmeOptions(usize);

impl ConnectorOptions for AcmeOptions {}

fn main() {}
