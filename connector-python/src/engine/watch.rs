//! The figures of a queue, and the conditions that it logs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use connectors::metrics::{Label, counter, gauge};
use connectors::observe::MetricKind;
use connectors::{Error, Result, runtime};

use super::queue::{Live, Queue, State};
use super::stats::METRICS;

/// A job whose memory is in use for longer than this after its first part began is overdue.
const OVERDUE: Duration = Duration::from_secs(30);
/// How often the queue looks for conditions to log.
const WATCH_EVERY: Duration = Duration::from_secs(5);
/// Least time between two log lines about one condition.
const LOG_EVERY: Duration = Duration::from_secs(60);

impl<H: Send + 'static> Queue<H> {
    /// Looks for conditions to log, while the queue lives.
    pub(super) fn watch(self: &Arc<Self>) -> Result<()> {
        let watched = Arc::downgrade(self);
        runtime::handle()?.spawn(async move {
            while let Some(queue) = watched.upgrade() {
                queue.log_conditions();
                queue.record();
                drop(queue);
                tokio::time::sleep(WATCH_EVERY).await;
            }
        });
        Ok(())
    }

    /// Adds what changed since the last call to the metrics of the process. Two queues of one store add to the same metrics.
    pub(super) fn record(&self) {
        let changes = {
            let mut state = self.state();
            let now = state.recorded_now();
            let before = std::mem::replace(&mut state.recorded, now);
            std::array::from_fn::<_, { METRICS.len() }, _>(|n| now[n] - before[n])
        };
        for (metric, change) in METRICS.iter().zip(changes).filter(|(_, change)| *change != 0.0) {
            let label = |name, value: &str| Label::new(name, value.to_owned());
            let labels = vec![label("connector", self.connector.name()), label("instance", self.connector.instance())];
            match metric.kind {
                MetricKind::Counter => counter!(metric.name, labels).increment(change as u64),
                _ => gauge!(metric.name, labels).increment(change),
            }
        }
    }

    /// All figures, by name.
    pub(crate) fn stats(&self) -> Vec<(&'static str, f64)> {
        let state = self.state();
        let mut stats = state.counters.named();
        let [store_bytes, load_bytes] = state.live_bytes;
        let (overdue_jobs, overdue_bytes) = state.overdue(Instant::now());
        stats.extend([
            ("store_backlog_bytes", store_bytes as f64),
            ("pinned_bytes", (store_bytes + load_bytes) as f64),
            ("waiting_stores", state.stores.len() as f64),
            ("waiting_loads", state.loads.len() as f64),
            ("running_parts", (state.load_parts + state.store_parts) as f64),
            ("overdue_jobs", overdue_jobs as f64),
            ("overdue_bytes", overdue_bytes as f64),
            ("overdue_lookups", state.overdue_lookups as f64),
            ("lost", f64::from(state.lost || state.overdue_lookups > 0)),
        ]);
        stats
    }

    /// Logs chunks that the store refused, at most once a minute. The engines only see that a chunk was not moved.
    pub(super) fn log_refused(&self, chunks: usize, first: &Error) {
        let now = Instant::now();
        let refused = {
            let (logged, refused) = &mut self.state().logged_refused;
            *refused += chunks;
            if !is_time(*logged, now) {
                return;
            }
            *logged = Some(now);
            std::mem::take(refused)
        };
        tracing::warn!(connector = self.connector.name(), chunks = refused, "the store refuses chunks: {first}");
    }

    /// Logs transfers that are overdue, and stores that were shed, each at most once a minute.
    fn log_conditions(&self) {
        let now = Instant::now();
        let (overdue, shed) = {
            let mut state = self.state();
            let is_time = |logged| is_time(logged, now);
            let overdue = Some(state.overdue(now)).filter(|(jobs, _)| *jobs > 0 && is_time(state.logged_overdue));
            if overdue.is_some() {
                state.logged_overdue = Some(now);
            }
            let new = state.counters.shed_stores - state.logged_shed.1;
            let shed = Some(new).filter(|new| *new > 0 && is_time(state.logged_shed.0));
            if shed.is_some() {
                state.logged_shed = (Some(now), state.counters.shed_stores);
            }
            (overdue, shed)
        };
        let connector = self.connector.name();
        if let Some((jobs, bytes)) = overdue {
            tracing::warn!(connector, jobs, bytes, "transfers hold their memory for more than {OVERDUE:?}");
        }
        if let Some(shed) = shed {
            let store_backlog = self.limits.store_backlog;
            tracing::warn!(
                connector,
                shed,
                store_backlog,
                "the backlog of stores was full; the oldest were not stored"
            );
        }
    }
}

impl<H: Send + 'static> Drop for Queue<H> {
    fn drop(&mut self) {
        self.record();
    }
}

/// Whether a condition that was logged at this time may be logged again.
fn is_time(logged: Option<Instant>, now: Instant) -> bool {
    logged.is_none_or(|logged| now - logged >= LOG_EVERY)
}

impl<H: Send + 'static> State<H> {
    /// The number of jobs that are overdue at this time, and their bytes.
    pub(crate) fn overdue(&self, now: Instant) -> (usize, u64) {
        let late = |live: &&Live| live.began.is_some_and(|began| now - began > OVERDUE);
        self.live.values().filter(late).fold((0, 0), |(jobs, bytes), live| (jobs + 1, bytes + live.bytes))
    }
}
