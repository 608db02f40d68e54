//! From a URL to an open connector.

use std::sync::{Arc, LazyLock};

use crate::Result;
use crate::adapter::{ConnectorAdapter, DynAdapter, ExternalConnectorAdapter, PluginAdapter, SchemeAdapter};
use crate::connector::Connector;
use crate::context::{ConnectorContext, ContextBuilder};
use crate::layer::Layers;
use crate::registry;

/// Finds the adapter of a URL and has it make the connector: LMCache's `ConnectorManager`.
///
/// Adapters are asked in this order: those added by hand, `external://`, `plugin://`, and the schemes that connectors and
/// adapters of linked crates claim.
///
/// ```no_run
/// # async fn f() -> connector_core::Result<()> {
/// use connector_core::{ConnectorManager, LocalCpuBackend};
/// let connector = ConnectorManager::builder("external://localhost:0/acme.kv/?connector_name=AcmeConnector")
///     .local_cpu_backend(LocalCpuBackend::with_capacity(64 << 20))
///     .open()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ConnectorManager {
    adapters: Adapters,
}

/// Every connector's context holds its manager.
type Adapters = Arc<Vec<Arc<dyn DynAdapter>>>;

static LINKED: LazyLock<Adapters> = LazyLock::new(|| {
    Arc::new(vec![Arc::new(ExternalConnectorAdapter), Arc::new(PluginAdapter), Arc::new(SchemeAdapter)])
});

impl ConnectorManager {
    /// A manager with every adapter that is linked into this binary.
    pub fn new() -> Self {
        Self { adapters: LINKED.clone() }
    }

    /// The same manager with one more adapter, asked before the others.
    #[must_use]
    pub fn with_adapter(mut self, adapter: impl ConnectorAdapter) -> Self {
        Arc::make_mut(&mut self.adapters).insert(0, Arc::new(adapter));
        self
    }

    /// A builder that opens `url` with everything that is linked into this binary.
    pub fn builder(url: &str) -> ContextBuilder {
        ConnectorContext::builder(url)
    }

    /// Makes the connector that the context's URL names.
    ///
    /// # Errors
    /// `NotFound` if no adapter serves the URL or no such connector is linked, with the nearest name; `InvalidUrl`,
    /// `InvalidOption`; and whatever keeps the connector from working.
    pub async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
        let ctx = ctx.with_manager(self);
        match self.adapters.iter().find(|a| a.can_parse(ctx.url())) {
            Some(adapter) => {
                // Checked first: a connector that is opened and then dropped may leave something behind.
                let layers = Layers::of(&ctx).map_err(|e| e.with_operation("open"))?;
                let handle = ctx.handle().clone();
                let connector = adapter.create_connector(ctx).await?;
                Ok(connector.layered(&handle, |name, inner| layers.around(name, inner)))
            }
            None => Err(registry::index().no_scheme(ctx.url().scheme())),
        }
    }
}

impl Default for ConnectorManager {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ConnectorManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ConnectorManager({} adapters)", self.adapters.len())
    }
}

/// Opens `url` with everything that is linked into this binary: the one-call form.
///
/// # Errors
/// As [`ConnectorManager::create_connector`].
pub async fn create_connector(url: &str) -> Result<Connector> {
    ConnectorManager::builder(url).open().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CacheKey, ErrorKind, LMCacheEngineConfig, MemoryObj, RemoteConnector, RemoteUrl};

    struct Nothing;

    impl RemoteConnector for Nothing {
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

    /// `front://` opens whatever stands behind it; `by-hand://` is nothing.
    struct ByHand;

    impl ConnectorAdapter for ByHand {
        fn can_parse(&self, url: &RemoteUrl) -> bool {
            ["front", "by-hand"].contains(&url.scheme())
        }
        async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
            match ctx.url().query("behind") {
                Some(url) => ctx.open_behind(RemoteUrl::parse(url)?).await,
                None => Ok(Connector::new(ctx.connector_name(), Nothing)),
            }
        }
    }

    async fn open(url: &str) -> Result<Connector> {
        let plugin = serde_json::json!({ "remote_storage_plugin.x.url": "by-hand://x" });
        let mut config = LMCacheEngineConfig::new();
        config.set("extra_config", plugin)?;
        let manager = ConnectorManager::new().with_adapter(ByHand);
        ConnectorContext::builder(url).config(config).manager(manager).open().await
    }

    #[tokio::test]
    async fn an_adapter_added_by_hand_serves_stores_behind_other_stores_and_plugins() {
        for url in ["by-hand://x", "front://x/?behind=by-hand://y", "front://x/?behind=plugin://x", "plugin://x"] {
            assert_eq!(open(url).await.map(|c| c.name().to_owned()).unwrap(), "by-hand://", "{url}");
        }
    }

    #[tokio::test]
    async fn a_url_that_leads_back_to_itself_is_an_error() {
        let behind = (0..9).fold("by-hand://x".to_owned(), |behind, _| {
            let encoded: String = url::form_urlencoded::byte_serialize(behind.as_bytes()).collect();
            format!("front://x/?behind={encoded}")
        });
        assert_eq!(open(&behind).await.unwrap_err().kind(), ErrorKind::InvalidUrl);
    }
}
