//! kvconn's own recorder. The command and the Python package install it. A Rust program may install it, or any other.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use metrics::atomics::AtomicU64;
use metrics::{Counter, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};

use super::list::{MetricKind, metrics};
use crate::allocator::pool_totals;
use crate::runtime::PerProcess;

/// The upper bounds of a histogram's buckets, in the metric's unit. One more bucket has the observations above them.
pub const BUCKETS: [f64; 18] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The most samples of one metric. Later ones are added up in a sample whose labels are all [`OTHER`].
pub const MOST_SAMPLES: usize = 10_000;

/// The value of the labels of samples beyond [`MOST_SAMPLES`].
pub const OTHER: &str = "other";

/// A recorder of the `metrics` facade that keeps every metric in memory.
///
/// A record adds to an atomic number and takes no lock. A child of `fork` starts with no samples.
pub struct Recorder {
    families: PerProcess<Mutex<BTreeMap<String, Recorded>>>,
}

/// What was recorded of one metric.
struct Recorded {
    kind: MetricKind,
    help: String,
    samples: BTreeMap<Labels, Cell>,
}

/// Names and values, sorted by name.
type Labels = Vec<(String, String)>;

/// The memory of one sample.
#[derive(Clone)]
enum Cell {
    Counter(Arc<AtomicU64>),
    /// The bits of a float.
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Buckets>),
}

#[derive(Default)]
struct Buckets {
    counts: [AtomicU64; BUCKETS.len() + 1],
    /// The bits of a float.
    sum: AtomicU64,
}

/// One metric and its samples.
#[derive(Debug, Clone)]
pub struct Family {
    /// The metric's name.
    pub name: String,
    /// Its kind.
    pub kind: MetricKind,
    /// One sentence about it; empty if nothing described it.
    pub help: String,
    /// Its samples, sorted by their labels. Empty if nothing was recorded.
    pub samples: Vec<Sample>,
}

/// The value of a metric with these labels.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Names and values of the labels, sorted by name.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: Value,
}

/// The value of a sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A counter's or a gauge's.
    Number(f64),
    /// A histogram's.
    Histogram {
        /// The observations in each of [`BUCKETS`], without those of lower buckets, and at last those above all bounds.
        counts: Vec<u64>,
        /// The sum of the observations.
        sum: f64,
    },
}

impl Recorder {
    /// A recorder without samples.
    #[expect(clippy::new_without_default, reason = "a static needs a const function")]
    pub const fn new() -> Self {
        Self { families: PerProcess::new() }
    }

    /// All metrics of [the list](fn@super::metrics), and all others that were recorded, sorted by name.
    pub fn snapshot(&self) -> Vec<Family> {
        let mut families: BTreeMap<&str, Family> = BTreeMap::new();
        for metric in metrics() {
            let (name, help) = (metric.name.to_owned(), metric.help.to_owned());
            families.insert(metric.name, Family { name, kind: metric.kind, help, samples: Vec::new() });
        }
        let recorded = self.lock();
        for (name, recorded) in &*recorded {
            let (kind, help) = (recorded.kind, recorded.help.clone());
            let family = || Family { name: name.clone(), kind, help, samples: Vec::new() };
            let samples = recorded.samples.iter();
            let samples = samples.map(|(labels, cell)| Sample { labels: labels.clone(), value: cell.value() });
            families.entry(name).or_insert_with(family).samples = samples.collect();
        }
        for (name, bytes) in pool_totals() {
            if let Some(family) = families.get_mut(name) {
                family.samples = vec![Sample { labels: Vec::new(), value: Value::Number(bytes as f64) }];
            }
        }
        families.into_values().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Recorded>> {
        // No code panics while it holds the lock.
        self.families.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory for a sample; none if the name has another kind already.
    fn cell(&self, key: &Key, kind: MetricKind) -> Option<Cell> {
        let mut labels: Labels = key.labels().map(|l| (named(l.key(), "_"), l.value().to_owned())).collect();
        labels.sort();
        let mut families = self.lock();
        let family = families.entry(named(key.name(), "_:")).or_insert_with(|| Recorded::new(kind));
        if family.kind != kind {
            return None;
        }
        if family.samples.len() >= MOST_SAMPLES && !family.samples.contains_key(&labels) {
            labels.iter_mut().for_each(|(_, value)| OTHER.clone_into(value));
        }
        Some(family.samples.entry(labels).or_insert_with(|| Cell::new(kind)).clone())
    }

    fn describe(&self, name: &KeyName, kind: MetricKind, help: &str) {
        let mut families = self.lock();
        let family = families.entry(named(name.as_str(), "_:")).or_insert_with(|| Recorded::new(kind));
        help.clone_into(&mut family.help);
    }
}

/// The name with `_` for each character that Prometheus does not read: one such name would make a whole page unreadable.
fn named(name: &str, marks: &str) -> String {
    let is_read = |i, c: char| c.is_ascii_alphabetic() || marks.contains(c) || i > 0 && c.is_ascii_digit();
    name.char_indices().map(|(i, c)| if is_read(i, c) { c } else { '_' }).collect()
}

impl Recorded {
    fn new(kind: MetricKind) -> Self {
        Self { kind, help: String::new(), samples: BTreeMap::new() }
    }
}

impl Cell {
    fn new(kind: MetricKind) -> Self {
        match kind {
            MetricKind::Counter => Self::Counter(Arc::default()),
            MetricKind::Gauge => Self::Gauge(Arc::default()),
            MetricKind::Histogram => Self::Histogram(Arc::default()),
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Counter(count) => Value::Number(count.load(Ordering::Relaxed) as f64),
            Self::Gauge(bits) => Value::Number(f64::from_bits(bits.load(Ordering::Relaxed))),
            Self::Histogram(buckets) => Value::Histogram {
                counts: buckets.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
                sum: f64::from_bits(buckets.sum.load(Ordering::Relaxed)),
            },
        }
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        let at = BUCKETS.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        GaugeFn::increment(&self.sum, value);
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, name: KeyName, _unit: Option<Unit>, help: SharedString) {
        self.describe(&name, MetricKind::Counter, &help);
    }

    fn describe_gauge(&self, name: KeyName, _unit: Option<Unit>, help: SharedString) {
        self.describe(&name, MetricKind::Gauge, &help);
    }

    fn describe_histogram(&self, name: KeyName, _unit: Option<Unit>, help: SharedString) {
        self.describe(&name, MetricKind::Histogram, &help);
    }

    fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
        match self.cell(key, MetricKind::Counter) {
            Some(Cell::Counter(count)) => Counter::from_arc(count),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        match self.cell(key, MetricKind::Gauge) {
            Some(Cell::Gauge(bits)) => Gauge::from_arc(bits),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        match self.cell(key, MetricKind::Histogram) {
            Some(Cell::Histogram(buckets)) => Histogram::from_arc(buckets),
            _ => Histogram::noop(),
        }
    }
}

/// The recorder that [`install`] installs.
static RECORDER: Recorder = Recorder::new();

/// Installs kvconn's recorder for this process and every child that it forks, and gives it. The second value is false if the
/// process has another recorder, which then gets the metrics. A second call does nothing.
pub fn install() -> (&'static Recorder, bool) {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    (&RECORDER, *INSTALLED.get_or_init(|| metrics::set_global_recorder(&RECORDER).is_ok()))
}
