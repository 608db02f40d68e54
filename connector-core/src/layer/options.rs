//! The options that every connector has: those of the layers, and `connect`.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use connector_macros::connector_options;

use super::breaker::BreakerLayer;
use super::limit::LimitLayer;
use super::retry::RetryLayer;
use super::timeout::{StoreId, TimeoutLayer};
use crate::connector::BoxConnector;
use crate::context::Connect;
use crate::observe::StoreLabels;
use crate::options::ConnectorOptions;
use crate::{Error, ErrorKind, Result};

/// The options that every connector has. A layer is off until one of its options is set.
///
/// ```
/// use connector_core::layer::LayerOptions;
/// let mut layers = LayerOptions::default();
/// layers.timeout_ms = Some(500);
/// layers.retries = Some(2);
/// ```
#[connector_options(crate = crate)]
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct LayerOptions {
    /// Longest time of one call, and of `open` unless that has its own. Each retry has the same time.
    #[option(unit = "ms")]
    pub timeout_ms: Option<u64>,
    /// Longest time of a batch; `timeout_ms` unless set.
    #[option(unit = "ms")]
    pub batch_timeout_ms: Option<u64>,
    /// Longest time of a call that asks which keys exist, of one key or several; that of any other call unless set.
    #[option(unit = "ms")]
    pub lookup_timeout_ms: Option<u64>,
    /// Longest time of `open`, and of each retry of it; `timeout_ms` unless set.
    #[option(unit = "ms")]
    pub open_timeout_ms: Option<u64>,
    /// Most retries of a call after a temporary error.
    pub retries: Option<u32>,
    /// Delay before the first retry. It doubles with each retry. 50 unless set.
    #[option(unit = "ms")]
    pub retry_min_delay_ms: Option<u64>,
    /// Longest delay before a retry. 2000 unless set. If the store asks for a time before another try, the retry waits for
    /// that time first, up to this delay.
    #[option(unit = "ms")]
    pub retry_max_delay_ms: Option<u64>,
    /// Most calls in flight at once. Further calls wait, at most `timeout_ms`. 0 for no limit.
    pub max_in_flight: Option<usize>,
    /// The breaker refuses calls after this number of calls in a row that do not reach the store. 0 for never. 5 if
    /// `min_reconnect_interval` is set.
    pub breaker_failures: Option<u32>,
    /// Time between two attempts to reach a lost store. The breaker refuses calls until one succeeds. 10, as in LMCache, if
    /// `breaker_failures` is set.
    #[option(unit = "seconds")]
    pub min_reconnect_interval: Option<f64>,
    /// Whether `open` succeeds although the server does not answer (`lazy`). The default is `eager`.
    pub connect: Option<Connect>,
}

#[diagnostic::do_not_recommend]
impl ConnectorOptions for LayerOptions {
    const EXTRA_CONFIG_PREFIX: &'static str = "kvconn_";
}

/// Names of the fields. A connector's own options must have other names.
pub(crate) const NAMES: [&str; 11] = [
    "timeout_ms",
    "batch_timeout_ms",
    "lookup_timeout_ms",
    "open_timeout_ms",
    "retries",
    "retry_min_delay_ms",
    "retry_max_delay_ms",
    "max_in_flight",
    "breaker_failures",
    "min_reconnect_interval",
    "connect",
];

/// The longest time that a lazy open waits for a server that does not answer.
const LAZY_PATIENCE: Duration = Duration::from_secs(1);

const DEFAULT_FAILURES: u32 = 5;
/// LMCache's default interval, in seconds.
const DEFAULT_INTERVAL: f64 = 10.0;

/// Whether this is the name of a layer's option.
pub(crate) fn is_layer_option(name: &str) -> bool {
    NAMES.contains(&name)
}

impl LayerOptions {
    /// These options. An option that these do not set comes from `other`.
    pub(crate) fn or(self, other: &Self) -> Self {
        Self {
            timeout_ms: self.timeout_ms.or(other.timeout_ms),
            // A `timeout_ms` without a `batch_timeout_ms` limits batches, too; lookups and `open` likewise.
            lookup_timeout_ms: self.lookup_timeout_ms.or(other.lookup_timeout_ms.filter(|_| self.timeout_ms.is_none())),
            batch_timeout_ms: self.batch_timeout_ms.or(other.batch_timeout_ms.filter(|_| self.timeout_ms.is_none())),
            open_timeout_ms: self.open_timeout_ms.or(other.open_timeout_ms.filter(|_| self.timeout_ms.is_none())),
            retries: self.retries.or(other.retries),
            retry_min_delay_ms: self.retry_min_delay_ms.or(other.retry_min_delay_ms),
            retry_max_delay_ms: self.retry_max_delay_ms.or(other.retry_max_delay_ms),
            max_in_flight: self.max_in_flight.or(other.max_in_flight),
            breaker_failures: self.breaker_failures.or(other.breaker_failures),
            min_reconnect_interval: self.min_reconnect_interval.or(other.min_reconnect_interval),
            connect: self.connect.or(other.connect),
        }
    }

    /// These options without a breaker, and a breaker alone.
    pub(crate) fn split_breaker(self) -> (Self, Self) {
        let breaker = Self {
            breaker_failures: self.breaker_failures,
            min_reconnect_interval: self.min_reconnect_interval,
            ..Self::default()
        };
        (Self { breaker_failures: None, min_reconnect_interval: None, ..self }, breaker)
    }

    fn timeout(&self) -> Result<Option<TimeoutLayer>> {
        let limit = |name, ms: Option<u64>| match ms {
            Some(0) => Err(invalid(name, "0 ms leaves no time for a call", "remove it for no limit")),
            ms => Ok(ms.map(Duration::from_millis)),
        };
        let single = limit("timeout_ms", self.timeout_ms)?;
        let batch = limit("batch_timeout_ms", self.batch_timeout_ms)?.or(single);
        let lookup = limit("lookup_timeout_ms", self.lookup_timeout_ms)?;
        let open = limit("open_timeout_ms", self.open_timeout_ms)?.or(single);
        if batch.is_none() && lookup.is_none() && open.is_none() {
            return Ok(None);
        }
        let mut layer = single.map_or(TimeoutLayer::OFF, TimeoutLayer::new);
        if let Some(batch) = batch {
            layer = layer.with_batch(batch);
        }
        if let Some(open) = open {
            layer = layer.with_open(open);
        }
        Ok(Some(lookup.map_or(layer, |lookup| layer.with_lookup(lookup))))
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
            invalid("min_reconnect_interval", &format!("{seconds} is not a number of seconds"), "write one like `10`")
        })?;
        Ok(Some(BreakerLayer::new(self.breaker_failures.unwrap_or(DEFAULT_FAILURES), interval)))
    }

    /// The layers that are set, checked.
    fn built(&self) -> Result<Option<(LimitLayer, BreakerLayer, RetryLayer, TimeoutLayer)>> {
        let (timeout, retry, breaker) = (self.timeout()?, self.retry()?, self.breaker()?);
        let most = self.max_in_flight.unwrap_or(0);
        if timeout.is_none() && retry.is_none() && breaker.is_none() && most == 0 {
            return Ok(None);
        }
        // A layer that is off forwards calls. With one type for all four, they cost one allocation together.
        let timeout = timeout.unwrap_or(TimeoutLayer::OFF);
        Ok(Some((
            LimitLayer::new(most, timeout),
            breaker.unwrap_or(BreakerLayer::new(0, Duration::ZERO)),
            retry.unwrap_or(RetryLayer::new(0)),
            timeout,
        )))
    }
}

/// The layers of URL, configuration and builder, checked before kvconn opens the store.
pub(crate) struct Layers(Option<(LimitLayer, BreakerLayer, RetryLayer, TimeoutLayer)>);

impl Layers {
    pub(crate) fn of(options: &LayerOptions) -> Result<Self> {
        options.built().map(Self)
    }

    /// Runs `create` within its limits: each try has the time of an open, and a temporary error is tried again.
    ///
    /// A lazy open has one try, which may take [`LAZY_PATIENCE`] longer. If `create` has `redirected` to another URL,
    /// that URL's own options are the limits.
    pub(crate) async fn open<T, F: Future<Output = Result<T>> + Send>(
        &self,
        connect: Connect,
        redirected: &AtomicBool,
        create: impl Fn() -> F,
    ) -> Result<T> {
        let Some((_, _, retry, timeout)) = &self.0 else { return create().await };
        let (retry, patience) = match connect {
            Connect::Eager => (retry, Duration::ZERO),
            Connect::Lazy => (&RetryLayer::new(0), LAZY_PATIENCE),
        };
        let mut tried = 0;
        loop {
            let answer = timeout.open(patience, redirected, create()).await;
            match answer {
                Err(e) if !redirected.load(Relaxed) && retry.pause("open", tried, &e).await => tried += 1,
                Err(e) if !redirected.load(Relaxed) => return Err(retry.spent(tried, e)),
                answer => return answer,
            }
        }
    }

    /// Sets the labels of the layers' metrics and logs.
    pub(crate) fn labelled(mut self, labels: impl FnOnce() -> StoreLabels) -> Self {
        if let Some((_, breaker, retry, _)) = &mut self.0 {
            let labels = labels();
            breaker.store = labels.clone();
            retry.store = labels;
        }
        self
    }

    /// Puts the layers around the connector of `store`.
    pub(crate) fn around(self, store: StoreId, connector: BoxConnector) -> BoxConnector {
        let Some((limit, breaker, retry, timeout)) = self.0 else { return connector };
        let (limit, timeout) = (limit.of_store(store), timeout.of_store(store));
        BoxConnector::new(limit.layer(breaker.layer(retry.layer(timeout.layer(connector)))))
    }
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
            (LayerOptions { timeout_ms: Some(0), ..base() }, "remove it"),
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
