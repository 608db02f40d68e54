//! The options of sentinels.

use std::fmt;

use connector_core::options::Credentials;
use connector_core::{Error, ErrorKind, RemoteUrl, Result, connector_options};
use percent_encoding::percent_decode_str;

use crate::resp_wire::{Sentinels, all_addresses};

/// Options of `redis-sentinel://`.
#[connector_options]
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct SentinelSettings {
    /// The sentinels' name of the master. The URL's path wins. Then come the environment's `REDIS_SERVICE_NAME` and
    /// `redismaster`, as in LMCache.
    pub sentinel_service: Option<String>,
    /// User of the sentinels' own access list. The URL's user is the master's.
    #[option(secret)]
    pub sentinel_username: Option<String>,
    /// File that holds the sentinels' user, instead of `sentinel_username`.
    pub sentinel_username_file: Option<String>,
    /// The sentinels' own password. The URL's password is the master's.
    #[option(secret)]
    pub sentinel_password: Option<String>,
    /// File that holds the sentinels' password, instead of `sentinel_password`. kvconn reads it again when a sentinel
    /// refuses the password.
    pub sentinel_password_file: Option<String>,
}

/// The port of a sentinel.
const SENTINEL_PORT: u16 = 26379;
/// LMCache's variable for the service.
const SERVICE_VARIABLE: &str = "REDIS_SERVICE_NAME";
/// LMCache's service without the variable.
const DEFAULT_SERVICE: &str = "redismaster";

/// Without user and password.
impl fmt::Debug for SentinelSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentinelSettings").field("sentinel_service", &self.sentinel_service).finish_non_exhaustive()
    }
}

impl SentinelSettings {
    /// The sentinels of the URL, and what kvconn asks them.
    ///
    /// # Errors
    /// `InvalidUrl` for a path that is not the name of a service, and as in [`all_addresses`]; `InvalidOption` as in [`Credentials::resolve`].
    pub(super) fn resolve(&self, url: &RemoteUrl) -> Result<Sentinels> {
        let mut login = Credentials::default();
        login.username.clone_from(&self.sentinel_username);
        login.username_file.clone_from(&self.sentinel_username_file);
        login.password.clone_from(&self.sentinel_password);
        login.password_file.clone_from(&self.sentinel_password_file);
        Ok(Sentinels {
            addresses: all_addresses(url, SENTINEL_PORT, "sentinel")?,
            service: self.service(url)?,
            login: login.resolve_without_url("sentinel_")?,
        })
    }

    fn service(&self, url: &RemoteUrl) -> Result<String> {
        let wrong = |why: &str, hint: &'static str| {
            Err(Error::new(ErrorKind::InvalidUrl, format!("`{url}` {why}")).with_hint(hint))
        };
        let path = percent_decode_str(url.path().trim_matches('/')).decode_utf8();
        let Ok(path) = path else {
            return wrong("has a path that is not UTF-8 after percent-decoding", "write `/service`");
        };
        if path.contains('/') {
            let hint =
                "write `redis-sentinel://host:26379/service?db=0`: the path is the service, and `db` the database";
            return wrong("has a path with more than one part", hint);
        }
        if path.is_empty() {
            let variable = || std::env::var(SERVICE_VARIABLE).ok().filter(|service| !service.is_empty());
            let service = self.sentinel_service.clone().or_else(variable);
            return Ok(service.unwrap_or_else(|| DEFAULT_SERVICE.to_owned()));
        }
        match url.query("sentinel_service") {
            Some(other) if other != path => {
                wrong("names two services", "remove the path or the option `sentinel_service`")
            }
            _ => Ok(path.into_owned()),
        }
    }
}
