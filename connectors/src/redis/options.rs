use std::path::PathBuf;

use connector_core::{ConnectorContext, ConnectorOptions, Error, ErrorKind, RemoteUrl, Result};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::resp_wire::{
    Address, MAX_VALUE, PORT, Settings, WireOptions, check_range, database_in, decoded, protocol_schema,
};

/// Options of `redis://` and `unix://`.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RedisOptions {
    /// Connections for chunks: so many are read or written at once. A few more serve everything else.
    pub connections: usize,
    /// Seconds that a chunk lives after it was put. For ever, or until the server evicts it, unless set.
    pub ttl_sec: Option<u64>,
    /// Whether a chunk that is read lives for `ttl_sec` from then on, whoever put it.
    pub refresh_ttl: bool,
    /// Seconds for which bytes without a header are left alone: LMCache writes the header last.
    pub orphan_grace_sec: u64,
    /// User of the server's access list; the URL's, if it has one. The server's default user unless set.
    pub username: Option<String>,
    /// Password; the URL's, if it has one.
    pub password: Option<String>,
    /// Number of the database, as in LMCache's `?db=2`; the URL's path says it, too.
    pub db: Option<u32>,
    /// The server, for `plugin://redis` and `external://`: `redis://host:port/database` or `unix:///path`.
    pub redis_url: Option<String>,
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
    /// Largest chunk that is read or written, in bytes.
    pub max_value_bytes: u64,
}

/// Ten years: what the server takes for a time and nobody for a mistake.
const MAX_TTL: u64 = 315_360_000;

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            connections: 8,
            ttl_sec: None,
            refresh_ttl: false,
            orphan_grace_sec: 10,
            username: None,
            password: None,
            db: None,
            redis_url: None,
            connect_timeout_ms: 5_000,
            io_timeout_ms: 10_000,
            protocol: "auto".to_owned(),
            client_name: "kvconn".to_owned(),
            max_value_bytes: MAX_VALUE,
        }
    }
}

/// Without user, password and URL.
impl std::fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisOptions")
            .field("connections", &self.connections)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

impl ConnectorOptions for RedisOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "redis_connector_";
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] = &[("redis_url", "redis_url")];
}

impl RedisOptions {
    /// What the connections are made from: these options and the URL.
    pub(super) fn wire(&self, ctx: &ConnectorContext) -> Result<WireOptions> {
        self.check()?;
        let url = self.server(ctx)?;
        let mut wire = WireOptions::new(address(&url)?);
        wire.password = match url.password() {
            Some(password) => Some(decoded(password, "password", &url)?),
            None => self.password.clone(),
        };
        wire.username = match url.username() {
            Some(username) => Some(decoded(username, "user name", &url)?),
            None => self.username.clone(),
        };
        wire.database = self.database(&url)?;
        wire.set(Settings {
            connections: self.connections,
            protocol: self.protocol.clone(),
            client_name: self.client_name.clone(),
            connect_timeout_ms: self.connect_timeout_ms,
            io_timeout_ms: self.io_timeout_ms,
            max_value_bytes: self.max_value_bytes,
        })?;
        Ok(wire)
    }

    /// The URL that names the server.
    fn server(&self, ctx: &ConnectorContext) -> Result<RemoteUrl> {
        let url = ctx.url();
        if is_server(url) {
            // In `extra_config` it is meant for a plugin.
            return match url.query("redis_url") {
                None => Ok(url.clone()),
                Some(_) => Err(Error::new(ErrorKind::InvalidUrl, format!("`{url}` names the server twice"))
                    .with_hint("leave out the option `redis_url`")),
            };
        }
        let Some(text) = self.redis_url.as_deref() else {
            return match (url.scheme(), &ctx.config().remote_url) {
                ("plugin", Some(text)) if RemoteUrl::parse(text).is_ok_and(|url| is_server(&url)) => {
                    RemoteUrl::parse(text)
                }
                // As LMCache.
                ("plugin", _) => RemoteUrl::parse("redis://localhost:6379"),
                _ => Ok(url.clone()),
            };
        };
        let server = RemoteUrl::parse(text)?;
        if !is_server(&server) {
            return Err(Error::new(
                ErrorKind::InvalidOption,
                format!("option `redis_url`: `{server}` is neither `redis://` nor `unix://`"),
            )
            .with_hint("write `redis://host:port` or `unix:///path`"));
        }
        if let Some((name, _)) = server.query_pairs().next() {
            let why = format!("option `redis_url`: `{server}` holds the option `{name}`");
            return Err(Error::new(ErrorKind::InvalidOption, why).with_hint("write it beside `redis_url`"));
        }
        Ok(server)
    }

    /// As LMCache: the option in the URL, then the path.
    fn database(&self, url: &RemoteUrl) -> Result<u32> {
        if url.query("db").is_some() || url.scheme() != "redis" {
            return Ok(self.db.unwrap_or(0));
        }
        Ok(database_in(url)?.or(self.db).unwrap_or(0))
    }

    /// Refuses what cannot be had.
    fn check(&self) -> Result<()> {
        let wrong = |why: String| Error::new(ErrorKind::InvalidOption, why);
        if self.refresh_ttl && self.ttl_sec.is_none() {
            return Err(wrong("option `refresh_ttl` has nothing to renew".into())
                .with_hint("set `ttl_sec`, the seconds that a chunk lives"));
        }
        check_range("ttl_sec", self.ttl_sec.unwrap_or(1), MAX_TTL)
    }
}

/// Whether such a URL names a server by itself.
fn is_server(url: &RemoteUrl) -> bool {
    matches!(url.scheme(), "redis" | "unix")
}

fn address(url: &RemoteUrl) -> Result<Address> {
    let wrong = |why: String, hint: &'static str| Err(Error::new(ErrorKind::InvalidUrl, why).with_hint(hint));
    if url.scheme() == "unix" {
        // LMCache passes a host by in silence.
        if let Some(host) = url.host().filter(|host| *host != "localhost") {
            return wrong(
                format!("`{url}` has the host `{host}`, and a unix socket has none"),
                "write three slashes: `unix:///path/to/socket`",
            );
        }
        if url.path().is_empty() {
            return wrong(format!("`{url}` names no socket"), "write `unix:///path/to/socket`");
        }
        return Ok(Address::Unix(PathBuf::from(decoded(url.path(), "path", url)?)));
    }
    match url.hosts() {
        // As LMCache's client.
        [] => Ok(Address::Tcp { host: "localhost".to_owned(), port: PORT }),
        [one] => Ok(Address::Tcp { host: one.host.clone(), port: one.port.unwrap_or(PORT) }),
        several => {
            wrong(format!("`{url}` names {} servers, where one is needed", several.len()), "write `redis://host:port`")
        }
    }
}
