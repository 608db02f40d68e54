use connector_core::{ConnectorContext, ConnectorOptions, Error, ErrorKind, Result};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::resp_wire::{Address, MAX_VALUE, PORT, Settings, WireOptions, database_in, decoded, protocol_schema};

/// Options of `resp://`.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RespOptions {
    /// Connections for chunks: so many are read or written at once. A few more serve everything else.
    pub connections: usize,
    /// User of the server's access list; the URL's, if it has one. Without one, the environment's
    /// `LMCACHE_RESP_USERNAME`, or the server's default user.
    pub username: Option<String>,
    /// Password; the URL's, if it has one. Without one, the environment's `LMCACHE_RESP_PASSWORD`.
    pub password: Option<String>,
    /// Number of the database; the URL's path, if it has one.
    pub database: Option<u32>,
    /// Longest time until a new connection is ready, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Longest time without a byte in the middle of a call, in milliseconds. A large chunk that stops half-way may take twice
    /// as long to fail.
    pub io_timeout_ms: u64,
    /// `2` or `3` for RESP2 or RESP3; `auto` for RESP3 where the server knows it.
    #[schemars(schema_with = "protocol_schema")]
    pub protocol: String,
    /// What `CLIENT LIST` on the server calls the connections.
    pub client_name: String,
    /// Largest value that is read or written, in bytes.
    pub max_value_bytes: u64,
    /// Must be false, as for LMCache: a value has no room for it.
    pub save_chunk_meta: bool,
}

impl Default for RespOptions {
    fn default() -> Self {
        Self {
            connections: 8,
            username: None,
            password: None,
            database: None,
            connect_timeout_ms: 5_000,
            io_timeout_ms: 10_000,
            protocol: "auto".to_owned(),
            client_name: "kvconn".to_owned(),
            max_value_bytes: MAX_VALUE,
            save_chunk_meta: false,
        }
    }
}

/// Without user, password and URL.
impl std::fmt::Debug for RespOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RespOptions")
            .field("connections", &self.connections)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
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
    /// What the connections are made from: these options and the URL.
    pub(super) fn wire(self, ctx: &ConnectorContext) -> Result<WireOptions> {
        self.check()?;
        let url = ctx.url();
        let [host] = url.hosts() else {
            return Err(Error::new(
                ErrorKind::InvalidUrl,
                format!("`{url}` names {} servers, where one is needed", url.hosts().len()),
            )
            .with_hint("write `resp://host:port`"));
        };
        let address = Address::Tcp { host: host.host.clone(), port: host.port.unwrap_or(PORT) };
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut wire = WireOptions::new(address);
        wire.password = match url.password() {
            Some(password) => Some(decoded(password, "password", url)?),
            None => self.password.or_else(|| variable("LMCACHE_RESP_PASSWORD")),
        };
        wire.username = match url.username() {
            Some(username) => Some(decoded(username, "user name", url)?),
            None => self.username.or_else(|| variable("LMCACHE_RESP_USERNAME")),
        };
        let in_url = if url.scheme() == "resp" { database_in(url)? } else { None };
        wire.database = in_url.or(self.database).unwrap_or(0);
        wire.set(Settings {
            connections: self.connections,
            protocol: self.protocol,
            client_name: self.client_name,
            connect_timeout_ms: self.connect_timeout_ms,
            io_timeout_ms: self.io_timeout_ms,
            max_value_bytes: self.max_value_bytes,
        })?;
        Ok(wire)
    }

    /// Refuses what cannot be had.
    fn check(&self) -> Result<()> {
        let wrong = |why: String| Error::new(ErrorKind::InvalidOption, why);
        if self.save_chunk_meta {
            return Err(wrong(
                "option `save_chunk_meta`: a value of `resp://` is the chunk's bytes and nothing else".into(),
            )
            .with_hint("leave it out or set it to false; `redis://` keeps shape, dtype and format"));
        }
        Ok(())
    }
}
