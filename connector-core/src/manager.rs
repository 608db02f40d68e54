//! From a URL to an open connector.

use std::sync::Arc;

use crate::Result;
use crate::adapter::{ConnectorAdapter, DynAdapter, ExternalConnectorAdapter, PluginAdapter, SchemeAdapter};
use crate::connector::Connector;
use crate::context::{ConnectorContext, ContextBuilder};
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
    adapters: Vec<Arc<dyn DynAdapter>>,
}

impl ConnectorManager {
    /// A manager with every adapter that is linked into this binary.
    pub fn new() -> Self {
        Self { adapters: vec![Arc::new(ExternalConnectorAdapter), Arc::new(PluginAdapter), Arc::new(SchemeAdapter)] }
    }

    /// The same manager with one more adapter, asked before the others.
    #[must_use]
    pub fn with_adapter(mut self, adapter: impl ConnectorAdapter) -> Self {
        self.adapters.insert(0, Arc::new(adapter));
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
        match self.adapters.iter().find(|a| a.can_parse(ctx.url())) {
            Some(adapter) => adapter.create_connector(ctx).await,
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
