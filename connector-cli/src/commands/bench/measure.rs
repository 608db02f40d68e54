//! The measurement. The clock runs only during operations: kvconn makes content before and verifies it after them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, Error, ErrorKind, MemoryObj, Result};
use tokio::task::JoinSet;

use super::Plan;
use super::content::Content;
use super::figures::{Clocked, Figures, Measured};
use crate::interrupt::Interrupt;
use crate::output::Progress;

/// The fewest `exists` calls of a round. One call is too short for a few of them to give a stable rate.
const MIN_EXISTS_CALLS: usize = 1000;
/// The fewest `batched_exists` calls of a round.
const MIN_BATCHED_EXISTS_CALLS: usize = 100;

/// One store under measurement.
pub(super) struct Bench<'a> {
    pub(super) store: &'a Connector,
    pub(super) keys: Arc<[CacheKey]>,
    pub(super) measured: Measured,
    plan: &'a Plan,
    run: u64,
    interrupt: &'a Interrupt,
    progress: &'a Progress,
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Put,
    Get,
    Exists,
}

impl Operation {
    /// In the order of a round.
    const ALL: [Self; 3] = [Self::Put, Self::Get, Self::Exists];
}

/// Runs the plan on the stores in turn, one operation of one store after the other. The first store of a round alternates,
/// because a store may leave a disk or a cache in a state that favours the next one. Ends early on an interrupt.
pub(super) async fn measure(stores: &mut [Bench<'_>], plan: &Plan) -> Result<()> {
    // Warms up connections, files and the pool's memory. One window is enough.
    round(stores, 0, plan.window).await?;
    for store in stores.iter_mut() {
        store.measured = Measured::new()?;
        store.progress.restart();
    }
    for n in 1..=plan.rounds {
        if stores.iter().any(|store| store.interrupt.is_set()) {
            break;
        }
        if let Some(store) = stores.first() {
            store.progress.say(format!("round {n}"));
        }
        round(stores, n, plan.keys).await?;
    }
    Ok(())
}

async fn round(stores: &mut [Bench<'_>], round: usize, keys: usize) -> Result<()> {
    for operation in Operation::ALL {
        for n in 0..stores.len() {
            let store = (n + round) % stores.len();
            stores[store].run(operation, round, keys).await?;
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
        progress: &'a Progress,
    ) -> Result<Self> {
        Ok(Self { store, plan, keys: keys.into(), measured: Measured::new()?, interrupt, progress, run })
    }

    /// Runs one operation on the first `n` keys. Ends early on an interrupt.
    async fn run(&mut self, operation: Operation, round: usize, n: usize) -> Result<()> {
        let window = self.plan.window;
        let windows = (0..n).step_by(window).map(|from| (from, window.min(n - from)));
        match operation {
            Operation::Put => {
                self.measured.put.begin_round();
                for (from, len) in windows {
                    self.put(round, from, len).await?;
                }
            }
            Operation::Get => {
                self.measured.get.begin_round();
                for (from, len) in windows {
                    self.get(round, from, len).await?;
                }
            }
            Operation::Exists => {
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
        let put = move |i: usize| {
            let (store, items) = (store.clone(), items.clone());
            async move {
                match part(&items, i, batch) {
                    [(key, chunk)] if batch == 1 => Ok(vec![store.put(key, chunk.clone()).await?]),
                    items => store.batched_put(items).await.into_iter().collect(),
                }
            }
        };
        let timed = self.timed(len.div_ceil(batch), true, put).await?;
        timed.count(&mut self.measured.put, size);
        Ok(())
    }

    async fn get(&mut self, round: usize, from: usize, len: usize) -> Result<()> {
        let keys: Arc<[CacheKey]> = self.keys[from..from + len].into();
        let (store, batch) = (self.store.clone(), self.plan.batch);
        let get = move |i: usize| {
            let (store, keys) = (store.clone(), keys.clone());
            async move {
                match part(&keys, i, batch) {
                    [key] if batch == 1 => Ok(vec![store.get(key).await?]),
                    keys => store.batched_get(keys).await.into_iter().collect(),
                }
            }
        };
        let timed = self.timed(len.div_ceil(batch), true, get).await?;
        timed.count(&mut self.measured.get, self.plan.chunk_bytes);
        for (call, nth, chunk) in timed.answers {
            self.verify(round, from + call * batch + nth, chunk)?;
        }
        Ok(())
    }

    fn verify(&mut self, round: usize, i: usize, chunk: Option<MemoryObj>) -> Result<()> {
        let wrong =
            |text: String| Error::new(ErrorKind::Corrupt, text).with_operation("verify").with_key(&self.keys[i]);
        let len = self.plan.chunk_bytes;
        let Some(chunk) = chunk else {
            return Err(wrong("kvconn put this chunk, but it is gone".to_owned())
                .with_hint("the store may be smaller than --keys times --chunk-size"));
        };
        match Content::new(self.run, i, round).difference(&chunk, len) {
            None => {
                self.measured.verified_bytes += len;
                Ok(())
            }
            Some(at) => Err(wrong(format!(
                "kvconn put {len} bytes, but {} bytes came back and they differ from byte {at} on",
                chunk.len()
            ))),
        }
    }

    async fn exists(&mut self, n: usize) -> Result<()> {
        let keys: Arc<[CacheKey]> = self.keys[..n].into();
        let (store, batch) = (self.store.clone(), self.plan.batch);
        let calls = n.div_ceil(batch);
        let exists = move |i: usize| {
            let (store, keys) = (store.clone(), keys.clone());
            async move {
                match part(&keys, i % calls, batch) {
                    [key] if batch == 1 => Ok(vec![store.exists(key).await?]),
                    keys => store.batched_exists(keys).await.into_iter().collect(),
                }
            }
        };
        let min_calls = if batch == 1 { MIN_EXISTS_CALLS } else { MIN_BATCHED_EXISTS_CALLS };
        let timed = self.timed(calls.max(min_calls), false, exists).await?;
        timed.count(&mut self.measured.exists, 0);
        match timed.answers.iter().find(|(.., exists)| !exists) {
            Some((call, nth, _)) => {
                let key = &self.keys[(call % calls) * batch + nth];
                let text = format!("kvconn put `{key}`, but the store says that it does not exist");
                Err(Error::new(ErrorKind::Corrupt, text))
            }
            None => Ok(()),
        }
    }

    /// Runs `call` for 0 to `calls`, in as many tasks as the plan wants in flight. Tasks, because a server's requests come on
    /// several threads, too.
    async fn timed<A, F, R>(&self, calls: usize, advances: bool, call: F) -> Result<Timed<A>>
    where
        A: Send + 'static,
        F: Fn(usize) -> R + Clone + Send + 'static,
        R: Future<Output = Result<Vec<A>>> + Send,
    {
        let Plan { batch, concurrency, .. } = *self.plan;
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        let cpu_before = cpu_time();
        let start = Instant::now();
        for _ in 0..concurrency.min(calls) {
            let (next, interrupt, call) = (next.clone(), self.interrupt.clone(), call.clone());
            let steps = advances.then(|| self.progress.steps());
            workers.spawn(async move {
                let mut done = Vec::new();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= calls || interrupt.is_set() {
                        return Ok(done);
                    }
                    let start = Instant::now();
                    let answer = call(i).await.inspect_err(|_| next.store(calls, Ordering::Relaxed))?;
                    done.push((i, start.elapsed(), answer));
                    if let Some(steps) = &steps {
                        steps.advance(batch as u64);
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
                    let text = format!("an operation ended unexpectedly: {e}");
                    failed.get_or_insert(Error::new(ErrorKind::Other, text));
                }
            }
        }
        let time = start.elapsed();
        let cpu = cpu_time().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
        if let Some(e) = failed {
            return Err(e);
        }
        let mut timed = Timed { answers: Vec::with_capacity(calls), latencies: Vec::with_capacity(calls), time, cpu };
        for (i, latency, answer) in done.into_iter().flatten() {
            timed.latencies.push(latency);
            timed.answers.extend(answer.into_iter().enumerate().map(|(nth, item)| (i, nth, item)));
        }
        Ok(timed)
    }
}

/// The `n`th batch.
fn part<T>(all: &[T], n: usize, batch: usize) -> &[T] {
    &all[n * batch..all.len().min((n + 1) * batch)]
}

/// The answers of some calls, and their cost.
struct Timed<T> {
    /// For each chunk: the number of the call, the chunk's position in that call, and the answer.
    answers: Vec<(usize, usize, T)>,
    /// One for each call.
    latencies: Vec<Duration>,
    time: Duration,
    cpu: Option<Duration>,
}

impl<T> Timed<T> {
    fn count(&self, figures: &mut Figures, bytes_each: usize) {
        let (operations, time, cpu) = (self.answers.len(), self.time, self.cpu);
        figures.count(Clocked { operations, bytes: operations * bytes_each, time, cpu }, &self.latencies);
    }
}

/// User and system time that this process has used so far.
#[cfg(unix)]
fn cpu_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).ok()
}

#[cfg(not(unix))]
fn cpu_time() -> Option<Duration> {
    None
}
