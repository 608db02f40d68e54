use connector_core::{
    CacheKey, Connector, ConnectorAdapter, ConnectorContext, FromContext, MemoryObj, RemoteConnector,
    RemoteUrl, Result, connector_adapter, external_connector,
};

#[external_connector(module = "acme.kv", scheme = "acme")]
struct Acme;

impl FromContext for Acme {
    async fn from_context(_ctx: ConnectorContext) -> Result<Self> {
        Ok(Acme)
    }
}

impl RemoteConnector for Acme {
    async fn exists(&self, _key: &CacheKey) -> Result<bool> {
        Ok(false)
    }

    async fn get(&self, _key: &CacheKey) -> Result<Option<MemoryObj>> {
        Ok(None)
    }

    async fn put(&self, _key: &CacheKey, _chunk: MemoryObj) -> Result<()> {
        Ok(())
    }
}

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

fn main() {}
