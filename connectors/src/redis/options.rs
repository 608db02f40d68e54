use std::path::PathBuf;
use std::time::Duration;

use connector_core::{ConnectorContext, ConnectorOptions, Error, ErrorKind, RemoteUrl, Result};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::resp_wire::{Address, Limits, Protocol, WireOptions, decoded};

/// Options of `redis://` and `unix://`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
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
    /// Longest time without a byte in the middle of a call, in milliseconds.
    pub io_timeout_ms: u64,
    /// `2` or `3` for RESP2 or RESP3; `auto` for RESP3 where the server knows it.
    #[schemars(schema_with = "protocol_schema")]
    pub protocol: String,
    /// What `CLIENT LIST` on the server calls the connections; empty (in `extra_config`) for nothing.
    pub client_name: String,
    /// Largest chunk that is read or written, in bytes.
    pub max_value_bytes: u64,
}

/// Redis' own limit.
const MAX_VALUE: u64 = 512 << 20;
/// Where redis listens.
const PORT: u16 = 6379;
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

fn protocol_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["auto", "2", "3"] })
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
        wire.client_name = Some(self.client_name.clone()).filter(|name| !name.is_empty());
        wire.protocol = match self.protocol.as_str() {
            "2" => Protocol::Resp2,
            "3" => Protocol::Resp3,
            _ => Protocol::Auto,
        };
        wire.connections = self.connections;
        wire.connect_timeout = Duration::from_millis(self.connect_timeout_ms);
        wire.io_timeout = Duration::from_millis(self.io_timeout_ms);
        let payload = usize::try_from(self.max_value_bytes).unwrap_or(usize::MAX);
        wire.limits = Limits { payload, ..Limits::default() };
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
        let path = url.path().trim_matches('/');
        if url.query("db").is_some() || url.scheme() != "redis" || path.is_empty() {
            return Ok(self.db.unwrap_or(0));
        }
        path.parse().map_err(|_| {
            Error::new(ErrorKind::InvalidUrl, format!("`{url}`: the path `{path}` is no database's number"))
                .with_hint("write `redis://host:port/0`, or leave it out")
        })
    }

    /// Refuses what cannot be had.
    fn check(&self) -> Result<()> {
        let wrong = |why: String| Error::new(ErrorKind::InvalidOption, why);
        if self.refresh_ttl && self.ttl_sec.is_none() {
            return Err(wrong("option `refresh_ttl` has nothing to renew".into())
                .with_hint("set `ttl_sec`, the seconds that a chunk lives"));
        }
        if !matches!(self.protocol.as_str(), "auto" | "2" | "3") {
            return Err(
                wrong(format!("option `protocol`: `{}` is none", self.protocol)).with_hint("write `auto`, `2` or `3`")
            );
        }
        for (name, value, most) in [
            ("connections", self.connections as u64, 1024),
            ("ttl_sec", self.ttl_sec.unwrap_or(1), MAX_TTL),
            ("connect_timeout_ms", self.connect_timeout_ms, 3_600_000),
            ("io_timeout_ms", self.io_timeout_ms, 3_600_000),
            ("max_value_bytes", self.max_value_bytes, MAX_VALUE),
        ] {
            if value == 0 || value > most {
                return Err(wrong(format!("option `{name}`: {value} is not between 1 and {most}")));
            }
        }
        if let Some(c) = self.client_name.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(wrong(format!("option `client_name`: it holds {c:?}, which redis does not take")));
        }
        Ok(())
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
