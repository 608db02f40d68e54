//! How a store is opened: [`open`] for the defaults, [`builder`] for everything else.

use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::adapter::{Adapters, ConnectorAdapter};
use crate::allocator::LocalCpuBackend;
use crate::config::LMCacheEngineConfig;
use crate::connector::Connector;
use crate::context::{Connect, ConnectorContext, Parts};
use crate::layer::LayerOptions;
use crate::metadata::LMCacheMetadata;
use crate::url::RemoteUrl;
use crate::{Error, ErrorKind, Result};

/// Opens `url` with every connector and adapter that is linked into this binary, and LMCache's defaults.
///
/// A program that uses the stores of the crate `connectors` calls `connectors::open`, which links them.
///
/// # Errors
/// `NotFound` if no linked connector serves the URL, with the nearest name. `InvalidUrl` and `InvalidOption` for a URL that
/// cannot be read. Otherwise the connector's own error.
pub async fn open(url: &str) -> Result<Connector> {
    builder(url).open().await
}

/// A builder for `url`. A setting that you leave out has LMCache's default.
///
/// ```no_run
/// # async fn f() -> connector_core::Result<()> {
/// use connector_core::LocalCpuBackend;
/// let connector = connector_core::builder("external://localhost:0/acme.kv/?connector_name=AcmeConnector")
///     .local_cpu_backend(LocalCpuBackend::with_capacity(64 << 20))
///     .open()
///     .await?;
/// # Ok(())
/// # }
/// ```
pub fn builder(url: &str) -> ContextBuilder {
    ContextBuilder {
        url: RemoteUrl::parse(url),
        handle: None,
        local_cpu_backend: None,
        config: Arc::new(LMCacheEngineConfig::default()),
        metadata: None,
        plugin_name: None,
        adapters: Adapters::default(),
        layer_options: LayerOptions::default(),
        connect: Connect::default(),
        existing: false,
    }
}

/// The settings of a connector that is not open yet. Made by [`builder`] or `connectors::builder`.
#[derive(Clone)]
#[must_use]
pub struct ContextBuilder {
    url: Result<RemoteUrl>,
    handle: Option<Handle>,
    local_cpu_backend: Option<LocalCpuBackend>,
    config: Arc<LMCacheEngineConfig>,
    metadata: Option<Arc<LMCacheMetadata>>,
    plugin_name: Option<String>,
    adapters: Adapters,
    layer_options: LayerOptions,
    connect: Connect,
    existing: bool,
}

impl ContextBuilder {
    /// Sets where `get` takes memory from. Default: a pool of the configuration's `max_local_cpu_size`.
    pub fn local_cpu_backend(mut self, backend: LocalCpuBackend) -> Self {
        self.local_cpu_backend = Some(backend);
        self
    }

    /// Sets LMCache's engine configuration. Default: LMCache's defaults.
    pub fn config(mut self, config: impl Into<Arc<LMCacheEngineConfig>>) -> Self {
        self.config = config.into();
        self
    }

    /// Sets the engine's description of its cache. Without one, raw values are BINARY.
    pub fn metadata(mut self, metadata: impl Into<Arc<LMCacheMetadata>>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }

    /// Sets the plugin instance's name. Default: the one in a `plugin://name` URL.
    pub fn plugin_name(mut self, name: impl Into<String>) -> Self {
        self.plugin_name = Some(name.into());
        self
    }

    /// Sets the runtime for background work. Default: the current one.
    pub fn handle(mut self, handle: Handle) -> Self {
        self.handle = Some(handle);
        self
    }

    /// Adds an adapter that no crate registers. kvconn asks it before all others, also for a store behind another store.
    pub fn adapter(mut self, adapter: impl ConnectorAdapter) -> Self {
        self.adapters.insert(adapter);
        self
    }

    /// Sets the [layers](crate::layer) that every connector can have. A value in the URL or the configuration wins.
    pub fn layers(mut self, layers: LayerOptions) -> Self {
        self.layer_options = layers;
        self
    }

    /// Sets how `open` treats a server that does not answer. The option `connect` wins. Default: [`Connect::Eager`].
    pub fn connect(mut self, connect: Connect) -> Self {
        self.connect = connect;
        self
    }

    /// Sets whether to open only a store that exists. Then a directory that the first put would make, and that a user
    /// may have mistyped, is an error instead of an empty store. Default: false.
    pub fn existing(mut self, existing: bool) -> Self {
        self.existing = existing;
        self
    }

    /// The context alone, without opening the connector.
    ///
    /// # Errors
    /// `InvalidUrl` for a URL that cannot be read; `InvalidInput` outside a tokio runtime if no handle is set.
    pub fn build(self) -> Result<ConnectorContext> {
        let url = self.url?;
        let handle = match self.handle {
            Some(handle) => handle,
            None => Handle::try_current().map_err(|_| {
                Error::new(ErrorKind::InvalidInput, "a connector needs a tokio runtime, and none is running here")
                    .with_hint("open it inside `#[tokio::main]`, or set one with `.handle(..)`")
            })?,
        };
        let local_cpu_backend = self.local_cpu_backend.unwrap_or_else(|| LocalCpuBackend::from_config(&self.config));
        Ok(ConnectorContext::new(Parts {
            url,
            handle,
            local_cpu_backend,
            config: self.config,
            metadata: self.metadata,
            plugin_name: self.plugin_name,
            entry: None,
            adapters: self.adapters,
            depth: 0,
            behind: false,
            chain: Arc::default(),
            redirected: Arc::default(),
            connect: self.connect,
            has_behind: std::sync::Arc::default(),
            layer_options: self.layer_options,
            existing: self.existing,
            layer_queries: Vec::new(),
        }))
    }

    /// Opens the connector.
    ///
    /// # Errors
    /// As [`open`].
    pub async fn open(self) -> Result<Connector> {
        self.build()?.open().await
    }

    /// The URL, if it can be read.
    #[cfg(feature = "conformance")]
    pub(crate) fn url_set(&self) -> Option<&RemoteUrl> {
        self.url.as_ref().ok()
    }

    /// The same settings for another URL.
    #[cfg(feature = "conformance")]
    pub(crate) fn at(mut self, url: RemoteUrl) -> Self {
        self.url = Ok(url);
        self
    }

    /// The metadata that is set.
    #[cfg(feature = "conformance")]
    pub(crate) fn metadata_set(&self) -> Option<&Arc<LMCacheMetadata>> {
        self.metadata.as_ref()
    }
}

impl fmt::Debug for ContextBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextBuilder").field("url", &self.url).finish_non_exhaustive()
    }
}
