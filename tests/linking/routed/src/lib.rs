//! Registers an adapter for the scheme `routed`.
#![forbid(unsafe_code)]

use alpha_kv as _;
use connector_core::{Connector, ConnectorAdapter, ConnectorContext, RemoteUrl, Result, connector_adapter};

/// Opens the store that the host names.
#[connector_adapter(scheme = "routed")]
#[derive(Default)]
pub struct RoutedAdapter;

impl ConnectorAdapter for RoutedAdapter {
    fn can_parse(&self, url: &RemoteUrl) -> bool {
        url.host() == Some("alpha")
    }

    async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
        ctx.redirect(RemoteUrl::parse("alpha://localhost:0")?).await
    }
}
