//! The layers' options: those of every connector.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{BoxConnector, BreakerLayer, Layer, LimitLayer, RetryLayer, TimeoutLayer};
use crate::context::ConnectorContext;
use crate::options::ConnectorOptions;
use crate::{Error, ErrorKind, Result};

/// Options that every connector has: they put layers around it. A layer is off until it is set.
///
/// Durations are whole milliseconds, but for `min_reconnect_interval`, which has LMCache's name and is in seconds.
///
/// ```
/// use connector_core::layer::LayerOptions;
/// let layers = LayerOptions { timeout_ms: Some(500), retries: Some(2), ..LayerOptions::default() };
/// ```
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LayerOptions {
    /// Milliseconds that a call may take, each try of its own.
    pub timeout_ms: Option<u64>,
    /// Milliseconds that a batch may take; as `timeout_ms` unless set.
    pub batch_timeout_ms: Option<u64>,
    /// How often a call is tried again after a temporary error.
    pub retries: Option<u32>,
    /// Milliseconds before the first retry; doubles from retry to retry. 50 unless set.
    pub retry_min_delay_ms: Option<u64>,
    /// Milliseconds before a retry at most. 2000 unless set.
    pub retry_max_delay_ms: Option<u64>,
    /// How many calls may be in flight at once; the others wait.
    pub max_in_flight: Option<usize>,
    /// After how many calls in a row that did not reach the store calls are refused; 5 if `min_reconnect_interval` is set.
    pub breaker_failures: Option<u32>,
    /// Seconds between two tries to reach a lost store; calls in between are refused. 10, as in LMCache, if
    /// `breaker_failures` is set.
    pub min_reconnect_interval: Option<f64>,
}

#[diagnostic::do_not_recommend]
impl ConnectorOptions for LayerOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "kvconn_";
}

/// Names of the fields: a connector's own options must have other names.
const NAMES: [&str; 8] = [
    "timeout_ms",
    "batch_timeout_ms",
    "retries",
    "retry_min_delay_ms",
    "retry_max_delay_ms",
    "max_in_flight",
    "breaker_failures",
    "min_reconnect_interval",
];

const DEFAULT_FAILURES: u32 = 5;
/// LMCache's, in seconds.
const DEFAULT_INTERVAL: f64 = 10.0;

/// Whether an option of this name is every connector's.
pub(crate) fn is_layer_option(name: &str) -> bool {
    NAMES.contains(&name)
}

impl LayerOptions {
    /// These options, and `other`'s where these set nothing.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            timeout_ms: self.timeout_ms.or(other.timeout_ms),
            batch_timeout_ms: self.batch_timeout_ms.or(other.batch_timeout_ms),
            retries: self.retries.or(other.retries),
            retry_min_delay_ms: self.retry_min_delay_ms.or(other.retry_min_delay_ms),
            retry_max_delay_ms: self.retry_max_delay_ms.or(other.retry_max_delay_ms),
            max_in_flight: self.max_in_flight.or(other.max_in_flight),
            breaker_failures: self.breaker_failures.or(other.breaker_failures),
            min_reconnect_interval: self.min_reconnect_interval.or(other.min_reconnect_interval),
        }
    }

    fn timeout(&self) -> Result<Option<TimeoutLayer>> {
        let limit = |name, ms: Option<u64>| match ms {
            Some(0) => {
                Err(invalid(name, "0 ms leave no time for any call", "leave it out to wait as long as it takes"))
            }
            ms => Ok(ms.map(Duration::from_millis)),
        };
        let single = limit("timeout_ms", self.timeout_ms)?;
        let batch = limit("batch_timeout_ms", self.batch_timeout_ms)?.or(single);
        Ok(batch.map(|batch| match single {
            Some(single) => TimeoutLayer::new(single).with_batch(batch),
            None => TimeoutLayer::OFF.with_batch(batch),
        }))
    }

    fn retry(&self) -> Result<Option<RetryLayer>> {
        let Some(retries) = self.retries.filter(|n| *n > 0) else {
            let delay = self.retry_min_delay_ms.or(self.retry_max_delay_ms);
            return match delay {
                Some(_) if self.retries.is_none() => {
                    Err(invalid("retries", "a retry's delay is set, but no retries", "set `retries`, too"))
                }
                _ => Ok(None),
            };
        };
        let max = self.retry_max_delay_ms.map_or(RetryLayer::DEFAULT_MAX_DELAY, Duration::from_millis);
        let min = self.retry_min_delay_ms.map_or(RetryLayer::DEFAULT_MIN_DELAY.min(max), Duration::from_millis);
        if min > max {
            let why = format!("{min:?} are more than the longest delay of {max:?}");
            return Err(invalid("retry_min_delay_ms", &why, "raise `retry_max_delay_ms`"));
        }
        Ok(Some(RetryLayer::new(retries).with_delays(min, max)))
    }

    fn breaker(&self) -> Result<Option<BreakerLayer>> {
        if self.breaker_failures.is_none() && self.min_reconnect_interval.is_none() || self.breaker_failures == Some(0)
        {
            return Ok(None);
        }
        let seconds = self.min_reconnect_interval.unwrap_or(DEFAULT_INTERVAL);
        let interval = Duration::try_from_secs_f64(seconds).map_err(|_| {
            invalid("min_reconnect_interval", &format!("{seconds} is no number of seconds"), "write one like `10`")
        })?;
        Ok(Some(BreakerLayer::new(self.breaker_failures.unwrap_or(DEFAULT_FAILURES), interval)))
    }

    /// Puts the layers that are set around a connector, as one: `None` of them costs nothing.
    fn around(&self, name: &str, connector: BoxConnector) -> Result<BoxConnector> {
        let (timeout, retry, breaker) = (self.timeout()?, self.retry()?, self.breaker()?);
        let most = self.max_in_flight.unwrap_or(0);
        if timeout.is_none() && retry.is_none() && breaker.is_none() && most == 0 {
            return Ok(connector);
        }
        // The others pass calls through: four layers of one type, whichever are on, cost one allocation.
        let layers = (
            LimitLayer::new(most),
            breaker.unwrap_or(BreakerLayer::new(0, Duration::ZERO)).named(name.to_owned()),
            retry.unwrap_or(RetryLayer::new(0)).named(name.to_owned()),
            timeout.unwrap_or(TimeoutLayer::OFF),
        );
        Ok(BoxConnector::new(layers.layer(connector)))
    }
}

/// The layers that URL, configuration and builder ask for.
pub(crate) fn all(ctx: &ConnectorContext, name: &str, connector: BoxConnector) -> Result<BoxConnector> {
    let options = ctx.layer_options()?;
    Ok(ctx.layers().iter().fold(options.around(name, connector)?, |connector, layer| layer.layer(connector)))
}

fn invalid(option: &str, why: &str, hint: &str) -> Error {
    Error::new(ErrorKind::InvalidOption, format!("option `{option}`: {why}")).with_hint(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::OptionsSchema;

    #[test]
    fn every_field_is_named_as_an_option_of_every_connector() {
        let schema = OptionsSchema::of::<LayerOptions>();
        let fields: Vec<&str> = schema.options().iter().map(|o| o.name.as_str()).collect();
        assert_eq!(fields, NAMES);
    }

    #[test]
    fn settings_that_make_no_sense_are_refused_with_what_to_write() {
        let base = LayerOptions::default;
        for (options, wanted) in [
            (LayerOptions { timeout_ms: Some(0), ..base() }, "leave it out"),
            (LayerOptions { retry_min_delay_ms: Some(1), ..base() }, "set `retries`"),
            (LayerOptions { retries: Some(1), retry_min_delay_ms: Some(9000), ..base() }, "raise `retry_max_delay_ms`"),
            (LayerOptions { min_reconnect_interval: Some(-1.0), ..base() }, "write one like `10`"),
        ] {
            let e = (options.timeout().map(drop)).and(options.retry().map(drop)).and(options.breaker().map(drop));
            let e = e.unwrap_err();
            assert!(e.kind() == ErrorKind::InvalidOption && e.to_string().contains(wanted), "{e}");
        }
    }
}
