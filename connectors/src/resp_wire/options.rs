//! The options of a connection to a server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use connector_core::options::{Credentials, Login};
use connector_core::{Error, ErrorKind, Namespace, RemoteUrl, Result, connector_options};

use super::address_map::AddressMap;
use super::hosts::{all_addresses, one_address};
use super::meters::StoreMeters;
use super::reply::Limits;
use super::tls::{NO_TLS, Tls, TlsSettings, WITH_TLS};
use super::transport::Address;

/// The checked options of a [`Wire`](super::Wire). Without `Debug`: they hold a password.
#[derive(Clone)]
pub(crate) struct WireOptions {
    /// Where the servers listen.
    pub(crate) servers: Servers,
    /// TLS to all servers, or none.
    pub(crate) tls: Option<Arc<Tls>>,
    /// The user and the password of the server's access list.
    pub(crate) login: Login,
    /// Number of the database.
    pub(crate) database: u32,
    /// Stands before every name: the namespace and a colon, or nothing.
    pub(crate) prefix: String,
    /// The connections' name in the server's `CLIENT LIST`.
    pub(crate) client_name: Option<String>,
    /// The version of the protocol.
    pub(crate) protocol: Protocol,
    /// Connections for chunks.
    pub(crate) connections: usize,
    /// Idle connections for chunks that kvconn opens ahead.
    pub(crate) min_idle: usize,
    /// Longest time until a new connection is ready for use.
    pub(crate) connect_timeout: Duration,
    /// Longest time without a byte in the middle of a call.
    pub(crate) io_timeout: Duration,
    /// Limits of a reply.
    pub(crate) limits: Limits,
    /// Whether each connection needs the right to transactions.
    pub(crate) transactions: bool,
    /// Whether a replica may answer reads.
    pub(crate) replica_reads: bool,
    /// The real addresses of servers that announce others.
    pub(crate) address_map: AddressMap,
    /// The role that each server must have.
    pub(crate) role: Role,
    /// The labels of the counters.
    pub(crate) meters: StoreMeters,
}

impl WireOptions {
    /// The hint for a server that does not answer: maybe only one side uses TLS.
    pub(super) fn tls_hint(&self) -> &'static str {
        if self.tls.is_some() { NO_TLS } else { WITH_TLS }
    }
}

/// The servers that a URL names.
#[derive(Clone)]
pub(crate) enum Servers {
    /// One server has every key.
    One(Address),
    /// These sentinels name the master.
    #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only `redis` has URLs of sentinels"))]
    Sentinel(Sentinels),
    /// These nodes know the other nodes of their cluster.
    Cluster(Vec<Address>),
}

/// Where sentinels listen, and what kvconn asks them. Without `Debug`: it holds a password.
#[derive(Clone)]
pub(crate) struct Sentinels {
    /// Where they listen.
    pub(crate) addresses: Vec<Address>,
    /// Their name of the master.
    pub(crate) service: String,
    /// Their own user and password, which are not the master's.
    pub(crate) login: Login,
}

/// The role that a server must have. Each new connection checks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Any data server.
    Data,
    /// A server that says that it is a master.
    Master,
    /// A replica with a link to its master.
    Replica,
    /// A sentinel.
    Sentinel,
}

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// RESP3, or RESP2 if the server lacks RESP3.
    Auto,
    /// RESP2.
    Resp2,
    /// RESP3, or an error.
    Resp3,
}

/// Largest value that a redis server takes, in bytes.
pub(crate) const MAX_VALUE: u64 = 512 << 20;
/// The port of a redis server.
pub(crate) const PORT: u16 = 6379;
const HOUR_MS: u64 = 3_600_000;

/// The options of the wire, which are options of each store that uses it.
#[connector_options]
#[derive(Clone)]
#[non_exhaustive]
pub struct WireSettings {
    /// Connections for chunks: the number of chunks that the store reads or writes at once. A few more serve everything else.
    pub connections: usize,
    /// Idle connections for chunks that kvconn opens ahead, at `open` and whenever a call has to open one. 0 opens each
    /// connection in the first call that needs it.
    pub min_idle: usize,
    /// User and password.
    #[option(flatten)]
    pub login: Credentials,
    /// TLS to the servers.
    #[option(flatten)]
    pub tls: TlsSettings,
    /// Longest time until a new connection is ready, with its TLS handshake.
    #[option(unit = "ms")]
    pub connect_timeout_ms: u64,
    /// Longest wait for a byte in the middle of a call. The whole call has the same limit, and a second more for each
    /// 64 KiB that it moves. A large chunk that stops half-way may take twice as long to fail.
    #[option(unit = "ms")]
    pub io_timeout_ms: u64,
    /// `2` or `3` for RESP2 or RESP3; `auto` for RESP3 where the server has it.
    #[schemars(extend("enum" = ["auto", "2", "3"]))]
    pub protocol: String,
    /// The connections' name in the server's `CLIENT LIST`.
    pub client_name: String,
    /// Largest chunk that the store reads or writes.
    #[option(unit = "bytes")]
    pub max_value_bytes: u64,
    /// Whether replicas answer reads, where the URL names sentinels or a cluster. A replica may miss the newest puts.
    pub replica_reads: bool,
    /// The addresses at which you reach servers that announce others to their cluster or sentinels, as behind a NAT:
    /// `announced:port=real:port`, with commas between pairs.
    pub address_map: String,
    /// Whether the URL's hosts are nodes of a cluster. One node is enough; kvconn asks the first that answers for the others.
    pub cluster: bool,
    /// Prefix of every name on the server, followed by a colon. Stores with different namespaces share a database and
    /// never see each other's chunks.
    pub namespace: Option<Namespace>,
}

impl Default for WireSettings {
    fn default() -> Self {
        Self {
            connections: 8,
            min_idle: 0,
            login: Credentials::default(),
            tls: TlsSettings::default(),
            connect_timeout_ms: 5_000,
            io_timeout_ms: 10_000,
            protocol: "auto".to_owned(),
            client_name: "kvconn".to_owned(),
            max_value_bytes: MAX_VALUE,
            replica_reads: false,
            address_map: String::new(),
            cluster: false,
            namespace: None,
        }
    }
}

/// Without user and password.
impl fmt::Debug for WireSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("WireSettings");
        shown.field("connections", &self.connections).field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

impl WireSettings {
    /// The servers of a URL that names one server, or with `cluster` the nodes of a cluster.
    ///
    /// # Errors
    /// `InvalidUrl` for no host, for several without `cluster`, and as [`all_addresses`].
    pub(crate) fn servers(&self, url: &RemoteUrl) -> Result<Servers> {
        if self.cluster { cluster_of(url) } else { one_address(url).map(Servers::One) }
    }

    /// The options of a wire to `servers`. User and password of `url` win over the settings.
    ///
    /// # Errors
    /// `InvalidOption` for a value out of its range; those of [`Credentials::resolve`] and [`TlsSettings`].
    pub(crate) fn wire(self, url: &RemoteUrl, servers: Servers, database: u32) -> Result<WireOptions> {
        let wrong = |why: String| Error::new(ErrorKind::InvalidOption, why);
        let protocol = match self.protocol.as_str() {
            "auto" => Protocol::Auto,
            "2" => Protocol::Resp2,
            "3" => Protocol::Resp3,
            _ => {
                return Err(wrong("option `protocol` is not a protocol".into()).with_hint("write `auto`, `2` or `3`"));
            }
        };
        check_range("connections", self.connections as u64, 1024)?;
        if self.min_idle > self.connections {
            let (idle, all) = (self.min_idle, self.connections);
            return Err(wrong(format!("option `min_idle`: {idle} is more than the {all} `connections`"))
                .with_hint(format!("write at most {all}, or more `connections`")));
        }
        check_range("connect_timeout_ms", self.connect_timeout_ms, HOUR_MS)?;
        check_range("io_timeout_ms", self.io_timeout_ms, HOUR_MS)?;
        check_range("max_value_bytes", self.max_value_bytes, MAX_VALUE)?;
        if let Some(c) = self.client_name.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(wrong(format!("option `client_name`: redis refuses the character {c:?}")));
        }
        if matches!(servers, Servers::Cluster(_)) && database != 0 {
            return Err(wrong(format!("a cluster has no database {database}")).with_hint(
                "remove the number of the database: a cluster has only database 0; `namespace` divides it",
            ));
        }
        if matches!(servers, Servers::One(_)) && self.replica_reads {
            return Err(wrong("option `replica_reads`: the URL names one server, so kvconn knows no replicas".into())
                .with_hint("remove it, or write `redis-sentinel://`, `redis-cluster://` or `cluster=true`"));
        }
        let payload = usize::try_from(self.max_value_bytes).unwrap_or(usize::MAX);
        Ok(WireOptions {
            servers,
            tls: self.tls.resolve(url.scheme())?,
            login: self.login.resolve(url)?,
            database,
            prefix: self.namespace.map_or_else(String::new, |namespace| format!("{namespace}:")),
            client_name: Some(self.client_name).filter(|name| !name.is_empty()),
            protocol,
            connections: self.connections,
            min_idle: self.min_idle,
            connect_timeout: Duration::from_millis(self.connect_timeout_ms),
            io_timeout: Duration::from_millis(self.io_timeout_ms),
            limits: Limits { payload, ..Limits::default() },
            transactions: false,
            replica_reads: self.replica_reads,
            address_map: AddressMap::parse(&self.address_map)?,
            role: Role::Data,
            meters: StoreMeters::default(),
        })
    }
}

/// The nodes of the cluster that a URL names.
///
/// # Errors
/// As [`all_addresses`].
pub(crate) fn cluster_of(url: &RemoteUrl) -> Result<Servers> {
    all_addresses(url, PORT, "node").map(Servers::Cluster)
}

/// Refuses an option that is not between 1 and `most`.
///
/// # Errors
/// `InvalidOption`.
pub(crate) fn check_range(option: &str, value: u64, most: u64) -> Result<()> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidOption, format!("option `{option}`: {value} is not between 1 and {most}")))
}

/// The number of the database in `path`, the path of the store's location, if there is one. `option` gives it in the query.
///
/// # Errors
/// `InvalidUrl` if it is not a number, or if the query gives another one.
pub(crate) fn database_in(url: &RemoteUrl, path: &str, option: &str) -> Result<Option<u32>> {
    let path = path.trim_matches('/');
    if path.is_empty() {
        return Ok(None);
    }
    if url.query(option).is_some_and(|other| other != path) {
        return Err(Error::new(ErrorKind::InvalidUrl, format!("`{url}` names two databases"))
            .with_hint(format!("remove the path or the option `{option}`")));
    }
    path.parse().map(Some).map_err(|_| {
        Error::new(ErrorKind::InvalidUrl, format!("the path of `{url}` is not the number of a database"))
            .with_hint(format!("write `{}://host:port/0`, or remove the path", url.scheme()))
    })
}
