//! `acme://..`: the short URL of a connector that claims a scheme.

use super::{ConnectorAdapter, create_entry};
use crate::connector::Connector;
use crate::context::ConnectorContext;
use crate::registry::{self, SchemeOwner};
use crate::url::RemoteUrl;
use crate::{Error, ErrorKind, Result};

/// Serves every scheme that a registered connector or adapter claims.
#[derive(Debug, Clone, Copy, Default)]
pub struct SchemeAdapter;

#[diagnostic::do_not_recommend]
impl ConnectorAdapter for SchemeAdapter {
    /// Also for a scheme that is claimed twice: the error belongs to whoever opens it.
    fn can_parse(&self, url: &RemoteUrl) -> bool {
        !matches!(registry::index().find_scheme(url.scheme()), Ok(None))
    }

    async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
        let index = registry::index();
        match index.find_scheme(ctx.url().scheme())? {
            Some(SchemeOwner::Connector(entry)) => create_entry(entry, ctx).await,
            Some(SchemeOwner::Adapter(entry)) => match entry.make() {
                Some(adapter) if adapter.can_parse(ctx.url()) => adapter.create_connector(ctx).await,
                _ => Err(Error::new(
                    ErrorKind::InvalidUrl,
                    format!("the adapter of `{}://` at {} refuses `{}`", entry.scheme(), entry.origin(), ctx.url()),
                )),
            },
            None => Err(index.no_scheme(ctx.url().scheme())),
        }
    }
}
