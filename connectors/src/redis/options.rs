use std::path::PathBuf;

use connector_core::{ConnectorContext, ConnectorOptions, Error, ErrorKind, HostPort, RemoteUrl, Result, connector_options};
use percent_encoding::percent_decode_str;

use super::SentinelSettings;
use crate::resp_wire::{Address, PORT, Servers, WireOptions, WireSettings, check_range, database_in};

/// Options of `redis://` and `unix://`.
#[connector_options]
#[derive(Clone)]
#[non_exhaustive]
pub struct RedisOptions {
    /// Time that a chunk lives after its put. Without it, a chunk lives until the server evicts it.
    #[option(unit = "seconds")]
    pub ttl_sec: Option<u64>,
    /// Whether a read starts the time of `ttl_sec` again, also for a chunk that another client put.
    pub refresh_ttl: bool,
    /// Time for which the store ignores bytes without a header: LMCache writes the header last.
    #[option(unit = "seconds")]
    pub orphan_grace_sec: u64,
    /// Number of the database, as in LMCache's `?db=2`; the URL's path may give it, too.
    pub db: Option<u32>,
    /// The server, for `plugin://redis` and `external://`: `redis://host:port/database` or `unix:///path`.
    pub redis_url: Option<RemoteUrl>,
    /// The sentinels.
    #[option(flatten)]
    pub sentinels: SentinelSettings,
    /// The connections.
    #[option(flatten)]
    pub wire: WireSettings,
}

/// Ten years. A longer time is a mistake, and the server refuses the longest ones.
const MAX_TTL: u64 = 315_360_000;

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            ttl_sec: None,
            refresh_ttl: false,
            orphan_grace_sec: 10,
            db: None,
            redis_url: None,
            sentinels: SentinelSettings::default(),
            wire: WireSettings::default(),
        }
    }
}

/// Without user, password and URL.
impl std::fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisOptions").field("ttl_sec", &self.ttl_sec).field("wire", &self.wire).finish_non_exhaustive()
    }
}

impl ConnectorOptions for RedisOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "redis_connector_";
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] = &[("redis_url", "redis_url")];
}

impl RedisOptions {
    /// The options of the connections, from these options and the URL.
    pub(super) fn wire(&self, ctx: &ConnectorContext) -> Result<WireOptions> {
        self.check()?;
        let url = self.server(ctx)?;
        let database = self.database(&url)?;
        let wire = self.wire.clone().wire(&url, self.servers(&url)?, database)?;
        Ok(WireOptions { transactions: self.ttl_sec.is_some(), ..wire })
    }

    /// The URL that names the server.
    fn server(&self, ctx: &ConnectorContext) -> Result<RemoteUrl> {
        let url = ctx.url();
        if is_server(url) {
            // In `extra_config` the option is for a plugin.
            return match url.query("redis_url") {
                None => Ok(url.clone()),
                Some(_) => Err(Error::new(ErrorKind::InvalidUrl, format!("`{url}` names the server twice"))
                    .with_hint("remove the option `redis_url`")),
            };
        }
        let Some(server) = &self.redis_url else {
            return match (url.scheme(), &ctx.config().remote_url) {
                ("plugin", Some(text)) if RemoteUrl::parse(text).is_ok_and(|url| is_server(&url)) => {
                    RemoteUrl::parse(text)
                }
                // As in LMCache.
                ("plugin", _) => RemoteUrl::parse("redis://localhost:6379"),
                _ => Ok(url.clone()),
            };
        };
        if !is_server(server) {
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
        Ok(server.clone())
    }

    fn database(&self, url: &RemoteUrl) -> Result<u32> {
        let in_path = if url.scheme() == "redis" { database_in(url, "db")? } else { None };
        Ok(in_path.or(self.db).unwrap_or(0))
    }

    fn servers(&self, url: &RemoteUrl) -> Result<Servers> {
        match url.scheme() {
            "redis-sentinel" => self.sentinels.resolve(url).map(Servers::Sentinel),
            "redis-cluster" => Ok(Servers::Cluster(addresses(url, PORT))),
            _ => address(url).map(Servers::One),
        }
    }

    /// Refuses wrong values.
    fn check(&self) -> Result<()> {
        let wrong = |why: String| Error::new(ErrorKind::InvalidOption, why);
        if self.refresh_ttl && self.ttl_sec.is_none() {
            return Err(wrong("option `refresh_ttl` needs `ttl_sec`".into())
                .with_hint("set `ttl_sec`, the number of seconds that a chunk lives"));
        }
        check_range("ttl_sec", self.ttl_sec.unwrap_or(1), MAX_TTL)
    }
}

/// Whether the URL names a server.
fn is_server(url: &RemoteUrl) -> bool {
    matches!(url.scheme(), "redis" | "redis-sentinel" | "redis-cluster" | "unix")
}

/// The hosts of a URL that may name several.
pub(super) fn addresses(url: &RemoteUrl, port: u16) -> Vec<Address> {
    let one = |one: &HostPort| Address::Tcp { host: one.host.clone(), port: one.port.unwrap_or(port) };
    url.hosts().iter().map(one).collect()
}

fn address(url: &RemoteUrl) -> Result<Address> {
    let wrong = |why: String, hint: &'static str| Err(Error::new(ErrorKind::InvalidUrl, why).with_hint(hint));
    if url.scheme() == "unix" {
        // LMCache ignores a host.
        if let Some(host) = url.host().filter(|host| *host != "localhost") {
            return wrong(
                format!("`{url}` has the host `{host}`, but a unix socket has none"),
                "write three slashes: `unix:///path/to/socket`",
            );
        }
        if let Some(port) = url.port() {
            return wrong(format!("`{url}` has the port {port}, but a unix socket has none"), "remove the port");
        }
        if url.path().is_empty() {
            return wrong(format!("`{url}` names no socket"), "write `unix:///path/to/socket`");
        }
        let path = percent_decode_str(url.path()).decode_utf8();
        let not_text = |_| Error::new(ErrorKind::InvalidUrl, format!("`{url}`: the percent-decoded path is not UTF-8"));
        return Ok(Address::Unix(PathBuf::from(path.map_err(not_text)?.as_ref())));
    }
    match url.hosts() {
        // As in LMCache's client.
        [] => Ok(Address::Tcp { host: "localhost".to_owned(), port: PORT }),
        [one] => Ok(Address::Tcp { host: one.host.clone(), port: one.port.unwrap_or(PORT) }),
        several => {
            wrong(format!("`{url}` names {} servers; this store takes one", several.len()), "write `redis://host:port`")
        }
    }
}
