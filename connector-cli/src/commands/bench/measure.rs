//! The measurement itself. The clock runs only while operations do: content is made before it, and verified after it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, Error, ErrorKind, MemoryObj};
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use serde::{Serialize, Serializer};
use tokio::task::JoinSet;

use super::Plan;
use super::content::Content;
use crate::interrupt::Interrupt;
use crate::output::gib_per_s;

/// A round asks for existence at least this often: a question is too quick to be timed a few times.
const EXISTS_AT_LEAST: usize = 1000;
/// Digits of a latency that count.
const LATENCY_DIGITS: u8 = 3;
/// Longer ones count as this long.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug, Serialize)]
pub(super) struct Measured {
    pub(super) put: Figures,
    pub(super) get: Figures,
    pub(super) exists: Figures,
    verified_bytes: usize,
}

/// Of one kind of operation.
#[derive(Debug)]
pub(super) struct Figures {
    operations: usize,
    bytes: usize,
    time: Duration,
    /// Nanoseconds.
    latency: Histogram<u64>,
}

impl Figures {
    fn new() -> Result<Self, Error> {
        let latency = Histogram::new_with_max(LATENCY_MAX.as_nanos() as u64, LATENCY_DIGITS)
            .map_err(|e| Error::new(ErrorKind::Other, format!("cannot count latencies: {e}")))?;
        Ok(Self { operations: 0, bytes: 0, time: Duration::ZERO, latency })
    }

    /// `None` for an operation that moves no bytes.
    pub(super) fn gib_per_s(&self) -> Option<f64> {
        (self.bytes > 0).then(|| gib_per_s(self.bytes, self.time))
    }

    pub(super) fn per_s(&self) -> f64 {
        self.operations as f64 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency that this share of the operations stayed within.
    pub(super) fn latency(&self, share: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_quantile(share))
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown {
            operations: usize,
            seconds: f64,
            per_s: f64,
            #[serde(skip_serializing_if = "Option::is_none")]
            gib_per_s: Option<f64>,
            p50_us: f64,
            p99_us: f64,
        }
        let us = |share| self.latency(share).as_nanos() as f64 / 1e3;
        Shown {
            operations: self.operations,
            seconds: self.time.as_secs_f64(),
            per_s: self.per_s(),
            gib_per_s: self.gib_per_s(),
            p50_us: us(0.5),
            p99_us: us(0.99),
        }
        .serialize(serializer)
    }
}

/// Runs the plan. `None` if it was interrupted.
pub(super) async fn measure(
    store: &Connector,
    plan: &Plan,
    keys: &[CacheKey],
    run: u64,
    interrupt: &Interrupt,
    bar: &ProgressBar,
) -> Result<Option<Measured>, Error> {
    let keys: Arc<[CacheKey]> = keys.into();
    let mut bench = Bench { store, plan, run, interrupt, bar, keys, measured: Measured::new()? };
    // Warms up the store's connections and files, and the pool's memory; only the first window, so it stays short.
    bench.round(0, plan.window).await?;
    bench.measured = Measured::new()?;
    bar.set_position(0);
    for round in 1..=plan.rounds {
        if interrupt.is_set() {
            break;
        }
        bar.set_message(format!("round {round}"));
        bench.round(round, plan.keys).await?;
    }
    Ok((!interrupt.is_set()).then_some(bench.measured))
}

impl Measured {
    fn new() -> Result<Self, Error> {
        Ok(Self { put: Figures::new()?, get: Figures::new()?, exists: Figures::new()?, verified_bytes: 0 })
    }
}

struct Bench<'a> {
    store: &'a Connector,
    plan: &'a Plan,
    run: u64,
    interrupt: &'a Interrupt,
    bar: &'a ProgressBar,
    keys: Arc<[CacheKey]>,
    measured: Measured,
}

impl Bench<'_> {
    /// Puts, gets and asks for the first `n` keys. Ends early if it is interrupted.
    async fn round(&mut self, round: usize, n: usize) -> Result<(), Error> {
        let windows = || (0..n).step_by(self.plan.window).map(|from| (from, self.plan.window.min(n - from)));
        for (from, len) in windows().collect::<Vec<_>>() {
            self.put(round, from, len).await?;
        }
        for (from, len) in windows().collect::<Vec<_>>() {
            self.get(round, from, len).await?;
        }
        self.exists(n).await
    }

    async fn put(&mut self, round: usize, from: usize, len: usize) -> Result<(), Error> {
        let (run, size) = (self.run, self.plan.chunk_bytes);
        let made = (from..from + len).map(|i| MemoryObj::from(Content::new(run, i, round).bytes(size)));
        let chunks: Arc<[MemoryObj]> = made.collect();
        let (store, keys) = (self.store.clone(), self.keys.clone());
        let put = move |i: usize| {
            let (store, keys, chunk) = (store.clone(), keys.clone(), chunks[i].clone());
            async move { store.put(&keys[from + i], chunk).await }
        };
        let timed = timed(len, self.plan.concurrency, self.interrupt, Some(self.bar), put).await?;
        timed.count(&mut self.measured.put, size);
        Ok(())
    }

    async fn get(&mut self, round: usize, from: usize, len: usize) -> Result<(), Error> {
        let (store, keys) = (self.store.clone(), self.keys.clone());
        let get = move |i: usize| {
            let (store, keys) = (store.clone(), keys.clone());
            async move { store.get(&keys[from + i]).await }
        };
        let timed = timed(len, self.plan.concurrency, self.interrupt, Some(self.bar), get).await?;
        timed.count(&mut self.measured.get, self.plan.chunk_bytes);
        for (i, chunk) in timed.answers {
            self.verify(round, from + i, chunk)?;
        }
        Ok(())
    }

    fn verify(&mut self, round: usize, i: usize, chunk: Option<MemoryObj>) -> Result<(), Error> {
        let wrong =
            |what: String| Error::new(ErrorKind::Corrupt, what).with_operation("verify").with_key(&self.keys[i]);
        let len = self.plan.chunk_bytes;
        let Some(chunk) = chunk else {
            return Err(wrong("a chunk that was put is gone".to_owned())
                .with_hint("the store may be smaller than --keys times --chunk-size"));
        };
        match Content::new(self.run, i, round).difference(&chunk, len) {
            None => {
                self.measured.verified_bytes += len;
                Ok(())
            }
            Some(at) => Err(wrong(format!(
                "of {len} bytes that were put {} came back, and differ from byte {at} on",
                chunk.len()
            ))),
        }
    }

    async fn exists(&mut self, n: usize) -> Result<(), Error> {
        let (store, keys) = (self.store.clone(), self.keys.clone());
        let exists = move |i: usize| {
            let (store, keys) = (store.clone(), keys.clone());
            async move { store.exists(&keys[i % n]).await }
        };
        let timed = timed(n.max(EXISTS_AT_LEAST), self.plan.concurrency, self.interrupt, None, exists).await?;
        timed.count(&mut self.measured.exists, 0);
        match timed.answers.iter().find(|(_, there)| !there) {
            Some((i, _)) => {
                let key = &self.keys[i % n];
                Err(Error::new(ErrorKind::Corrupt, format!("`{key}` was put, but the store says it is not there")))
            }
            None => Ok(()),
        }
    }
}

/// Answers with the index they are to, and what they took.
struct Timed<T> {
    answers: Vec<(usize, T)>,
    laps: Vec<Duration>,
    time: Duration,
}

impl<T> Timed<T> {
    fn count(&self, figures: &mut Figures, bytes_each: usize) {
        figures.operations += self.laps.len();
        figures.bytes += self.laps.len() * bytes_each;
        figures.time += self.time;
        for lap in &self.laps {
            figures.latency.saturating_record(lap.as_nanos() as u64);
        }
    }
}

/// Runs `operation` for 0 to `n`, by as many tasks as are to be in flight: a server's requests come on all threads, too.
async fn timed<T, F, R>(
    n: usize,
    concurrency: usize,
    interrupt: &Interrupt,
    bar: Option<&ProgressBar>,
    operation: F,
) -> Result<Timed<T>, Error>
where
    T: Send + 'static,
    F: Fn(usize) -> R + Clone + Send + 'static,
    R: Future<Output = Result<T, Error>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    let start = Instant::now();
    for _ in 0..concurrency.min(n) {
        let (next, interrupt, bar, operation) = (next.clone(), interrupt.clone(), bar.cloned(), operation.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= n || interrupt.is_set() {
                    return Ok(done);
                }
                let start = Instant::now();
                let answer = operation(i).await.inspect_err(|_| next.store(n, Ordering::Relaxed))?;
                done.push((i, start.elapsed(), answer));
                if let Some(bar) = &bar {
                    bar.inc(1);
                }
            }
        });
    }
    let mut all = Timed { answers: Vec::with_capacity(n), laps: Vec::with_capacity(n), time: Duration::ZERO };
    let mut failed: Option<Error> = None;
    while let Some(worker) = workers.join_next().await {
        match worker {
            Ok(Ok(done)) => {
                for (i, lap, answer) in done {
                    all.laps.push(lap);
                    all.answers.push((i, answer));
                }
            }
            Ok(Err(e)) => {
                failed.get_or_insert(e);
            }
            Err(e) => {
                failed.get_or_insert(Error::new(ErrorKind::Other, format!("an operation ended unexpectedly: {e}")));
            }
        }
    }
    all.time = start.elapsed();
    failed.map_or(Ok(all), Err)
}
