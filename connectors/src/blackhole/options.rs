use connector_core::{ConnectorOptions, connector_options};

/// Options of `blackhole://`: none. The type makes an unknown option in the URL an error.
#[connector_options]
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BlackholeOptions {}

impl ConnectorOptions for BlackholeOptions {}
