//! The counters of a queue.

use super::job::{Completion, Kind};

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
