//! The counters of a queue.

use std::time::Instant;

use connectors::observe::{Metric, MetricKind};

use super::job::{Completion, Kind};
use super::queue::State;

/// The metrics of all queues of the process, in the order of [`State::recorded_now`]. The metrics of calls have the rest.
pub(super) const METRICS: [Metric; 8] = {
    const fn of(name: &'static str, kind: MetricKind, unit: &'static str, help: &'static str) -> Metric {
        Metric { name, kind, unit, labels: &["connector", "instance"], help }
    }
    use MetricKind::{Counter, Gauge};
    [
        of(
            "kvconn_engine_shed_stores_total",
            Counter,
            "",
            "Stores of an engine that were dropped because the backlog was full.",
        ),
        of(
            "kvconn_engine_shed_bytes_total",
            Counter,
            "bytes",
            "Bytes of the stores that were dropped because the backlog was full.",
        ),
        of(
            "kvconn_engine_stale_keys_total",
            Counter,
            "",
            "Keys whose value has another length than the engine's memory for it. Each is a miss.",
        ),
        of(
            "kvconn_engine_lookup_timeouts_total",
            Counter,
            "",
            "Lookups of an engine that were answered with misses because the store did not answer in time.",
        ),
        of(
            "kvconn_engine_lookups_refused_total",
            Counter,
            "",
            "Lookups of an engine that were answered with misses at once because an earlier one had no answer yet.",
        ),
        of("kvconn_engine_store_backlog_bytes", Gauge, "bytes", "Bytes of an engine's stores that wait or run."),
        of("kvconn_engine_pinned_bytes", Gauge, "bytes", "Bytes of an engine's memory that stores and loads hold."),
        of(
            "kvconn_engine_overdue_jobs",
            Gauge,
            "",
            "Stores and loads of an engine that hold their memory for more than 30 seconds.",
        ),
    ]
};

const _: () = {
    connectors::__private::element! {
        METRIC_LISTS: MetricList = &METRICS
    }
};

/// The counters of the submits of one kind.
#[derive(Default)]
struct Submits {
    submits: u64,
    keys: u64,
    /// Keys that were stored, loaded or found.
    yes: u64,
    /// Completions with an error.
    failed: u64,
    bytes: u64,
    seconds: f64,
}

/// The counters since the client was made.
#[derive(Default)]
pub(super) struct Counters {
    kinds: [Submits; 3],
    pub(super) shed_stores: u64,
    pub(super) shed_bytes: u64,
    stale: u64,
    pub(super) lookup_timeouts: u64,
    pub(super) lookups_refused: u64,
}

impl Counters {
    pub(super) fn submitted(&mut self, kind: Kind, keys: usize) {
        let counters = &mut self.kinds[kind as usize];
        counters.submits += 1;
        counters.keys += keys as u64;
    }

    pub(super) fn ended<H>(&mut self, kind: Kind, completion: &Completion<H>, stale: u64) {
        let counters = &mut self.kinds[kind as usize];
        counters.yes += completion.yes.iter().map(|yes| u64::from(*yes)).sum::<u64>();
        counters.failed += u64::from(completion.error.is_some());
        counters.bytes += completion.bytes;
        counters.seconds += completion.seconds;
        self.stale += stale;
    }

    fn recorded_now(&self) -> [f64; 5] {
        [self.shed_stores, self.shed_bytes, self.stale, self.lookup_timeouts, self.lookups_refused].map(|n| n as f64)
    }

    /// All counters, by name.
    pub(super) fn named(&self) -> Vec<(&'static str, f64)> {
        let [stores, loads, lookups] = &self.kinds;
        vec![
            ("stores", stores.submits as f64),
            ("store_keys", stores.keys as f64),
            ("stored_keys", stores.yes as f64),
            ("stored_bytes", stores.bytes as f64),
            ("store_seconds", stores.seconds),
            ("failed_stores", stores.failed as f64),
            ("shed_stores", self.shed_stores as f64),
            ("shed_bytes", self.shed_bytes as f64),
            ("loads", loads.submits as f64),
            ("load_keys", loads.keys as f64),
            ("loaded_keys", loads.yes as f64),
            ("loaded_bytes", loads.bytes as f64),
            ("load_seconds", loads.seconds),
            ("failed_loads", loads.failed as f64),
            ("stale_keys", self.stale as f64),
            ("lookups", lookups.submits as f64),
            ("lookup_keys", lookups.keys as f64),
            ("found_keys", lookups.yes as f64),
            ("lookup_seconds", lookups.seconds),
            ("failed_lookups", lookups.failed as f64),
            ("lookup_timeouts", self.lookup_timeouts as f64),
            ("lookups_refused", self.lookups_refused as f64),
        ]
    }
}

impl<H: Send + 'static> State<H> {
    /// The values of [`METRICS`].
    pub(super) fn recorded_now(&self) -> [f64; METRICS.len()] {
        let [shed, bytes, stale, timeouts, refused] = self.counters.recorded_now();
        let [stores, loads] = self.live_bytes;
        let (overdue, _) = self.overdue(Instant::now());
        [shed, bytes, stale, timeouts, refused, stores as f64, (stores + loads) as f64, overdue as f64]
    }
}
