use connector_core::{
    Connector, ConnectorAdapter, ConnectorContext, RemoteUrl, Result, connector_adapter,
};

/// Chooses a store of the cluster.
#[connector_adapter(scheme = "acme")]
#[derive(Default)]
struct AcmeAdapter;

impl ConnectorAdapter for AcmeAdapter {
    fn can_parse(&self, url: &RemoteUrl) -> bool {
        url.scheme() == "acme"
    }

    async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
        let behind = RemoteUrl::parse("external://localhost:0/acme.kv/?connector_name=Acme")?;
        ctx.redirect(behind).await
    }
}

fn main() {
    let [entry] = connector_core::registry::adapters() else { panic!("one adapter") };
    assert_eq!((entry.scheme(), entry.doc()), ("acme", "Chooses a store of the cluster."));
}
