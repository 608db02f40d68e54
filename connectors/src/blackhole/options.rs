use connector_core::ConnectorOptions;
use schemars::JsonSchema;
use serde::Deserialize;

/// Options of `blackhole://`: none. The type makes an unknown option in the URL an error.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub struct BlackholeOptions {}

impl ConnectorOptions for BlackholeOptions {}
