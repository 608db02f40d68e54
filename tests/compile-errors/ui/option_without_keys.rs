use connector_core::{ConnectorOptions, connector_options};

#[connector_options]
#[derive(Default)]
struct AcmeOptions {
    #[option]
    password: Option<String>,
}

impl ConnectorOptions for AcmeOptions {}

fn main() {}
