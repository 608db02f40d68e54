mod first {
    use connector_core::{
        CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector,
    };

    #[external_connector(module = "acme.first", scheme = "acme")]
    pub struct Acme;

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
}

mod second {
    use connector_core::{
        CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector,
    };

    #[external_connector(module = "acme.second", scheme = "acme")]
    pub struct Acme;

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
}

fn main() {
    let _ = (first::Acme, second::Acme);
}
