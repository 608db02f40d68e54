//! Adapters: who makes a connector of which URL.

mod external;
mod plugin;
mod scheme;

use std::future::Future;

use futures::future::BoxFuture;

use crate::Result;
use crate::connector::Connector;
use crate::context::ConnectorContext;
use crate::url::RemoteUrl;

pub use external::ExternalConnectorAdapter;
pub use plugin::PluginAdapter;
pub use scheme::SchemeAdapter;

/// The query parameter of `external://` that names the connector; never an option.
pub(crate) const CONNECTOR_NAME: &str = "connector_name";
/// What a plugin's keys in `extra_config` start with.
pub(crate) const PLUGIN_KEY_PREFIX: &str = "remote_storage_plugin.";
/// The plugin's keys that are not options of its connector.
pub(crate) const PLUGIN_OWN_KEYS: [&str; 3] = ["module_path", "class_name", "url"];

/// Decides by URL whether it is in charge, and makes the connector: LMCache's `ConnectorAdapter`.
///
/// Most connectors need none: `#[external_connector(.., scheme = "acme")]` gives them a URL. An adapter is for a scheme
/// that chooses between connectors, or wraps one. Register it with `#[connector_adapter(scheme = "..")]`, or add it to a
/// [`ConnectorManager`](crate::ConnectorManager) by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an adapter: `ConnectorAdapter` is not implemented for it",
    label = "this struct is registered with `#[connector_adapter]`",
    note = "write `impl ConnectorAdapter for {Self} {{ .. }}` with `can_parse` and `create_connector`"
)]
pub trait ConnectorAdapter: Send + Sync + 'static {
    /// Whether this adapter makes connectors of such URLs.
    fn can_parse(&self, url: &RemoteUrl) -> bool;

    /// Makes the connector.
    ///
    /// # Errors
    /// Whatever keeps the connector from working, as one sentence that says what to change.
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

/// Makes the connector of a registry entry, after a look at its options.
async fn create_entry(entry: &'static crate::registry::ConnectorEntry, ctx: ConnectorContext) -> Result<Connector> {
    let ctx = ctx.with_entry(entry);
    let name = entry.full_name();
    let created = async {
        if ctx.url().fragment().is_some() {
            return Err(crate::Error::new(
                crate::ErrorKind::InvalidUrl,
                format!("`{}` has a `#`, and what stands behind it would be left out", ctx.url()),
            )
            .with_hint(
                "leave it out; in an option's value or a password write `%23`, also for a `#` in `base_path=`",
            ));
        }
        if let Some(schema) = entry.options() {
            crate::options::check_query(ctx.url(), &schema)?;
        }
        match entry.create(ctx.clone()) {
            Some(created) => created.await.map(|connector| Connector::over(&*name, connector)),
            None => Err(crate::Error::new(crate::ErrorKind::NotFound, "this entry makes no connector")),
        }
    };
    let connector = created.await.map_err(|e| e.with_operation("open").with_connector(&name))?;
    tracing::debug!(connector = %name, url = %ctx.url(), "opened");
    Ok(connector)
}
