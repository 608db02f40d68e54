//! The attribute needs no name from the outer module. Two connectors may share a struct's name or a module.

mod first {
    use connector_core::{
        CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector,
    };

    #[external_connector(module = "acme.kv", name = "First")]
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
}

mod second {
    use connector_core::{
        CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector,
    };

    #[external_connector(module = "acme.kv", name = "Second")]
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
}

fn main() {
    let names: Vec<_> = connector_core::registry::connectors().iter().map(|e| e.full_name()).collect();
    assert_eq!(names, ["acme.kv/First", "acme.kv/Second"]);
}
