use connector_core::{ConnectorOptions, Error, ErrorKind, Result, connector_options};

use crate::resp::PlainSettings;

/// Options of `valkey://`: those of `resp://`, and LMCache's names for some of them.
#[connector_options]
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ValkeyOptions {
    /// LMCache's name for `cluster`: `standalone` or `cluster`.
    pub mode: Option<Mode>,
    /// LMCache's switch for `ttl_sec`: `true` alone sets 86400 seconds, `false` turns `ttl_sec` off. `ttl_sec` needs no switch.
    pub enable_ttl: Option<bool>,
    /// LMCache's name for `io_timeout_ms`, which wins if it has another value than its default.
    #[option(unit = "seconds")]
    pub request_timeout: Option<f64>,
    /// LMCache's name for `connect_timeout_ms`, which wins if it has another value than its default.
    #[option(unit = "seconds")]
    pub connection_timeout: Option<f64>,
    /// The options of every store of plain values.
    #[option(flatten)]
    pub plain: PlainSettings,
}

/// LMCache's kinds of servers.
#[connector_options]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One server.
    Standalone,
    /// Nodes of a cluster.
    Cluster,
}

/// The limit of `io_timeout_ms`, in seconds.
const MOST_SECONDS: f64 = 3600.0;
/// LMCache's time to live, in seconds.
const DEFAULT_TTL: u64 = 86_400;

/// LMCache's keys. LMCache reads user, password, timeouts and TLS from `extra_config` only, never from the URL.
impl ConnectorOptions for ValkeyOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "valkey_connector_";
    const EXTRA_CONFIG_SHARED: &'static [(&'static str, &'static str)] = &[
        ("valkey_num_workers", "connections"),
        ("valkey_sync_num_workers", "connections"),
        ("valkey_username", "username"),
        ("valkey_password", "password"),
        ("valkey_database", "database"),
        ("valkey_mode", "mode"),
        ("valkey_enable_ttl", "enable_ttl"),
        ("valkey_ttl_sec", "ttl_sec"),
        ("tls_enable", "tls"),
        ("request_timeout", "request_timeout"),
        ("connection_timeout", "connection_timeout"),
        ("save_chunk_meta", "save_chunk_meta"),
    ];
}

impl ValkeyOptions {
    /// The options with LMCache's names replaced.
    ///
    /// # Errors
    /// `InvalidOption` for names that contradict each other, and for a time that is not positive.
    pub(super) fn plain(self) -> Result<PlainSettings> {
        let mut plain = self.plain;
        match self.mode {
            Some(Mode::Cluster) => {
                plain.wire.cluster = true;
                // As in LMCache, which ignores the number in a cluster.
                plain.database = None;
            }
            Some(Mode::Standalone) if plain.wire.cluster => {
                let why = "options `mode` and `cluster` contradict each other";
                return Err(Error::new(ErrorKind::InvalidOption, why).with_hint("keep one of them"));
            }
            Some(Mode::Standalone) | None => {}
        }
        match self.enable_ttl {
            Some(true) => plain.ttl.ttl_sec = plain.ttl.ttl_sec.or(Some(DEFAULT_TTL)),
            Some(false) => plain.ttl.ttl_sec = None,
            None => {}
        }
        let defaults = PlainSettings::default().wire;
        let wire = &mut plain.wire;
        for (option, seconds, ms, default) in [
            ("request_timeout", self.request_timeout, &mut wire.io_timeout_ms, defaults.io_timeout_ms),
            ("connection_timeout", self.connection_timeout, &mut wire.connect_timeout_ms, defaults.connect_timeout_ms),
        ] {
            let Some(seconds) = seconds else { continue };
            if !(seconds > 0.0 && seconds <= MOST_SECONDS) {
                let why = format!(
                    "option `{option}`: {seconds} is not a number of seconds above 0, and {MOST_SECONDS} at most"
                );
                return Err(Error::new(ErrorKind::InvalidOption, why));
            }
            if *ms == default {
                *ms = (seconds * 1000.0).ceil() as u64;
            }
        }
        Ok(plain)
    }
}
