//! Spans and metrics of every connector. They are always on, outside of all layers.
//!
//! A call is one `tracing` span `kvconn` of level DEBUG, target `connector_core::call`, with the fields `connector`, `instance`, `operation`
//! and, for an operation on one key, `key`. Each key that failed makes an event of level DEBUG in it. The caller has
//! the error and decides what to log.
//!
//! Metrics go to the recorder of the [`metrics`](https://docs.rs/metrics) facade that the program has installed when the
//! connector has its first call of an operation. Labels are `connector` (`module/Name`), `instance`, `operation` (the method's
//! name) and the ones that the table names. No label holds a key.
//!
//! `instance` tells the stores of one process apart. It is the plugin's name, or hosts and path of the store's URL, without user,
//! password and query ([`ConnectorContext::instance`](crate::ConnectorContext::instance)). The stores behind `tiered` and
//! `audit` have their own. It is empty for a connector that was not opened by a URL.
//!
//! [`metrics()`](fn@metrics) lists them all, and `docs/operate/metrics.md` explains them. Each has an entry in [the list](Metric) with its kind,
//! unit, labels and meaning. The stores that speak RESP (`redis`, `resp`, `valkey`) also count by server:
//! `connectors/src/resp_wire/meters.rs`.
//!
//! [`install`] installs kvconn's own recorder, and [`page()`](page) writes its metrics as Prometheus reads them. The command and the
//! Python package use it. With another recorder, call [`describe`] once, so that the recorder has the texts.
//!
//! LMCache's `InstrumentedRemoteConnector` records only the time and bytes of successful `get`s and `put`s.

mod list;
mod page;
mod recorder;

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, IntoF64, Label, SharedString};
use tracing::Span;

use crate::chunk::MemoryObj;
use crate::connector::{Diagnosis, Operation, ServerInfo};
use crate::key::CacheKey;
use crate::{Error, ErrorKind, Result};

#[doc(hidden)]
pub use list::MetricList;
pub use list::{Metric, MetricKind, describe, metrics};
pub use page::page;
pub use recorder::{BUCKETS, Family, MOST_SAMPLES, OTHER, Recorder, Sample, Value, install};

/// Counter of calls that ended, by `result`.
pub(crate) const CALLS: &str = "kvconn_calls_total";
/// Histogram of how long calls took, in seconds.
pub(crate) const SECONDS: &str = "kvconn_call_seconds";
/// Gauge of calls that have not ended.
pub(crate) const IN_FLIGHT: &str = "kvconn_calls_in_flight";
/// Counter of keys that were there.
pub(crate) const HITS: &str = "kvconn_hits_total";
/// Counter of keys that were not there.
pub(crate) const MISSES: &str = "kvconn_misses_total";
/// Counter of bytes that were given or stored.
pub(crate) const BYTES: &str = "kvconn_bytes_total";
/// Counter of failures, by `kind`.
pub(crate) const ERRORS: &str = "kvconn_errors_total";
/// Counter of tries after the first.
pub(crate) const RETRIES: &str = "kvconn_retries_total";
/// Counter of how often a store was lost.
pub(crate) const BREAKER_OPENED: &str = "kvconn_breaker_opened_total";
/// Gauge of the stores that are lost.
pub(crate) const BREAKER_OPEN: &str = "kvconn_breaker_open";
/// Gauge of the bytes that pools may hold.
pub(crate) const POOL_CAPACITY: &str = "kvconn_pool_capacity_bytes";
/// Gauge of the bytes that chunks hold.
pub(crate) const POOL_IN_USE: &str = "kvconn_pool_in_use_bytes";
/// Gauge of the free bytes that pools keep.
pub(crate) const POOL_KEPT: &str = "kvconn_pool_kept_bytes";

/// The metrics of every connector.
pub(crate) const METRICS: MetricList = {
    const STORE: &[&str] = &["connector", "instance"];
    const CALL: &[&str] = &["connector", "instance", "operation"];
    const fn of(name: &'static str, kind: MetricKind, labels: &'static [&'static str], help: &'static str) -> Metric {
        Metric { name, kind, unit: "", labels, help }
    }
    const fn bytes(metric: Metric) -> Metric {
        Metric { unit: "bytes", ..metric }
    }
    use MetricKind::{Counter, Gauge, Histogram};
    &[
        of(
            CALLS,
            Counter,
            &["connector", "instance", "operation", "result"],
            "Calls that ended, by result: ok, error or cancelled. A batch with one failed key is an error.",
        ),
        Metric {
            unit: "seconds",
            ..of(SECONDS, Histogram, CALL, "Duration of calls that ended with ok or error, in seconds.")
        },
        of(IN_FLIGHT, Gauge, CALL, "Calls that have not ended."),
        of(HITS, Counter, CALL, "Keys that the store has, of those that calls asked for."),
        of(
            MISSES,
            Counter,
            CALL,
            "Keys that the store does not have, of those that calls asked for. An error is not a miss.",
        ),
        bytes(of(BYTES, Counter, CALL, "Bytes of the chunks that gets returned or puts stored.")),
        of(
            ERRORS,
            Counter,
            &["connector", "instance", "operation", "kind"],
            "Keys that failed, and calls on no key that failed, by the kind of the error.",
        ),
        of(RETRIES, Counter, CALL, "Tries after the first one of a call."),
        of(BREAKER_OPENED, Counter, STORE, "Times that the breaker opened because the store was lost."),
        of(BREAKER_OPEN, Gauge, STORE, "Stores whose breaker is open: they are lost, and calls are refused."),
        bytes(of(POOL_CAPACITY, Gauge, &[], "Bytes that the memory pools of this process may hold.")),
        bytes(of(POOL_IN_USE, Gauge, &[], "Bytes of the memory pools that chunks hold.")),
        bytes(of(POOL_KEPT, Gauge, &[], "Free bytes that the memory pools keep for the next chunks.")),
    ]
};

/// The labels that all metrics of a store have.
#[derive(Debug, Clone)]
pub(crate) struct StoreLabels {
    pub(crate) connector: SharedString,
    pub(crate) instance: SharedString,
}

impl Default for StoreLabels {
    fn default() -> Self {
        Self { connector: SharedString::const_str(""), instance: SharedString::const_str("") }
    }
}

impl StoreLabels {
    pub(crate) fn new(connector: &str, instance: String) -> Self {
        Self { connector: connector.to_owned().into(), instance: instance.into() }
    }

    /// These labels, and `more`.
    pub(crate) fn and<const N: usize>(&self, more: [Label; N]) -> Vec<Label> {
        let Self { connector, instance } = self;
        let own = [Label::new("connector", connector.clone()), Label::new("instance", instance.clone())];
        own.into_iter().chain(more).collect()
    }
}

/// The metrics of one connector. Each is made at first use, because a program may install its recorder after it opened the
/// store.
pub(crate) struct Instruments {
    store: StoreLabels,
    operations: [OnceLock<Box<Meters>>; Operation::ALL.len()],
}

/// The metrics of one operation.
struct Meters {
    ok: Counter,
    error: Counter,
    cancelled: Counter,
    seconds: Histogram,
    in_flight: Gauge,
    hits: Counter,
    misses: Counter,
    bytes: Counter,
    /// Whether a recorder is installed. Without one, kvconn does not read the clock.
    recorded: bool,
}

/// A value that detects a recorder: only a recorder asks for it.
struct RecorderProbe<'a>(&'a Cell<bool>);

impl IntoF64 for RecorderProbe<'_> {
    fn into_f64(self) -> f64 {
        self.0.set(true);
        0.0
    }
}

/// The counts of one answer.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) bytes: u64,
}

/// One call that runs. If it is dropped before its end, it counts as cancelled.
pub(crate) struct Observed<'a> {
    instruments: &'a Instruments,
    operation: Operation,
    meters: &'a Meters,
    begun: Option<Instant>,
    ended: bool,
}

impl Instruments {
    pub(crate) fn new(store: StoreLabels) -> Self {
        Self { store, operations: [const { OnceLock::new() }; Operation::ALL.len()] }
    }

    pub(crate) fn instance(&self) -> &str {
        &self.store.instance
    }

    /// The instruments of another handle of the store.
    #[cfg(feature = "conformance")]
    pub(crate) fn of_same_store(&self) -> Self {
        Self::new(self.store.clone())
    }

    pub(crate) fn begin(&self, operation: Operation) -> Observed<'_> {
        let meters = self.operations[operation as usize].get_or_init(|| Box::new(self.meters(operation)));
        meters.in_flight.increment(1.0);
        let begun = meters.recorded.then(Instant::now);
        Observed { instruments: self, operation, meters, begun, ended: false }
    }

    /// The call's span; disabled without a subscriber.
    pub(crate) fn span(&self, operation: Operation, key: Option<&CacheKey>) -> Span {
        let key = key.map(CacheKey::as_str);
        tracing::debug_span!(
            target: "connector_core::call",
            "kvconn",
            connector = &*self.store.connector,
            instance = &*self.store.instance,
            operation = operation.as_str(),
            key
        )
    }

    #[cold]
    fn meters(&self, operation: Operation) -> Meters {
        let labels = || self.labels(operation);
        let calls = |result: &'static str| {
            let mut labels = labels();
            labels.push(Label::from_static_parts("result", result));
            metrics::counter!(CALLS, labels)
        };
        let in_flight = metrics::gauge!(IN_FLIGHT, labels());
        let asked = Cell::new(false);
        in_flight.increment(RecorderProbe(&asked));
        Meters {
            recorded: asked.get(),
            in_flight,
            ok: calls("ok"),
            error: calls("error"),
            cancelled: calls("cancelled"),
            seconds: metrics::histogram!(SECONDS, labels()),
            hits: metrics::counter!(HITS, labels()),
            misses: metrics::counter!(MISSES, labels()),
            bytes: metrics::counter!(BYTES, labels()),
        }
    }

    fn labels(&self, operation: Operation) -> Vec<Label> {
        self.store.and([Label::from_static_parts("operation", operation.as_str())])
    }

    /// Counts failures of one kind.
    #[cold]
    fn failed(&self, operation: Operation, kind: ErrorKind, n: u64) {
        let mut labels = self.labels(operation);
        labels.push(Label::from_static_parts("kind", kind.as_str()));
        metrics::counter!(ERRORS, labels).increment(n);
    }
}

#[cold]
fn log_failure(error: &Error, key: Option<&CacheKey>) {
    let (kind, key) = (error.kind().as_str(), key.map(CacheKey::as_str));
    tracing::debug!(target: "connector_core::call", kind, key, %error, "failed");
}

impl Observed<'_> {
    /// Ends the call with this answer.
    pub(crate) fn end<T: Answered>(&mut self, answer: &Result<T>, key: Option<&CacheKey>) {
        let mut tally = Tally::default();
        match answer {
            Ok(value) => value.tally(&mut tally),
            Err(e) => {
                log_failure(e, key);
                self.instruments.failed(self.operation, e.kind(), 1);
            }
        }
        self.count(answer.is_ok(), &tally);
    }

    /// Ends the batch with these answers.
    pub(crate) fn end_batch<'k, T: Answered>(&mut self, answers: &[Result<T>], key: impl Fn(usize) -> &'k CacheKey) {
        let mut tally = Tally::default();
        let mut failures: Vec<(ErrorKind, u64)> = Vec::new();
        for (i, answer) in answers.iter().enumerate() {
            match answer {
                Ok(value) => value.tally(&mut tally),
                Err(e) => {
                    log_failure(e, Some(key(i)));
                    match failures.iter_mut().find(|(kind, _)| *kind == e.kind()) {
                        Some((_, n)) => *n += 1,
                        None => failures.push((e.kind(), 1)),
                    }
                }
            }
        }
        for (kind, n) in &failures {
            self.instruments.failed(self.operation, *kind, *n);
        }
        self.count(failures.is_empty(), &tally);
    }

    fn count(&mut self, ok: bool, tally: &Tally) {
        self.ended = true;
        let meters = self.meters;
        if ok { &meters.ok } else { &meters.error }.increment(1);
        if let Some(begun) = self.begun {
            meters.seconds.record(begun.elapsed());
        }
        for (counter, n) in [(&meters.hits, tally.hits), (&meters.misses, tally.misses), (&meters.bytes, tally.bytes)] {
            if n > 0 {
                counter.increment(n);
            }
        }
    }
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        self.meters.in_flight.decrement(1.0);
        if !self.ended {
            self.meters.cancelled.increment(1);
        }
    }
}

/// The answer of an operation for one key.
pub(crate) trait Answered {
    fn tally(&self, tally: &mut Tally);
}

impl Answered for bool {
    fn tally(&self, tally: &mut Tally) {
        tally.hits += u64::from(*self);
        tally.misses += u64::from(!*self);
    }
}

impl Answered for Option<MemoryObj> {
    fn tally(&self, tally: &mut Tally) {
        self.is_some().tally(tally);
        tally.bytes += self.as_ref().map_or(0, |chunk| chunk.len() as u64);
    }
}

impl Answered for Option<usize> {
    fn tally(&self, tally: &mut Tally) {
        self.is_some().tally(tally);
        tally.bytes += self.unwrap_or(0) as u64;
    }
}

impl Answered for () {
    fn tally(&self, _tally: &mut Tally) {}
}

impl Answered for Vec<ServerInfo> {
    fn tally(&self, _tally: &mut Tally) {}
}

impl Answered for Vec<Diagnosis> {
    fn tally(&self, _tally: &mut Tally) {}
}

/// A put stored a chunk of this number of bytes.
pub(crate) struct Stored(pub(crate) usize);

impl Answered for Stored {
    fn tally(&self, tally: &mut Tally) {
        tally.bytes += self.0 as u64;
    }
}

/// The leading run of a call's keys. Keys behind the first missing one do not count.
pub(crate) struct Run {
    pub(crate) found: usize,
    pub(crate) asked: usize,
}

/// The chunks of the leading run of a call's keys.
pub(crate) struct Loaded {
    pub(crate) chunks: Vec<MemoryObj>,
    pub(crate) asked: usize,
}

impl Answered for Loaded {
    fn tally(&self, tally: &mut Tally) {
        Run { found: self.chunks.len(), asked: self.asked }.tally(tally);
        tally.bytes += self.chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
    }
}

impl Answered for Run {
    fn tally(&self, tally: &mut Tally) {
        tally.hits += self.found as u64;
        tally.misses += u64::from(self.found < self.asked);
    }
}
