//! The measurement itself. The clock runs only while operations do: content is made before it, and verified after it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, Error, ErrorKind, MemoryObj, Result};
use indicatif::ProgressBar;
use tokio::task::JoinSet;

use super::Plan;
use super::content::Content;
use super::figures::{Clocked, Figures, Measured};
use crate::interrupt::Interrupt;

/// A round asks for existence at least this often: a question is too quick to be timed a few times.
const EXISTS_AT_LEAST: usize = 1000;
/// The same for questions about a batch of chunks.
const BATCHED_EXISTS_AT_LEAST: usize = 100;

/// One store under measurement.
pub(super) struct Bench<'a> {
    pub(super) store: &'a Connector,
    pub(super) keys: Arc<[CacheKey]>,
    pub(super) measured: Measured,
    plan: &'a Plan,
    run: u64,
    interrupt: &'a Interrupt,
    bar: &'a ProgressBar,
}

/// What a round is made of.
#[derive(Debug, Clone, Copy)]
enum Step {
    Put,
    Get,
    Exists,
}

impl Step {
    const ALL: [Self; 3] = [Self::Put, Self::Get, Self::Exists];
}

/// Runs the plan on stores in turn, one step of one store after the other. Who goes first alternates: a disk or a cache
/// that the one leaves behind in some state is the other's in the next round. Ends early if it is interrupted.
pub(super) async fn measure(stores: &mut [Bench<'_>], plan: &Plan) -> Result<()> {
    // Warms up connections and files, and the pool's memory; only the first window, so it stays short.
    round(stores, 0, plan.window).await?;
    for store in stores.iter_mut() {
        store.measured = Measured::new()?;
        store.bar.set_position(0);
    }
    for n in 1..=plan.rounds {
        if stores.iter().any(|store| store.interrupt.is_set()) {
            break;
        }
        if let Some(store) = stores.first() {
            store.bar.set_message(format!("round {n}"));
        }
        round(stores, n, plan.keys).await?;
    }
    Ok(())
}

async fn round(stores: &mut [Bench<'_>], round: usize, keys: usize) -> Result<()> {
    for step in Step::ALL {
        for turn in 0..stores.len() {
            let store = (turn + round) % stores.len();
            stores[store].step(step, round, keys).await?;
        }
    }
    Ok(())
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        store: &'a Connector,
        plan: &'a Plan,
        (run, keys): (u64, Vec<CacheKey>),
        interrupt: &'a Interrupt,
        bar: &'a ProgressBar,
    ) -> Result<Self> {
        Ok(Self { store, plan, keys: keys.into(), measured: Measured::new()?, interrupt, bar, run })
    }

    /// One step of the first `n` keys. Ends early if it is interrupted.
    async fn step(&mut self, step: Step, round: usize, n: usize) -> Result<()> {
        let window = self.plan.window;
        let windows = (0..n).step_by(window).map(|from| (from, window.min(n - from)));
        match step {
            Step::Put => {
                self.measured.put.begin_round();
                for (from, len) in windows {
                    self.put(round, from, len).await?;
                }
            }
            Step::Get => {
                self.measured.get.begin_round();
                for (from, len) in windows {
                    self.get(round, from, len).await?;
                }
            }
            Step::Exists => {
                self.measured.exists.begin_round();
                self.exists(n).await?;
            }
        }
        Ok(())
    }

    async fn put(&mut self, round: usize, from: usize, len: usize) -> Result<()> {
        let size = self.plan.chunk_bytes;
        let made = (from..from + len).map(|i| MemoryObj::from(Content::new(self.run, i, round).bytes(size)));
        let items: Arc<[_]> = self.keys[from..].iter().cloned().zip(made).collect();
        let (store, batch) = (self.store.clone(), self.plan.batch);
        let timed = if batch == 1 {
            let put = move |i: usize| {
                let (store, items) = (store.clone(), items.clone());
                async move { store.put(&items[i].0, items[i].1.clone()).await.map(|()| [()]) }
            };
            self.timed(len, true, put).await?.without_answers()
        } else {
            let put = move |i: usize| {
                let (store, items) = (store.clone(), items.clone());
                async move { store.batched_put(part(&items, i, batch)).await.into_iter().collect::<Result<Vec<()>>>() }
            };
            self.timed(len.div_ceil(batch), true, put).await?.without_answers()
        };
        timed.count(&mut self.measured.put, size);
        Ok(())
    }

    async fn get(&mut self, round: usize, from: usize, len: usize) -> Result<()> {
        let keys: Arc<[CacheKey]> = self.keys[from..from + len].into();
        let (store, batch) = (self.store.clone(), self.plan.batch);
        let mut timed = if batch == 1 {
            let get = move |i: usize| {
                let (store, keys) = (store.clone(), keys.clone());
                async move { store.get(&keys[i]).await.map(|chunk| [chunk]) }
            };
            self.timed(len, true, get).await?.flat()
        } else {
            let get = move |i: usize| {
                let (store, keys) = (store.clone(), keys.clone());
                async move { store.batched_get(part(&keys, i, batch)).await.into_iter().collect::<Result<Vec<_>>>() }
            };
            self.timed(len.div_ceil(batch), true, get).await?.flat()
        };
        timed.count(&mut self.measured.get, self.plan.chunk_bytes);
        for (call, nth, chunk) in timed.answers.drain(..) {
            self.verify(round, from + call * batch + nth, chunk)?;
        }
        Ok(())
    }

    fn verify(&mut self, round: usize, i: usize, chunk: Option<MemoryObj>) -> Result<()> {
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

    async fn exists(&mut self, n: usize) -> Result<()> {
        let keys: Arc<[CacheKey]> = self.keys[..n].into();
        let (store, batch) = (self.store.clone(), self.plan.batch);
        let calls = n.div_ceil(batch);
        let timed = if batch == 1 {
            let exists = move |i: usize| {
                let (store, keys) = (store.clone(), keys.clone());
                async move { store.exists(&keys[i % n]).await.map(|there| [there]) }
            };
            self.timed(n.max(EXISTS_AT_LEAST), false, exists).await?.flat()
        } else {
            let exists = move |i: usize| {
                let (store, keys) = (store.clone(), keys.clone());
                async move {
                    let answers = store.batched_exists(part(&keys, i % calls, batch)).await;
                    answers.into_iter().collect::<Result<Vec<_>>>()
                }
            };
            self.timed(calls.max(BATCHED_EXISTS_AT_LEAST), false, exists).await?.flat()
        };
        timed.count(&mut self.measured.exists, 0);
        match timed.answers.iter().find(|(.., there)| !there) {
            Some((call, nth, _)) => {
                let key = &self.keys[(call % calls) * batch + nth];
                Err(Error::new(ErrorKind::Corrupt, format!("`{key}` was put, but the store says it is not there")))
            }
            None => Ok(()),
        }
    }

    async fn timed<A, F, R>(&self, calls: usize, shown: bool, call: F) -> Result<Timed<(usize, A)>>
    where
        A: Send + 'static,
        F: Fn(usize) -> R + Clone + Send + 'static,
        R: Future<Output = Result<A>> + Send,
    {
        let bar = shown.then_some((self.bar, self.plan.batch as u64));
        timed(calls, self.plan.concurrency, self.interrupt, bar, call).await
    }
}

/// The batch of this number.
fn part<T>(all: &[T], n: usize, batch: usize) -> &[T] {
    &all[n * batch..all.len().min((n + 1) * batch)]
}

/// What calls answered, and what they took.
struct Timed<T> {
    answers: Vec<T>,
    /// Chunks that were put, got or asked for.
    operations: usize,
    laps: Vec<Duration>,
    time: Duration,
    cpu: Option<Duration>,
}

impl<A: IntoIterator> Timed<(usize, A)> {
    /// Each answer with the number of its call, and its own number within that.
    fn flat(self) -> Timed<(usize, usize, A::Item)> {
        let Self { answers, laps, time, cpu, .. } = self;
        let each = |(call, all): (usize, A)| all.into_iter().enumerate().map(move |(nth, answer)| (call, nth, answer));
        let answers: Vec<_> = answers.into_iter().flat_map(each).collect();
        Timed { operations: answers.len(), answers, laps, time, cpu }
    }

    /// Only how many there were.
    fn without_answers(self) -> Timed<(usize, usize, A::Item)> {
        let mut timed = self.flat();
        timed.answers.clear();
        timed
    }
}

impl<T> Timed<T> {
    fn count(&self, figures: &mut Figures, bytes_each: usize) {
        let Self { operations, time, cpu, .. } = *self;
        figures.count(Clocked { operations, bytes: operations * bytes_each, time, cpu }, &self.laps);
    }
}

/// Runs `call` for 0 to `n`, by as many tasks as are to be in flight: a server's requests come on all threads, too.
async fn timed<A, F, R>(
    n: usize,
    concurrency: usize,
    interrupt: &Interrupt,
    bar: Option<(&ProgressBar, u64)>,
    call: F,
) -> Result<Timed<(usize, A)>>
where
    A: Send + 'static,
    F: Fn(usize) -> R + Clone + Send + 'static,
    R: Future<Output = Result<A>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    let cpu_before = cpu_time();
    let start = Instant::now();
    for _ in 0..concurrency.min(n) {
        let (next, interrupt, call) = (next.clone(), interrupt.clone(), call.clone());
        let bar = bar.map(|(bar, by)| (bar.clone(), by));
        workers.spawn(async move {
            let mut done = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= n || interrupt.is_set() {
                    return Ok(done);
                }
                let start = Instant::now();
                let answer = call(i).await.inspect_err(|_| next.store(n, Ordering::Relaxed))?;
                done.push((i, start.elapsed(), answer));
                if let Some((bar, by)) = &bar {
                    bar.inc(*by);
                }
            }
        });
    }
    let mut done = Vec::with_capacity(concurrency);
    let mut failed: Option<Error> = None;
    while let Some(worker) = workers.join_next().await {
        match worker {
            Ok(Ok(calls)) => done.push(calls),
            Ok(Err(e)) => {
                failed.get_or_insert(e);
            }
            Err(e) => {
                failed.get_or_insert(Error::new(ErrorKind::Other, format!("an operation ended unexpectedly: {e}")));
            }
        }
    }
    let time = start.elapsed();
    let cpu = cpu_time().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    if let Some(e) = failed {
        return Err(e);
    }
    let mut all = Timed { answers: Vec::with_capacity(n), operations: 0, laps: Vec::with_capacity(n), time, cpu };
    for (i, lap, answer) in done.into_iter().flatten() {
        all.laps.push(lap);
        all.answers.push((i, answer));
    }
    Ok(all)
}

/// Of this process so far, user and system together.
#[cfg(unix)]
fn cpu_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).ok()
}

#[cfg(not(unix))]
fn cpu_time() -> Option<Duration> {
    None
}
