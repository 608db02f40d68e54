//! `kvconn bench`: puts, gets and exists of a store, every byte verified.

mod content;
mod measure;

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use connectors::key::PrefixHash;
use connectors::{CacheEngineKey, CacheKey, Connector, Dtype, Error, ErrorKind, redact};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::args::BenchArgs;
use crate::interrupt::Interrupt;
use crate::output::{Answer, BOLD, Failure, Out, PLAIN, Time, complain, count, note, three_digits};
use crate::setup::Setup;
use crate::size::ByteSize;
use content::mix;
use measure::{Figures, Measured};

/// The model that the command's own keys name.
const MODEL: &str = "kvconn-bench";
/// Chunks that are held at once to be put or verified, if the configured pool has room for them.
const WINDOW_BYTES: usize = 512 << 20;
/// Blocks of the pool are multiples of this.
const POOL_PAGE: usize = 4096;
/// Removals of one batch.
const REMOVE_BATCH: usize = 256;

/// What is measured: the same for every store, so that reports can be compared.
#[derive(Debug, Clone, Serialize)]
struct Plan {
    chunk_bytes: usize,
    keys: usize,
    concurrency: usize,
    rounds: usize,
    /// Chunks between two stops of the clock, in which content is made and verified.
    #[serde(skip)]
    window: usize,
}

/// What one store did.
#[derive(Debug, Serialize)]
struct Report {
    connector: String,
    url: String,
    #[serde(flatten)]
    measured: Measured,
}

#[derive(Serialize)]
struct Reports<'a> {
    plan: &'a Plan,
    stores: &'a [Report],
}

pub(crate) async fn run(setup: &Setup, args: &BenchArgs, out: &mut Out) -> Result<Answer, Failure> {
    let plan = Plan::new(args, setup.pool_bytes())?;
    let interrupt = Interrupt::listen();
    let mut reports = Vec::new();
    for url in [&args.url] {
        match setup.with_store(url, async |store| bench(store, url, &plan, &interrupt).await).await? {
            Some(report) => reports.push(report),
            None => return Ok(Answer::Interrupted),
        }
    }
    if args.json {
        out.json(&Reports { plan: &plan, stores: &reports })?;
    } else {
        plan.print(out)?;
        reports.iter().try_for_each(|report| report.print(out))?;
    }
    Ok(Answer::Yes)
}

/// `None` if the user ended it. What was put is removed in every case.
async fn bench(store: &Connector, url: &str, plan: &Plan, interrupt: &Interrupt) -> Result<Option<Report>, Failure> {
    let run = run_id();
    let keys = keys(run, plan.keys)?;
    let bar = progress(plan);
    let measured = measure::measure(store, plan, &keys, run, interrupt, &bar).await;
    bar.finish_and_clear();
    remove(store, &keys).await;
    let measured = measured?;
    Ok(measured.map(|measured| Report { connector: store.name().to_owned(), url: redact(url).into_owned(), measured }))
}

/// Says so if something is left. The measurement's own error matters more than one of the cleaning.
async fn remove(store: &Connector, keys: &[CacheKey]) {
    if !store.capabilities().remove {
        note(format_args!("{} cannot remove: up to {} of {MODEL} are left", store.name(), count(keys.len(), "chunk")));
        return;
    }
    let mut failed = 0;
    let mut first = None;
    for batch in keys.chunks(REMOVE_BATCH) {
        for e in store.batched_remove(batch).await.into_iter().filter_map(Result::err) {
            failed += 1;
            first.get_or_insert(e);
        }
    }
    if let Some(e) = first {
        complain(format_args!("{} of {MODEL} may be left: {e}", count(failed, "chunk")));
    }
}

/// Two runs on one store at once must not read each other's chunks.
fn run_id() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    mix(now.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32))
}

fn keys(run: u64, n: usize) -> Result<Vec<CacheKey>, Error> {
    let key = |i: usize| CacheEngineKey::new(MODEL, 1, 0, PrefixHash(mix(run ^ i as u64)), Dtype::Uint8);
    (0..n).map(|i| key(i).map(CacheKey::from)).collect()
}

impl Plan {
    fn new(args: &BenchArgs, pool_bytes: usize) -> Result<Self, Error> {
        let (chunk_bytes, keys) = (args.chunk_size.0, args.keys.get());
        let concurrency = args.concurrency.get().min(keys);
        let block = chunk_bytes.checked_next_multiple_of(POOL_PAGE).unwrap_or(usize::MAX);
        let window = (WINDOW_BYTES / block).max(concurrency).min(pool_bytes / block).min(keys);
        if window < concurrency {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "{} of {} in flight do not fit the pool of {}",
                    count(concurrency, "chunk"),
                    args.chunk_size,
                    ByteSize(pool_bytes)
                ),
            )
            .with_hint("lower --concurrency or --chunk-size, or raise `max_local_cpu_size` in the configuration"));
        }
        Ok(Self { chunk_bytes, keys, concurrency, rounds: args.rounds.get(), window })
    }

    fn print(&self, out: &mut Out) -> Result<(), Failure> {
        let (chunks, rounds) = (count(self.keys, "chunk"), count(self.rounds, "round"));
        writeln!(
            out,
            "{chunks} of {}, {} in flight, {rounds} after one to warm up; every byte verified",
            ByteSize(self.chunk_bytes),
            self.concurrency
        )?;
        Ok(())
    }
}

impl Report {
    fn print(&self, out: &mut Out) -> Result<(), Failure> {
        writeln!(out, "\n{BOLD}{}{PLAIN}  {}\n", self.connector, self.url)?;
        writeln!(out, "{:10}{:>14}{:>12}{:>12}", "", "rate", "p50", "p99")?;
        let Measured { put, get, exists, .. } = &self.measured;
        for (name, figures) in [("put", put), ("get", get), ("exists", exists)] {
            let (rate, p50, p99) = (figures.rate(), figures.latency(0.5), figures.latency(0.99));
            writeln!(out, "{name:10}{rate:>14}{:>12}{:>12}", Time(p50), Time(p99))?;
        }
        Ok(())
    }
}

impl Figures {
    fn rate(&self) -> String {
        match self.gib_per_s() {
            Some(rate) => format!("{} GiB/s", three_digits(rate)),
            None => format!("{:.0} /s", self.per_s()),
        }
    }
}

/// On stderr, and only if that is a terminal. One step for each chunk put or got.
fn progress(plan: &Plan) -> ProgressBar {
    let bar = ProgressBar::new((2 * plan.keys * plan.rounds) as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg:8} [{bar:40}] {percent}%  {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message("warm-up");
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
