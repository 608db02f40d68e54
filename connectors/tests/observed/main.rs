//! The metrics of stores, and what a store says about its servers.
#![forbid(unsafe_code)]

mod counting;
mod describing;
mod instances;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use connectors::metrics::{Key, Label};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// Installs one recorder for the whole process, because connections open on kvconn's own threads.
fn recorder() -> &'static Snapshotter {
    static SNAPSHOTTER: OnceLock<Snapshotter> = OnceLock::new();
    SNAPSHOTTER.get_or_init(|| {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        connectors::metrics::set_global_recorder(recorder).expect("the first recorder of the process");
        snapshotter
    })
}

/// Fails unless the list of metrics has this one with these labels.
fn is_listed(key: &Key) {
    let listed = connectors::observe::metrics().into_iter().find(|metric| metric.name == key.name());
    let metric = listed.unwrap_or_else(|| panic!("{} is not in the list of metrics", key.name()));
    assert_eq!(key.labels().map(Label::key).collect::<Vec<_>>(), metric.labels, "{}", metric.name);
}

/// The counters so far that have this text in their name or labels: `name{label=value,..}`. A snapshot resets a counter, so
/// this adds up all snapshots.
fn counters(with: &str) -> BTreeMap<String, u64> {
    static SUMS: std::sync::Mutex<BTreeMap<String, u64>> = std::sync::Mutex::new(BTreeMap::new());
    let mut sums = SUMS.lock().expect("no test panics here");
    for (name, _, _, value) in recorder().snapshot().into_vec() {
        if let DebugValue::Counter(n) = value {
            is_listed(name.key());
            let mut labels: Vec<String> = name.key().labels().map(|l| format!("{}={}", l.key(), l.value())).collect();
            labels.sort();
            *sums.entry(format!("{}{{{}}}", name.key().name(), labels.join(","))).or_default() += n;
        }
    }
    sums.iter().filter(|(name, n)| name.contains(with) && **n > 0).map(|(name, n)| (name.clone(), *n)).collect()
}
