//! The list of all metrics. `docs/operate/metrics.md`, the texts of `HELP`, and the checks of dashboards come from it.

use metrics::Unit;

use crate::registry::METRIC_LISTS;

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// A number that only grows.
    Counter,
    /// A number that grows and shrinks.
    Gauge,
    /// The number of observations up to each [bound](super::BUCKETS), and their sum.
    Histogram,
}

impl MetricKind {
    /// `counter`, `gauge` or `histogram`, as Prometheus writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name. A counter's name ends with `_total`.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// `seconds`, `bytes`, or empty for a count.
    pub unit: &'static str,
    /// The names of its labels, in the order in which kvconn gives them.
    pub labels: &'static [&'static str],
    /// One sentence about it.
    pub help: &'static str,
}

/// The metrics of one part of kvconn.
#[doc(hidden)]
pub type MetricList = &'static [Metric];

/// All metrics that this binary may record, sorted by name. Those of a store are there if the store is linked.
pub fn metrics() -> Vec<&'static Metric> {
    let mut all: Vec<_> = METRIC_LISTS.iter().copied().flatten().collect();
    all.sort_by_key(|metric| metric.name);
    all
}

/// Gives the recorder of the `metrics` facade the help and unit of [all metrics](fn@metrics). Call it after you install a recorder
/// of your own.
pub fn describe() {
    for metric in metrics() {
        let unit = match metric.unit {
            "seconds" => Unit::Seconds,
            "bytes" => Unit::Bytes,
            _ => Unit::Count,
        };
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(metric.name, unit, metric.help),
            MetricKind::Gauge => metrics::describe_gauge!(metric.name, unit, metric.help),
            MetricKind::Histogram => metrics::describe_histogram!(metric.name, unit, metric.help),
        }
    }
}
