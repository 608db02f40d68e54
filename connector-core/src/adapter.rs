//! Adapters: each makes the connectors of some URLs.

mod external;
mod plugin;
mod scheme;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::connector::Connector;
use crate::context::ConnectorContext;
use crate::registry::{ConnectorEntry, UrlForm};
use crate::url::RemoteUrl;
use crate::{Result, options};

pub(crate) use external::ExternalConnectorAdapter;
pub(crate) use plugin::PluginAdapter;
use scheme::SchemeAdapter;

/// The query parameter of `external://` that names the connector; never an option.
pub(crate) const CONNECTOR_NAME: &str = "connector_name";
/// The prefix of a plugin's keys in `extra_config`.
pub(crate) const PLUGIN_KEY_PREFIX: &str = "remote_storage_plugin.";
/// The plugin's keys that are not options of its connector.
pub(crate) const PLUGIN_OWN_KEYS: [&str; 3] = ["module_path", "class_name", "url"];

/// Makes the connectors of the URLs that it accepts: LMCache's `ConnectorAdapter`.
///
/// Most connectors need none: `#[external_connector(.., scheme = "acme")]` gives them a URL. Write an adapter for a scheme
/// that chooses between connectors, or wraps one. Register it with `#[connector_adapter(scheme = "..")]`, or add it with
/// [`ContextBuilder::adapter`](crate::ContextBuilder::adapter).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an adapter: `ConnectorAdapter` is not implemented for it",
    label = "this struct is registered with `#[connector_adapter]`",
    note = "write `impl ConnectorAdapter for {Self} {{ .. }}` with `can_parse` and `create_connector`"
)]
pub trait ConnectorAdapter: Send + Sync + 'static {
    /// Whether this adapter makes the connector of `url`.
    fn can_parse(&self, url: &RemoteUrl) -> bool;

    /// Makes the connector.
    ///
    /// # Errors
    /// The reason why the connector cannot work, as one sentence that says how to change it.
    fn create_connector(&self, ctx: ConnectorContext) -> impl Future<Output = Result<Connector>> + Send;
}

/// The twin that can be a trait object.
pub(crate) trait DynAdapter: Send + Sync + 'static {
    fn can_parse(&self, url: &RemoteUrl) -> bool;
    fn create_connector(&self, ctx: ConnectorContext) -> BoxFuture<'_, Result<Connector>>;
}

impl<T: ConnectorAdapter> DynAdapter for T {
    fn can_parse(&self, url: &RemoteUrl) -> bool {
        ConnectorAdapter::can_parse(self, url)
    }

    fn create_connector(&self, ctx: ConnectorContext) -> BoxFuture<'_, Result<Connector>> {
        Box::pin(ConnectorAdapter::create_connector(self, ctx))
    }
}

/// The adapters of one open call. kvconn first asks the adapters of the builder, and then the adapters of
/// `external://`, of `plugin://` and of the schemes that linked crates claim.
#[derive(Clone)]
pub(crate) struct Adapters(Arc<Vec<Arc<dyn DynAdapter>>>);

impl Default for Adapters {
    fn default() -> Self {
        Self(Arc::new(vec![Arc::new(ExternalConnectorAdapter), Arc::new(PluginAdapter), Arc::new(SchemeAdapter)]))
    }
}

impl Adapters {
    pub(crate) fn insert(&mut self, adapter: impl ConnectorAdapter) {
        Arc::make_mut(&mut self.0).insert(0, Arc::new(adapter));
    }

    pub(crate) fn find(&self, url: &RemoteUrl) -> Option<&dyn DynAdapter> {
        self.0.iter().find(|adapter| adapter.can_parse(url)).map(|adapter| &**adapter)
    }
}

/// Makes the connector of a registry entry, after a check of the URL's options.
async fn create_entry(entry: &'static ConnectorEntry, ctx: ConnectorContext) -> Result<Connector> {
    let ctx = ctx.with_entry(entry);
    let name = entry.full_name();
    let created = async {
        if let Some(form) = UrlForm::of(entry, ctx.url().scheme()) {
            form.check(ctx.url())?;
        }
        UrlForm::check_path(entry, &ctx.location())?;
        if let Some(schema) = entry.options() {
            options::check_query(ctx.url(), schema)?;
        }
        entry.create(ctx.clone()).await
    };
    let connector = created.await.map_err(|e| e.with_operation("open").with_connector(&name))?;
    tracing::debug!(connector = %name, url = %ctx.url(), "opened");
    Ok(Connector::over(&*name, connector))
}
