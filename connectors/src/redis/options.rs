use std::path::PathBuf;

use connector_core::{
    ConnectorContext, ConnectorOptions, Error, ErrorKind, Location, RemoteUrl, Result, connector_options,
};
use percent_encoding::percent_decode_str;

use super::SentinelSettings;
use crate::resp_wire::{
    Address, PORT, Servers, TtlSettings, WireOptions, WireSettings, cluster_of, database_in, plain_scheme,
};

/// Options of `redis://`, `unix://`, `redis-sentinel://` and `redis-cluster://`.
#[connector_options]
#[derive(Clone)]
#[non_exhaustive]
pub struct RedisOptions {
    /// The time for which chunks live.
    #[option(flatten)]
    pub ttl: TtlSettings,
    /// Time for which the store ignores bytes without a header: LMCache writes the header last.
    #[option(unit = "seconds")]
    pub orphan_grace_sec: u64,
    /// Number of the database, as in LMCache's `?db=2`; the URL's path may give it, too.
    pub db: Option<u32>,
    /// The server, for `plugin://redis` and `external://`: `redis://host:port/database`, `unix:///path`, or another URL
    /// of this store without options.
    pub redis_url: Option<RemoteUrl>,
    /// The sentinels.
    #[option(flatten)]
    pub sentinels: SentinelSettings,
    /// The connections.
    #[option(flatten)]
    pub wire: WireSettings,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            ttl: TtlSettings::default(),
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
        f.debug_struct("RedisOptions").field("ttl", &self.ttl).field("wire", &self.wire).finish_non_exhaustive()
    }
}

impl ConnectorOptions for RedisOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "redis_connector_";
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] = &[("redis_url", "redis_url")];
}

impl RedisOptions {
    /// The options of the connections, from these options and the URL.
    pub(super) fn wire(&self, ctx: &ConnectorContext) -> Result<WireOptions> {
        self.ttl.check(self.wire.replica_reads)?;
        let location = ctx.location();
        let url = self.server(ctx, &location)?;
        let database = self.database(&url, &location)?;
        let wire = self.wire.clone().wire(&url, self.servers(&url)?, database)?;
        // In a cluster each value has its own `SET`.
        let transactions = self.ttl.ttl_sec.is_some() && !matches!(wire.servers, Servers::Cluster(_));
        Ok(WireOptions { transactions, ..wire })
    }

    /// The URL that names the server.
    fn server(&self, ctx: &ConnectorContext, location: &Location) -> Result<RemoteUrl> {
        let url = ctx.url();
        if location.scheme().is_some() {
            // In `extra_config` the option is for a plugin.
            return match url.query("redis_url") {
                None => Ok(url.clone()),
                Some(_) => Err(Error::new(ErrorKind::InvalidUrl, format!("`{url}` names the server twice"))
                    .with_hint("remove the option `redis_url`")),
            };
        }
        let Some(server) = &self.redis_url else {
            return match &ctx.config().remote_url {
                _ if location.host().is_some() => Ok(url.clone()),
                Some(text) if RemoteUrl::parse(text).is_ok_and(|url| is_server(&url)) => RemoteUrl::parse(text),
                // As in LMCache.
                _ => RemoteUrl::parse("redis://localhost:6379"),
            };
        };
        if !location.path().is_empty() {
            return Err(Error::new(ErrorKind::InvalidUrl, format!("`{url}` has the options `path` and `redis_url`"))
                .with_hint("write the database into `redis_url`, as in `redis://host:port/2`"));
        }
        if !is_server(server) {
            return Err(Error::new(
                ErrorKind::InvalidOption,
                format!("option `redis_url`: `{server}` is not the URL of a redis server"),
            )
            .with_hint(
                "write `redis://host:port`, `unix:///path`, `redis-sentinel://host:26379,..` or `redis-cluster://host:7000,..`",
            ));
        }
        if let Some((name, _)) = server.query_pairs().next() {
            let why = format!("option `redis_url`: `{server}` holds the option `{name}`");
            return Err(Error::new(ErrorKind::InvalidOption, why).with_hint("write it beside `redis_url`"));
        }
        Ok(server.clone())
    }

    fn database(&self, url: &RemoteUrl, location: &Location) -> Result<u32> {
        let in_path = match plain_scheme(url.scheme()) {
            "redis" | "redis-cluster" => database_in(url, url.path(), "db")?,
            "external" => database_in(url, location.path(), "db")?,
            _ => None,
        };
        Ok(in_path.or(self.db).unwrap_or(0))
    }

    fn servers(&self, url: &RemoteUrl) -> Result<Servers> {
        if let Some((option, _)) = url.query_pairs().find(|(name, _)| name.starts_with("sentinel_"))
            && plain_scheme(url.scheme()) != "redis-sentinel"
        {
            return Err(Error::new(
                ErrorKind::InvalidUrl,
                format!("`{url}` has the option `{option}`, but no sentinels"),
            )
            .with_hint("write the sentinels as in `redis-sentinel://host:26379,host:26379/service`"));
        }
        match plain_scheme(url.scheme()) {
            scheme @ ("unix" | "redis-sentinel") if self.wire.cluster => {
                Err(Error::new(ErrorKind::InvalidUrl, format!("`{scheme}://` cannot be a cluster"))
                    .with_hint("remove `cluster=true`, or write the nodes as in `redis-cluster://host:7000,host:7001`"))
            }
            "unix" => socket(url).map(Servers::One),
            "redis-sentinel" => self.sentinels.resolve(url).map(Servers::Sentinel),
            "redis-cluster" => cluster_of(url),
            // As in LMCache's client.
            _ if url.hosts().is_empty() && !self.wire.cluster => {
                Ok(Servers::One(Address::Tcp { host: "localhost".to_owned(), port: PORT }))
            }
            _ => self.wire.servers(url),
        }
    }
}

/// Whether the URL names a server.
fn is_server(url: &RemoteUrl) -> bool {
    matches!(plain_scheme(url.scheme()), "redis" | "redis-sentinel" | "redis-cluster" | "unix")
}

/// The unix socket of the URL.
fn socket(url: &RemoteUrl) -> Result<Address> {
    let wrong = |why: String, hint: &'static str| Err(Error::new(ErrorKind::InvalidUrl, why).with_hint(hint));
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
    Ok(Address::Unix(PathBuf::from(path.map_err(not_text)?.as_ref())))
}
