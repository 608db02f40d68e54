//! One server of a store.

use crate::Error;

/// A server of a [store](crate::Connector::servers), as the store found it.
///
/// ```
/// # use connector_core::ServerInfo;
/// let server = ServerInfo::new("10.0.0.7:6379").with_role("master").with_detail("version", "valkey 8.1.8");
/// assert_eq!((server.address.as_str(), server.detail("version")), ("10.0.0.7:6379", Some("valkey 8.1.8")));
/// assert!(server.error.is_none(), "it answered");
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerInfo {
    /// Where it listens, without a user or a password: `host:port`, a socket's path, or a URL.
    pub address: String,
    /// Its part in the store: `master`, `replica`, `sentinel`. `None` for a store of one server.
    pub role: Option<String>,
    /// Further facts, each a name and a value. The store's documentation has the names.
    pub details: Vec<(String, String)>,
    /// Why the store cannot use it. `None` if it answered.
    pub error: Option<Error>,
}

impl ServerInfo {
    /// A server that answered, and of which nothing else is known.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), role: None, details: Vec::new(), error: None }
    }

    /// The server has this part in the store.
    #[must_use]
    pub fn with_role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }

    /// A further fact.
    #[must_use]
    pub fn with_detail(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.details.push((name.into(), value.into()));
        self
    }

    /// The server cannot be used.
    #[must_use]
    pub fn with_error(mut self, error: Error) -> Self {
        self.error = Some(error);
        self
    }

    /// The value of a detail.
    pub fn detail(&self, name: &str) -> Option<&str> {
        self.details.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}
