use connector_core::{ConnectorContext, FromContext, Result, external_connector};

#[external_connector(module = "acme.kv")]
struct Acme;

impl FromContext for Acme {
    async fn from_context(_ctx: ConnectorContext) -> Result<Self> {
        Ok(Acme)
    }
}

fn main() {}
