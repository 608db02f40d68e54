use std::time::Duration;

use connector_core::{ConnectorContext, ConnectorOptions, Error, ErrorKind, RemoteUrl, Result, connector_options};

/// Options of `faulty://`.
#[connector_options]
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FaultyOptions {
    /// The URL of the store behind. Required.
    pub back: Option<RemoteUrl>,
    /// The share of calls that fail, from 0 to 1.
    pub error_rate: f64,
    /// The kind of the errors.
    pub error: FaultKind,
    /// The share of `get` and `exists` that do not find their key, from 0 to 1.
    pub miss_rate: f64,
    /// The time before each call.
    #[option(unit = "ms")]
    pub latency_ms: f64,
    /// The operations that have errors and misses, separated by commas: `exists`, `get`, `put`, `remove`, `list`, `ping`,
    /// `servers`. All of them unless set.
    pub operations: Vec<String>,
    /// Another seed gives other faults at the same rates.
    pub seed: u64,
}

/// The kind of an error that [`FaultyConnector`](super::FaultyConnector) makes.
#[connector_options]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The store cannot be reached. Temporary.
    #[default]
    Unavailable,
    /// The store did not answer in time. Temporary.
    Timeout,
    /// The store asks for fewer requests. Temporary.
    Throttled,
    /// The store returned bytes that are not a chunk. Permanent.
    Corrupt,
    /// The store has no room. Permanent.
    StoreFull,
}

impl Default for FaultyOptions {
    fn default() -> Self {
        Self {
            back: None,
            error_rate: 0.0,
            error: FaultKind::default(),
            miss_rate: 0.0,
            latency_ms: 0.0,
            operations: Vec::new(),
            seed: 0,
        }
    }
}

impl ConnectorOptions for FaultyOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "faulty_connector_";
}

/// The operations that can have faults.
pub(super) const OPERATIONS: [&str; 7] = ["exists", "get", "put", "remove", "list", "ping", "servers"];

impl FaultyOptions {
    /// The URL of the store behind.
    pub(super) fn behind(&self, ctx: &ConnectorContext) -> Result<RemoteUrl> {
        self.back.clone().ok_or_else(|| {
            Error::new(ErrorKind::InvalidUrl, format!("`{}` does not name the store behind", ctx.url()))
                .with_hint("write `faulty://?back=URL` with `:`, `/`, `?` and `&` of that URL percent-encoded")
        })
    }

    pub(super) fn latency(&self) -> Result<Duration> {
        Duration::try_from_secs_f64(self.latency_ms / 1000.0).map_err(|_| {
            let message = format!("option `latency_ms`: `{}` is not a number of milliseconds", self.latency_ms);
            Error::new(ErrorKind::InvalidOption, message)
        })
    }

    /// # Errors
    /// `InvalidOption` for a rate that is not from 0 to 1, or an operation that does not exist.
    pub(super) fn check(&self) -> Result<()> {
        for (name, rate) in [("error_rate", self.error_rate), ("miss_rate", self.miss_rate)] {
            if !(0.0..=1.0).contains(&rate) {
                let message = format!("option `{name}`: `{rate}` is not a share from 0 to 1");
                return Err(Error::new(ErrorKind::InvalidOption, message).with_hint("write 0.1 for one call of ten"));
            }
        }
        if let Some(n) = self.operations.iter().position(|name| !OPERATIONS.contains(&name.trim())) {
            // Without the text, which may be a secret in the wrong place.
            let message = format!("option `operations`: name {} is not an operation", n + 1);
            let hint = format!("write some of {}", OPERATIONS.join(","));
            return Err(Error::new(ErrorKind::InvalidOption, message).with_hint(hint));
        }
        Ok(())
    }
}
