//! What a connection to a server is made from.

use std::time::Duration;

use connector_core::{Error, ErrorKind, RemoteUrl, Result};
use percent_encoding::percent_decode_str;

use super::reply::Limits;
use super::stream::Address;

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
