use connector_core::{ConnectorContext, ConnectorOptions, Error, ErrorKind, Result, connector_options};

use crate::resp_wire::{Address, PORT, Servers, WireOptions, WireSettings, database_in};

/// Options of `resp://`. The environment's `LMCACHE_RESP_USERNAME` and `LMCACHE_RESP_PASSWORD` set user and password, too; the
/// URL and the options win.
#[connector_options]
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RespOptions {
    /// Number of the database; the URL's path, if it has one.
    pub database: Option<u32>,
    /// Must be false, as in LMCache: a value has no room for a header.
    pub save_chunk_meta: bool,
    /// The connections.
    #[option(flatten)]
    pub wire: WireSettings,
}

impl ConnectorOptions for RespOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "resp_connector_";
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] = &[
        ("resp_num_threads", "connections"),
        ("username", "username"),
        ("password", "password"),
        ("save_chunk_meta", "save_chunk_meta"),
    ];
}

impl RespOptions {
    /// The options of the connections, from these options, the URL and the environment.
    pub(super) fn wire(mut self, ctx: &ConnectorContext) -> Result<WireOptions> {
        if self.save_chunk_meta {
            let why = "option `save_chunk_meta`: a value of `resp://` is the chunk's bytes and nothing else";
            return Err(Error::new(ErrorKind::InvalidOption, why)
                .with_hint("remove it or set it to false; `redis://` keeps shape, dtype and format"));
        }
        let url = ctx.url();
        let [host] = url.hosts() else {
            let why = format!("`{url}` names {} servers; this store takes one", url.hosts().len());
            return Err(Error::new(ErrorKind::InvalidUrl, why).with_hint("write `resp://host:port`"));
        };
        let address = Address::Tcp { host: host.host.clone(), port: host.port.unwrap_or(PORT) };
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let login = &mut self.wire.login;
        if login.username_file.is_none() {
            login.username = login.username.take().or_else(|| variable("LMCACHE_RESP_USERNAME"));
        }
        if login.password_file.is_none() {
            login.password = login.password.take().or_else(|| variable("LMCACHE_RESP_PASSWORD"));
        }
        let in_url = if url.scheme() == "resp" { database_in(url, "database")? } else { None };
        self.wire.wire(url, Servers::One(address), in_url.or(self.database).unwrap_or(0))
    }
}
