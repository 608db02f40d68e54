//! Everything a connector is made from.

use std::fmt;
use std::sync::Arc;

use crate::adapter::PluginAdapter;
use crate::allocator::LocalCpuBackend;
use crate::config::LMCacheEngineConfig;
use crate::connector::Connector;
use crate::layer::{BoxConnector, DynLayer, Layer, LayerOptions};
use crate::manager::ConnectorManager;
use crate::metadata::LMCacheMetadata;
use crate::options::{self, ConnectorOptions};
use crate::registry::ConnectorEntry;
use crate::url::RemoteUrl;
use crate::{Error, ErrorKind, Result};

/// What a connector is made from: LMCache's `ConnectorContext`. Cheap to clone.
#[derive(Clone)]
pub struct ConnectorContext(Arc<Parts>);

#[derive(Clone)]
struct Parts {
    url: RemoteUrl,
    handle: tokio::runtime::Handle,
    local_cpu_backend: LocalCpuBackend,
    config: Arc<LMCacheEngineConfig>,
    metadata: Option<Arc<LMCacheMetadata>>,
    plugin_name: Option<String>,
    entry: Option<&'static ConnectorEntry>,
    manager: ConnectorManager,
    /// How many URLs led here.
    depth: usize,
    /// Whether another store opened this one.
    behind: bool,
    layer_options: LayerOptions,
    /// Those of the URLs that led here.
    layers_of_urls: LayerOptions,
    layers: Vec<Arc<dyn DynLayer>>,
}

/// URLs that lead to other URLs, at most: one that leads back to itself ends here.
const MAX_DEPTH: usize = 8;

/// Sets what a connector is made from, then opens it. Made by [`ConnectorManager::builder`](crate::ConnectorManager::builder),
/// `connectors::builder`, or [`ConnectorContext::builder`].
#[derive(Clone)]
#[must_use]
pub struct ContextBuilder {
    url: Result<RemoteUrl, Arc<Error>>,
    handle: Option<tokio::runtime::Handle>,
    local_cpu_backend: Option<LocalCpuBackend>,
    config: Arc<LMCacheEngineConfig>,
    metadata: Option<Arc<LMCacheMetadata>>,
    plugin_name: Option<String>,
    manager: Option<ConnectorManager>,
    layer_options: LayerOptions,
    layers: Vec<Arc<dyn DynLayer>>,
}

impl ConnectorContext {
    /// A builder for this URL. What is not set has LMCache's defaults; the runtime is the one that
    /// [`build`](ContextBuilder::build) is called on.
    pub fn builder(url: &str) -> ContextBuilder {
        ContextBuilder {
            url: RemoteUrl::parse(url).map_err(Arc::new),
            handle: None,
            local_cpu_backend: None,
            config: Arc::new(LMCacheEngineConfig::default()),
            metadata: None,
            plugin_name: None,
            manager: None,
            layer_options: LayerOptions::default(),
            layers: Vec::new(),
        }
    }

    /// The URL that is being opened.
    pub fn url(&self) -> &RemoteUrl {
        &self.0.url
    }

    /// The runtime for background work and blocking threads.
    pub fn handle(&self) -> &tokio::runtime::Handle {
        &self.0.handle
    }

    /// Where `get` takes memory from.
    pub fn local_cpu_backend(&self) -> &LocalCpuBackend {
        &self.0.local_cpu_backend
    }

    /// LMCache's engine configuration.
    pub fn config(&self) -> &LMCacheEngineConfig {
        &self.0.config
    }

    /// What the engine says about its cache, if it said anything.
    pub fn metadata(&self) -> Option<&Arc<LMCacheMetadata>> {
        self.0.metadata.as_ref()
    }

    /// The plugin instance's name, for `plugin://name`: `fs.primary`.
    pub fn plugin_name(&self) -> Option<&str> {
        self.0.plugin_name.as_deref()
    }

    /// The registry's entry that is being opened, if it came through the registry.
    pub fn entry(&self) -> Option<&'static ConnectorEntry> {
        self.0.entry
    }

    /// What errors call the connector: `module/Name`, or the URL's scheme.
    pub fn connector_name(&self) -> String {
        self.0.entry.map_or_else(|| format!("{}://", self.0.url.scheme()), ConnectorEntry::full_name)
    }

    /// The connector's options; see [`options`] for where they come from.
    ///
    /// # Errors
    /// `InvalidOption` for an unknown option (with the nearest name) or a wrong value, naming the place it came from.
    pub fn options<O: ConnectorOptions>(&self) -> Result<O> {
        options::read(&self.0.url, &self.0.config, self.plugin_name())
    }

    /// The same context for another URL: how an adapter opens the store that it chose. The [layers](crate::layer) that this
    /// URL asks for are put around that store, where its own URL does not say otherwise.
    pub fn with_url(&self, url: RemoteUrl) -> Self {
        self.changed(|parts| {
            // A wrong option was reported when that URL was opened.
            let of_url = options::read_layers(&parts.url, None, None).unwrap_or_default();
            parts.layers_of_urls = of_url.or(&parts.layers_of_urls);
            parts.url = url;
            parts.entry = None;
            parts.depth += 1;
        })
    }

    /// Opens the store behind this one: another URL with everything else of this context, through the manager that makes
    /// this connector, so that adapters added by hand serve it, too. A plugin's own options are not the other's.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_behind(&self, url: RemoteUrl) -> Result<Connector> {
        self.with_url(url)
            .changed(|parts| {
                parts.plugin_name = None;
                parts.layers_of_urls = LayerOptions::default();
                parts.behind = true;
            })
            .open()
            .await
    }

    /// Makes the connector that the URL names.
    ///
    /// # Errors
    /// As [`ConnectorManager::create_connector`]; `InvalidUrl` if more than eight URLs led to this one.
    pub async fn open(self) -> Result<Connector> {
        if self.0.depth > MAX_DEPTH {
            return Err(Error::new(
                ErrorKind::InvalidUrl,
                format!("`{}` was reached through {MAX_DEPTH} other URLs", self.url()),
            )
            .with_hint("does one of them lead back to the first?"));
        }
        let manager = self.0.manager.clone();
        // A box, because a store may open another one.
        Box::pin(manager.create_connector(self)).await
    }

    /// What puts layers around this store: its URL, the URLs that led to it, and unless another store opened it, the
    /// configuration and the builder.
    pub(crate) fn layer_options(&self) -> Result<LayerOptions> {
        let set = options::read_layers(&self.0.url, None, None)?.or(&self.0.layers_of_urls);
        if self.0.behind {
            return Ok(set);
        }
        let plugin = self.plugin_name().or_else(|| PluginAdapter::name_of(&self.0.url));
        let all = options::read_layers(&self.0.url, Some(&self.0.config), plugin)?;
        Ok(set.or(&all).or(&self.0.layer_options))
    }

    /// The layers that the builder adds, innermost first.
    pub(crate) fn layers(&self) -> &[Arc<dyn DynLayer>] {
        if self.0.behind { &[] } else { &self.0.layers }
    }

    pub(crate) fn with_manager(&self, manager: &ConnectorManager) -> Self {
        self.changed(|parts| parts.manager = manager.clone())
    }

    pub(crate) fn with_entry(&self, entry: &'static ConnectorEntry) -> Self {
        self.changed(|parts| parts.entry = Some(entry))
    }

    pub(crate) fn with_plugin_name(&self, name: &str) -> Self {
        self.changed(|parts| parts.plugin_name = Some(name.to_owned()))
    }

    fn changed(&self, change: impl FnOnce(&mut Parts)) -> Self {
        let mut parts = Parts::clone(&self.0);
        change(&mut parts);
        Self(Arc::new(parts))
    }
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

    /// Sets what the engine says about its cache. Default: nothing; raw values are BINARY then.
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
    pub fn handle(mut self, handle: tokio::runtime::Handle) -> Self {
        self.handle = Some(handle);
        self
    }

    /// The context.
    ///
    /// # Errors
    /// `InvalidUrl` for a URL that cannot be read, `InvalidInput` outside a tokio runtime if none was set.
    pub fn build(self) -> Result<ConnectorContext> {
        let url = self.url.map_err(|e| Arc::try_unwrap(e).unwrap_or_else(|shared| Error::clone(&shared)))?;
        let handle = match self.handle {
            Some(handle) => handle,
            None => tokio::runtime::Handle::try_current().map_err(|_| {
                Error::new(ErrorKind::InvalidInput, "a connector needs a tokio runtime, and none is running here")
                    .with_hint("open it inside `#[tokio::main]`, or set one with `.handle(..)`")
            })?,
        };
        let local_cpu_backend = self.local_cpu_backend.unwrap_or_else(|| LocalCpuBackend::from_config(&self.config));
        Ok(ConnectorContext(Arc::new(Parts {
            url,
            handle,
            local_cpu_backend,
            config: self.config,
            metadata: self.metadata,
            plugin_name: self.plugin_name,
            entry: None,
            manager: self.manager.unwrap_or_default(),
            depth: 0,
            behind: false,
            layer_options: self.layer_options,
            layers_of_urls: LayerOptions::default(),
            layers: self.layers,
        })))
    }

    /// Sets who finds the connector. Default: every adapter that is linked into this binary.
    pub fn manager(mut self, manager: ConnectorManager) -> Self {
        self.manager = Some(manager);
        self
    }

    /// Sets the [layers](crate::layer) that every connector can have. What URL or configuration set, they win.
    pub fn layers(mut self, layers: LayerOptions) -> Self {
        self.layer_options = layers;
        self
    }

    /// Puts one more layer around the connector, outside of all that are there.
    pub fn layer(mut self, layer: impl Layer<BoxConnector> + Clone + Send + Sync + 'static) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    /// The metadata that was set.
    #[cfg(feature = "conformance")]
    pub(crate) fn metadata_set(&self) -> Option<&Arc<LMCacheMetadata>> {
        self.metadata.as_ref()
    }

    /// Opens the connector.
    ///
    /// # Errors
    /// As [`ConnectorManager::create_connector`](crate::ConnectorManager::create_connector).
    pub async fn open(self) -> Result<Connector> {
        self.build()?.open().await
    }
}

impl fmt::Debug for ConnectorContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorContext")
            .field("url", self.url())
            .field("plugin_name", &self.0.plugin_name)
            .field("metadata", &self.0.metadata)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ContextBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextBuilder").field("url", &self.url).finish_non_exhaustive()
    }
}
