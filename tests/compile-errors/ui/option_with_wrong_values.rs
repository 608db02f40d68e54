use connector_core::{ConnectorOptions, connector_options};

#[connector_options]
#[derive(Default)]
struct AcmeOptions {
    #[option(secret = true)]
    password: Option<String>,
    #[option(unit)]
    timeout: u64,
    #[option("ms")]
    interval: u64,
}

impl ConnectorOptions for AcmeOptions {}

fn main() {}
