//! A connector with layers around a store that a test made.

use connector_core::layer::LayerOptions;
use connector_core::{Connector, ConnectorAdapter, ConnectorContext, RemoteConnector, RemoteUrl, Result};

/// Makes a connector named `test` over a store, for any URL.
pub(crate) struct Made<C>(pub(crate) C);

impl<C: RemoteConnector + Clone> ConnectorAdapter for Made<C> {
    fn can_parse(&self, _: &RemoteUrl) -> bool {
        true
    }
    async fn create_connector(&self, _: ConnectorContext) -> Result<Connector> {
        Ok(Connector::new("test", self.0.clone()))
    }
}

/// The store with these layers around it.
pub(crate) async fn over(layers: LayerOptions, store: &(impl RemoteConnector + Clone)) -> Connector {
    let builder = connector_core::builder("made://x").adapter(Made(store.clone())).layers(layers);
    builder.open().await.expect("the layers' options are right")
}
