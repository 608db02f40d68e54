//! `acme://..`: the short URL of a connector that claims a scheme.

use super::{ConnectorAdapter, create_entry};
use crate::connector::Connector;
use crate::context::ConnectorContext;
use crate::registry::{self, SchemeOwner};
use crate::url::RemoteUrl;
use crate::{Error, ErrorKind, Result};

/// Serves every scheme that a registered connector or adapter claims.
pub(super) struct SchemeAdapter;

#[diagnostic::do_not_recommend]
impl ConnectorAdapter for SchemeAdapter {
    /// Also for a scheme that is claimed twice: opening it then gives the conflict.
    fn can_parse(&self, url: &RemoteUrl) -> bool {
        !matches!(registry::find_scheme(url.scheme()), Ok(None))
    }

    async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
        match registry::find_scheme(ctx.url().scheme())? {
            Some(SchemeOwner::Connector(entry)) => create_entry(entry, ctx).await,
            Some(SchemeOwner::Adapter(entry)) => {
                let adapter = entry.make();
                if adapter.can_parse(ctx.url()) {
                    return adapter.create_connector(ctx).await;
                }
                let (scheme, origin) = (entry.scheme(), entry.origin());
                let message = format!("the adapter of `{scheme}://` at {origin} refuses `{}`", ctx.url());
                Err(Error::new(ErrorKind::InvalidUrl, message))
            }
            None => Err(registry::no_scheme(ctx.url().scheme())),
        }
    }
}
