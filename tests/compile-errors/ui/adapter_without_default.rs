use connector_core::{
    Connector, ConnectorAdapter, ConnectorContext, RemoteUrl, Result, connector_adapter,
};

#[connector_adapter(scheme = "acme")]
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

fn main() {}
