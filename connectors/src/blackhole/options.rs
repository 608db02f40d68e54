use connector_core::ConnectorOptions;
use schemars::JsonSchema;
use serde::Deserialize;

/// Options of `blackhole://`: there are none, so that a misspelt URL is an error here, too.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub struct BlackholeOptions {}

impl ConnectorOptions for BlackholeOptions {}
