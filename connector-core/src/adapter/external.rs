//! `external://host:port/module_path/?connector_name=ConnectorName`.

use super::{CONNECTOR_NAME, ConnectorAdapter, create_entry};
use crate::connector::Connector;
use crate::context::ConnectorContext;
use crate::registry::{self, ConnectorEntry};
use crate::url::RemoteUrl;
use crate::{Error, ErrorKind, Result};

/// LMCache's `ExternalConnectorAdapter`, with the registry in place of `importlib`.
///
/// The URL names one host and its port (`0` for a store without one). Its path is the module, and the query parameter
/// `connector_name` names the connector. All other query parameters are options of the connector. The option `path` holds
/// the connector's own path: [`Location`](crate::Location).
///
/// Source: `external_adapter.py` of LMCache 0.5.6; its errors are the test vectors in `external_errors.json`.
#[derive(Clone, Copy)]
pub(crate) struct ExternalConnectorAdapter;

impl ExternalConnectorAdapter {
    pub(crate) fn serves(self, url: &RemoteUrl) -> bool {
        url.scheme() == "external"
    }

    /// The registry's entry that an `external://` URL names.
    ///
    /// # Errors
    /// `InvalidUrl` for several hosts, or without a host, port, module or connector name. Otherwise as [`registry::find`].
    pub(crate) fn resolve(url: &RemoteUrl) -> Result<&'static ConnectorEntry> {
        url.require_host_port()?;
        let invalid = |why: &str| {
            Error::new(ErrorKind::InvalidUrl, format!("`{url}` {why}"))
                .with_hint("write `external://host:port/module_path/?connector_name=ConnectorName`")
        };
        let module = url.path().trim_matches('/');
        let name = url.query(CONNECTOR_NAME).ok_or_else(|| invalid("has no `connector_name` in its query"))?;
        if module.is_empty() {
            return Err(invalid("names no module"));
        }
        // Another text may be a piece of a password, and the error of a name that is not registered shows the name.
        if !module.split('.').all(registry::is_identifier) {
            return Err(invalid("has a path that is not a module")
                .with_hint("write the module alone, and the connector's own path as the option `path=/dir`"));
        }
        if !registry::is_identifier(name) {
            return Err(invalid("has a `connector_name` that is not an identifier"));
        }
        registry::find(module, name)
    }

    /// LMCache reads every comma as one between hosts, also behind the host. kvconn refuses the same URLs.
    fn refuse_comma(url: &RemoteUrl) -> Result<()> {
        if !url.expose().contains(',') {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidUrl,
            format!("only one host is supported for external connector, but `{url}` has a comma"),
        )
        .with_hint("name one host; inside an option's value write a comma as `%2C`"))
    }
}

#[diagnostic::do_not_recommend]
impl ConnectorAdapter for ExternalConnectorAdapter {
    fn can_parse(&self, url: &RemoteUrl) -> bool {
        self.serves(url)
    }

    async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
        Self::refuse_comma(ctx.url())?;
        let entry = Self::resolve(ctx.url())?;
        create_entry(entry, ctx).await
    }
}
