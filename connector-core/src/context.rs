//! The context that a connector is made from.

mod location;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use connector_macros::connector_options;
use futures::future::FutureExt;

use crate::adapter::{Adapters, PluginAdapter};
use crate::allocator::LocalCpuBackend;
use crate::config::LMCacheEngineConfig;
use crate::connector::{Connector, panicked};
use crate::layer::{LayerOptions, Layers, StoreId};
use crate::metadata::LMCacheMetadata;
use crate::observe::StoreLabels;
use crate::options::{self, ConnectorOptions};
use crate::registry::{self, ConnectorEntry};
use crate::url::{RemoteUrl, redact};
use crate::{Error, ErrorKind, Hint, Result};
pub use location::Location;

/// What a connector is made from: LMCache's `ConnectorContext`. Cheap to clone.
#[derive(Clone)]
pub struct ConnectorContext(Arc<Parts>);

#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) url: RemoteUrl,
    pub(crate) handle: tokio::runtime::Handle,
    pub(crate) local_cpu_backend: LocalCpuBackend,
    pub(crate) config: Arc<LMCacheEngineConfig>,
    pub(crate) metadata: Option<Arc<LMCacheMetadata>>,
    pub(crate) plugin_name: Option<String>,
    pub(crate) entry: Option<&'static ConnectorEntry>,
    pub(crate) adapters: Adapters,
    /// Number of URLs that led to this one.
    pub(crate) depth: usize,
    /// Whether another store opens this one.
    pub(crate) behind: bool,
    /// Shared by all URLs that lead to one store by redirection. A store behind that store has another chain.
    pub(crate) chain: Arc<()>,
    /// Whether the open of this URL has moved on to another URL.
    pub(crate) redirected: Arc<AtomicBool>,
    /// Whether the open of this URL has opened a store behind it.
    pub(crate) has_behind: Arc<AtomicBool>,
    /// Applies to a store whose options do not set it.
    pub(crate) connect: Connect,
    pub(crate) layer_options: LayerOptions,
    pub(crate) existing: bool,
    /// Layer options in the queries of the URLs that led to this one, the nearest first.
    pub(crate) layer_queries: Vec<(String, String)>,
}

/// How `open` treats a server that does not answer. The option `connect` of every connector sets it.
///
/// A wrong answer always fails `open`. Examples are a refused password, another protocol and a missing database.
#[connector_options(crate = crate)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "snake_case")]
pub enum Connect {
    /// `open` fails.
    #[default]
    Eager,
    /// `open` tries for at most one second, logs a warning, and succeeds. The first call connects.
    Lazy,
}

/// Most URLs that may lead to another one. A URL that leads back to itself ends here.
const MAX_DEPTH: usize = 8;

/// The most bytes of [`ConnectorContext::instance`].
const LONGEST_INSTANCE: usize = 128;

impl ConnectorContext {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The URL that kvconn opens, as written: for an adapter, and for messages. The path of an `external://` URL is the
    /// connector's module. A connector reads its host, port, path and options from [`location`](Self::location).
    pub fn url(&self) -> &RemoteUrl {
        &self.0.url
    }

    /// The place of the store and the connector's own options. They are the same for every form of the URL.
    pub fn location(&self) -> Location {
        Location::of(self)
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

    /// The engine's description of its cache, if it gave one.
    pub fn metadata(&self) -> Option<&Arc<LMCacheMetadata>> {
        self.0.metadata.as_ref()
    }

    /// The plugin instance's name, for `plugin://name`: `fs.primary`.
    pub fn plugin_name(&self) -> Option<&str> {
        self.0.plugin_name.as_deref()
    }

    /// How `open` of this store must treat a server that does not answer. The store's own option comes first, then the
    /// setting of the store in front of it, then [`ContextBuilder::connect`](crate::ContextBuilder::connect).
    pub fn connect(&self) -> Connect {
        self.0.connect
    }

    /// Whether to fail instead of making a store that does not exist yet; see
    /// [`ContextBuilder::existing`](crate::ContextBuilder::existing).
    pub fn existing(&self) -> bool {
        self.0.existing
    }

    /// The connector's name in errors: `module/Name`, or the URL's scheme.
    pub fn connector_name(&self) -> String {
        let entry = self.0.entry.or_else(|| registry::entry_of(self.url()));
        entry.map_or_else(|| format!("{}://", self.0.url.scheme()), ConnectorEntry::full_name)
    }

    /// The name of this store among the stores of the process, without a secret: the label `instance` of its
    /// [metrics](crate::observe). It is the plugin's name, or hosts and path of the URL (`h:6379/2`), or the URL of a store
    /// without hosts and path, as [`redact`](crate::redact) shows it. A long name is cut.
    pub fn instance(&self) -> String {
        let name = self.plugin_name().map_or_else(|| self.url().place(), redact);
        let name = match name.trim_end_matches('/') {
            "" => self.url().to_string(),
            name => name.to_owned(),
        };
        if name.len() <= LONGEST_INSTANCE {
            return name;
        }
        format!("{}..", &name[..name.floor_char_boundary(LONGEST_INSTANCE)])
    }

    /// The connector's options; see [`options`] for where they come from.
    ///
    /// # Errors
    /// `InvalidOption` for an unknown option (with the nearest name) or a wrong value, naming the place it came from.
    pub fn options<O: ConnectorOptions>(&self) -> Result<O> {
        options::read(&self.0.url, &self.0.config, self.plugin())
    }

    /// Opens another URL in place of this one: how an adapter opens the store that it chose. That store gets the
    /// [layers](crate::layer) of both URLs; its own URL wins.
    ///
    /// # Errors
    /// As [`open`](crate::open); `InvalidUrl` if more than eight URLs led to this one.
    pub async fn redirect(&self, url: RemoteUrl) -> Result<Connector> {
        self.0.redirected.store(true, Relaxed);
        self.at(url).open().await
    }

    /// Opens the store behind this one: another URL with the rest of this context. An adapter that the builder added
    /// serves it, too. The store behind gets its layers from its own URL only, and no options of this one's plugin. It gets
    /// the builder's breaker in place of this one.
    ///
    /// # Errors
    /// As [`redirect`](Self::redirect).
    pub async fn open_behind(&self, url: RemoteUrl) -> Result<Connector> {
        self.0.has_behind.store(true, Relaxed);
        let ctx = self.at(url).changed(|parts| {
            parts.plugin_name = None;
            parts.layer_queries.clear();
            parts.behind = true;
            parts.chain = Arc::default();
        });
        ctx.open().await
    }

    /// Finds the adapter of the URL, and lets it make the connector.
    pub(crate) async fn open(self) -> Result<Connector> {
        let url = self.url();
        if self.0.depth > MAX_DEPTH {
            let message = format!("`{url}` was reached through {MAX_DEPTH} other URLs");
            return Err(
                Error::new(ErrorKind::InvalidUrl, message).with_hint("does one of them lead back to the first?")
            );
        }
        if url.fragment().is_some() {
            let message = format!("`{url}` has a fragment (`#..`), which kvconn would ignore");
            return Err(Error::new(ErrorKind::InvalidUrl, message)
                .with_hint("remove it, or write `%23` for a literal `#`, also in a password or an option's value"));
        }
        let adapters = self.0.adapters.clone();
        let Some(adapter) = adapters.find(url) else { return Err(registry::no_scheme(url.scheme())) };
        // Checked first: a connector that is opened and then dropped may leave something behind.
        let explain = |e: Error| e.with_operation("open");
        let options = self.layer_options(false).map_err(explain)?;
        let layers = Layers::of(&options)
            .map_err(explain)?
            .labelled(|| StoreLabels::new(&self.connector_name(), self.instance()));
        let in_front = self.layer_options(true).and_then(|options| Layers::of(&options)).map_err(explain)?;
        let ctx = self.changed(|parts| {
            parts.connect = options.connect.unwrap_or(parts.connect);
            parts.redirected = Arc::default();
            parts.has_behind = Arc::default();
        });
        let create = || {
            let created = AssertUnwindSafe(async { adapter.create_connector(ctx.clone()).await }).catch_unwind();
            created.map(|answer| answer.unwrap_or_else(|panic| Err(panicked(&*panic))))
        };
        let connector = layers.open(ctx.connect(), &ctx.0.redirected, create).await;
        let connector = connector.map_err(|e| match e.kind() {
            ErrorKind::Timeout | ErrorKind::Other => explain(e).with_connector(ctx.connector_name()),
            _ => e,
        });
        let is_last = !ctx.is_behind() && ctx.connect() == Connect::Eager && !ctx.0.redirected.load(Relaxed);
        let connector = connector.map_err(|e| if is_last { or_later(e) } else { e })?;
        let layers = if ctx.0.has_behind.load(Relaxed) { in_front } else { layers };
        Ok(connector.layered(&ctx, |name, inner| {
            let layers = layers.labelled(|| StoreLabels::new(name, ctx.instance()));
            layers.around(StoreId::of(ctx.chain()), inner)
        }))
    }

    /// Whether another store opens this one.
    pub(crate) fn is_behind(&self) -> bool {
        self.0.behind
    }

    /// See [`Parts::chain`].
    pub(crate) fn chain(&self) -> &Arc<()> {
        &self.0.chain
    }

    /// The settings of this store's layers. They come from its URL, then from the URLs that led to it. A store that
    /// no other store opens also has the layers of the configuration and of the builder. The builder's breaker belongs to
    /// the store behind, if there is one: the store `in_front` still gives its own chunks while the other is lost.
    pub(crate) fn layer_options(&self, in_front: bool) -> Result<LayerOptions> {
        let chain = self.0.layer_queries.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let queries = options::layer_query(&self.0.url).chain(chain);
        let (others, breaker) = self.0.layer_options.clone().split_breaker();
        let own = match self.0.behind {
            true => options::read_layers(queries, None, None)?,
            false => options::read_layers(queries, Some(&self.0.config), self.plugin())?.or(&others),
        };
        Ok(if in_front { own } else { own.or(&breaker) })
    }

    /// The plugin whose keys in `extra_config` are options of this store, also before its adapter has opened it.
    fn plugin(&self) -> Option<&str> {
        self.plugin_name().or_else(|| PluginAdapter::name_of(&self.0.url))
    }

    pub(crate) fn with_entry(&self, entry: &'static ConnectorEntry) -> Self {
        self.changed(|parts| parts.entry = Some(entry))
    }

    pub(crate) fn with_plugin_name(&self, name: &str) -> Self {
        self.changed(|parts| parts.plugin_name = Some(name.to_owned()))
    }

    fn at(&self, url: RemoteUrl) -> Self {
        self.changed(|parts| {
            let own = options::layer_query(&parts.url).map(|(name, value)| (name.to_owned(), value.to_owned()));
            parts.layer_queries = own.chain(std::mem::take(&mut parts.layer_queries)).collect();
            parts.url = url;
            parts.entry = None;
            parts.depth += 1;
        })
    }

    fn changed(&self, change: impl FnOnce(&mut Parts)) -> Self {
        let mut parts = Parts::clone(&self.0);
        change(&mut parts);
        Self(Arc::new(parts))
    }
}

/// The error of a store whose server may answer later, with the options for that.
#[cold]
fn or_later(e: Error) -> Error {
    const LATER: &str = "`retries` tries again, and `connect=lazy` opens the store before its server answers";
    let is_lost = matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) && e.is_temporary();
    if !is_lost {
        return e;
    }
    let hint = match e.hint() {
        Some(hint) => {
            let both = format!("{hint}{} {LATER}", if hint.ends_with('?') { "" } else { ";" });
            Hint::each(both.clone(), both, hint.to_owned())
        }
        None => Hint::each(LATER, LATER, "`retries` tries again"),
    };
    e.with_hint(hint)
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
