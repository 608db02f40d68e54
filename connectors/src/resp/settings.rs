//! The options that all stores of plain values share.

use connector_core::{ConnectorContext, Error, ErrorKind, Result, connector_options};

use crate::resp_wire::{TtlSettings, WireOptions, WireSettings, database_in};

/// Options of a store of plain values.
#[connector_options]
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PlainSettings {
    /// Number of the database; the URL's path, if it has one.
    pub database: Option<u32>,
    /// Prefix of every name on the server, followed by `@`, as in LMCache's `valkey` adapter. It stands behind the
    /// namespace, and holds no `@`.
    pub key_prefix: Option<String>,
    /// The time for which chunks live.
    #[option(flatten)]
    pub ttl: TtlSettings,
    /// Must be false, as in LMCache: a value has no room for a header.
    pub save_chunk_meta: bool,
    /// The connections.
    #[option(flatten)]
    pub wire: WireSettings,
}

impl PlainSettings {
    /// The options of the connections, from these options and the URL.
    pub(super) fn wire(&self, ctx: &ConnectorContext) -> Result<WireOptions> {
        let wrong =
            |why: &'static str, hint: &'static str| Err(Error::new(ErrorKind::InvalidOption, why).with_hint(hint));
        self.ttl.check(self.wire.replica_reads)?;
        if self.save_chunk_meta {
            return wrong(
                "option `save_chunk_meta`: a value of this store is the chunk's bytes and nothing else",
                "remove it or set it to false; `redis://` keeps shape, dtype and format",
            );
        }
        if ctx.config().use_layerwise {
            return wrong(
                "`use_layerwise`: a value of this store has no room for the layout of a layer's chunk",
                "use `redis://`, which keeps layouts, or turn off `use_layerwise`",
            );
        }
        let key_prefix = self.key_prefix.as_deref().unwrap_or_default();
        if key_prefix.contains('@') {
            return wrong(
                "option `key_prefix` holds an `@`, which ends the prefix on the server",
                "write the prefix without `@`; `namespace` divides it further",
            );
        }
        let (url, location) = (ctx.url(), ctx.location());
        if location.scheme().is_none() && location.host().is_none() {
            return wrong(
                "the plugin names no server",
                "set `remote_storage_plugin.<name>.url` in extra_config, as in `resp://host:port`",
            );
        }
        let in_url = database_in(url, location.path(), "database")?;
        let database = in_url.or(self.database).unwrap_or(0);
        let mut options = self.wire.clone().wire(url, self.wire.servers(url)?, database)?;
        if !key_prefix.is_empty() {
            options.prefix += &format!("{key_prefix}@");
        }
        Ok(options)
    }
}
