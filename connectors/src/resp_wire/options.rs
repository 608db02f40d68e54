//! What a connection to a server is made from.

use std::time::Duration;

use connector_core::{Error, ErrorKind, RemoteUrl, Result};
use percent_encoding::percent_decode_str;

use super::reply::Limits;
use super::transport::Address;

/// What a [`Wire`](super::Wire) is made from. Has no `Debug`: it holds a password.
#[derive(Clone)]
pub(crate) struct WireOptions {
    /// Where the server listens.
    pub(crate) address: Address,
    /// ACL user; the server's `default` unless set. Counts only with a password.
    pub(crate) username: Option<String>,
    /// What the server asks for.
    pub(crate) password: Option<String>,
    /// Number of the database.
    pub(crate) database: u32,
    /// What `CLIENT LIST` on the server calls these connections.
    pub(crate) client_name: Option<String>,
    /// Which protocol to speak.
    pub(crate) protocol: Protocol,
    /// Connections for chunks.
    pub(crate) connections: usize,
    /// Connections for everything else, so that it never waits behind a chunk.
    pub(crate) small_connections: usize,
    /// Longest time until a new connection is ready for use.
    pub(crate) connect_timeout: Duration,
    /// Longest time without a byte in the middle of a call.
    pub(crate) io_timeout: Duration,
    /// What a reply may be at most.
    pub(crate) limits: Limits,
}

/// A version of the protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// RESP3, or RESP2 if the server does not know it.
    #[default]
    Auto,
    /// RESP2.
    Resp2,
    /// RESP3, or an error.
    Resp3,
}

impl WireOptions {
    /// Defaults for a server.
    pub(crate) fn new(address: Address) -> Self {
        Self {
            address,
            username: None,
            password: None,
            database: 0,
            client_name: Some("kvconn".to_owned()),
            protocol: Protocol::Auto,
            connections: 8,
            small_connections: 4,
            connect_timeout: Duration::from_secs(5),
            io_timeout: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}

/// What both stores let one set, as it was written.
pub(crate) struct Settings {
    /// See [`WireOptions::connections`].
    pub(crate) connections: usize,
    /// `auto`, `2` or `3`.
    pub(crate) protocol: String,
    /// Empty for none.
    pub(crate) client_name: String,
    /// Milliseconds.
    pub(crate) connect_timeout_ms: u64,
    /// Milliseconds.
    pub(crate) io_timeout_ms: u64,
    /// Bytes.
    pub(crate) max_value_bytes: u64,
}

/// Largest value that a redis server takes, in bytes.
pub(crate) const MAX_VALUE: u64 = 512 << 20;
/// Where a redis server listens.
pub(crate) const PORT: u16 = 6379;
const HOUR_MS: u64 = 3_600_000;

impl WireOptions {
    /// Takes over the settings.
    ///
    /// # Errors
    /// `InvalidOption` for what cannot be had.
    pub(crate) fn set(&mut self, settings: Settings) -> Result<()> {
        let wrong = |why: String| Error::new(ErrorKind::InvalidOption, why);
        self.protocol = match settings.protocol.as_str() {
            "auto" => Protocol::Auto,
            "2" => Protocol::Resp2,
            "3" => Protocol::Resp3,
            other => {
                return Err(
                    wrong(format!("option `protocol`: `{other}` is none")).with_hint("write `auto`, `2` or `3`")
                );
            }
        };
        check_range("connections", settings.connections as u64, 1024)?;
        check_range("connect_timeout_ms", settings.connect_timeout_ms, HOUR_MS)?;
        check_range("io_timeout_ms", settings.io_timeout_ms, HOUR_MS)?;
        check_range("max_value_bytes", settings.max_value_bytes, MAX_VALUE)?;
        if let Some(c) = settings.client_name.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(wrong(format!("option `client_name`: it holds {c:?}, which redis does not take")));
        }
        self.client_name = Some(settings.client_name).filter(|name| !name.is_empty());
        self.connections = settings.connections;
        self.connect_timeout = Duration::from_millis(settings.connect_timeout_ms);
        self.io_timeout = Duration::from_millis(settings.io_timeout_ms);
        self.limits.payload = usize::try_from(settings.max_value_bytes).unwrap_or(usize::MAX);
        Ok(())
    }
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

/// The number of the database in a URL's path, if there is one.
///
/// # Errors
/// `InvalidUrl` if it is no number.
pub(crate) fn database_in(url: &RemoteUrl) -> Result<Option<u32>> {
    let path = url.path().trim_matches('/');
    if path.is_empty() {
        return Ok(None);
    }
    path.parse().map(Some).map_err(|_| {
        Error::new(ErrorKind::InvalidUrl, format!("`{url}`: the path `{path}` is no database's number"))
            .with_hint(format!("write `{}://host:port/0`, or leave it out", url.scheme()))
    })
}

/// The values of the option `protocol`.
pub(crate) fn protocol_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["auto", "2", "3"] })
}

/// The user name or password of a URL, which may be percent-encoded there. No error holds it.
///
/// # Errors
/// `InvalidUrl` if it is no text.
pub(crate) fn decoded(text: &str, what: &str, url: &RemoteUrl) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| {
        Error::new(ErrorKind::InvalidUrl, format!("`{url}`: the {what} is no UTF-8 once it is percent-decoded"))
    })
}
