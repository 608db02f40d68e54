//! `kvconn bench`: measures puts, gets and exists of a store, and verifies every byte.

mod content;
mod figures;
mod measure;
mod page;

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use connectors::{CacheEngineKey, CacheKey, Connector, Dtype, Error, ErrorKind, redact};
use serde::Serialize;

use crate::args::BenchArgs;
use crate::exit::{Answer, Failure};
use crate::interrupt::Interrupt;
use crate::output::{Out, Progress, Style, Time, count, print_error, print_note, three_digits};
use crate::setup::Setup;
use crate::size::ByteSize;
use content::mix;
use figures::{Clocked, Measured, Ratio};
use measure::Bench;

/// The model name in the benchmark's keys.
const MODEL: &str = "kvconn-bench";
/// Bytes of chunks to hold in memory at once, if the configured pool has room for them.
const WINDOW_BYTES: usize = 512 << 20;
/// The pool's blocks are multiples of this many bytes.
const POOL_PAGE: usize = 4096;
/// Keys per batch of removals.
const REMOVE_BATCH: usize = 256;

/// The plan of a run. All stores of the run share it, so their reports are comparable.
#[derive(Debug, Clone, Serialize)]
struct Plan {
    chunk_bytes: usize,
    keys: usize,
    /// Chunks per call.
    batch: usize,
    /// Calls in flight.
    concurrency: usize,
    rounds: usize,
    /// Chunks that kvconn makes before it starts the clock, and verifies after it stops the clock.
    #[serde(skip)]
    window: usize,
}

/// The results of one store.
#[derive(Debug, Serialize)]
struct Report {
    connector: String,
    url: String,
    #[serde(flatten)]
    measured: Measured,
}

/// The first store's rates divided by the second's.
#[derive(Debug, Serialize)]
struct Ratios {
    put: Option<Ratio>,
    get: Option<Ratio>,
    exists: Option<Ratio>,
}

#[derive(Serialize)]
struct Reports<'a> {
    plan: &'a Plan,
    stores: &'a [Report],
    #[serde(skip_serializing_if = "Option::is_none")]
    ratios: Option<Ratios>,
}

pub(crate) async fn run(setup: &Setup, args: &BenchArgs, out: &mut Out) -> Result<Answer, Failure> {
    let plan = Plan::new(args, setup.pool_bytes())?;
    let interrupt = &setup.interrupt;
    if let Some(address) = args.metrics_listen {
        let address = page::serve(address).await?;
        print_note(format_args!("metrics at http://{address}/metrics while the benchmark runs"));
    }
    let (url, open) = (&args.url, |url: &str| setup.builder(url));
    let work = async |store: &Connector| match &args.vs {
        None => bench(&[(url, store)], &plan, interrupt).await,
        Some(vs) => {
            setup.with_opened(open(vs), async |other| bench(&[(url, store), (vs, other)], &plan, interrupt).await).await
        }
    };
    let Some(reports) = setup.with_opened(open(url), work).await? else {
        return Ok(Answer::Interrupted);
    };
    let ratios = match &reports[..] {
        [first, second] => Some(Ratios::of(&first.measured, &second.measured)),
        _ => None,
    };
    if args.json {
        out.json(&Reports { plan: &plan, stores: &reports, ratios })?;
    } else {
        plan.print(out)?;
        reports.iter().try_for_each(|report| report.print(out))?;
        ratios.map_or(Ok(()), |ratios| ratios.print(out))?;
    }
    Ok(Answer::Yes)
}

/// Gives `None` after an interrupt. Removes its chunks in every case.
async fn bench(
    stores: &[(&str, &Connector)],
    plan: &Plan,
    interrupt: &Interrupt,
) -> Result<Option<Vec<Report>>, Failure> {
    let run = run_id();
    // A step for each chunk put or got.
    let progress = Progress::of((2 * stores.len() * plan.keys * plan.rounds) as u64);
    progress.say("warm-up");
    let mut benches = Vec::new();
    for (n, (_, store)) in stores.iter().enumerate() {
        // Two URLs may name one store, so each one gets its own keys.
        let run = mix(run ^ n as u64);
        benches.push(Bench::new(store, plan, (run, keys(run, plan.keys)?), interrupt, &progress)?);
    }
    let measured = measure::measure(&mut benches, plan).await;
    progress.clear();
    for bench in &benches {
        remove(bench.store, &bench.keys).await;
    }
    measured?;
    if interrupt.is_set() {
        return Ok(None);
    }
    let report = |(bench, (url, store)): (Bench<'_>, &(&str, &Connector))| Report {
        connector: store.name().to_owned(),
        url: redact(url),
        measured: bench.measured,
    };
    Ok(Some(benches.into_iter().zip(stores).map(report).collect()))
}

/// Removes the chunks. Prints its errors instead of returning them, because an error of the measurement matters more.
async fn remove(store: &Connector, keys: &[CacheKey]) {
    if !store.capabilities().remove {
        let chunks = count(keys.len(), "chunk");
        print_note(format_args!("{} cannot remove chunks: up to {chunks} of {MODEL} remain", store.name()));
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
        print_error(format_args!("{} of {MODEL} may remain: {e}", count(failed, "chunk")));
    }
}

/// A number for this run's keys. Two runs on one store at the same time must not read each other's chunks.
fn run_id() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    mix(now.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32))
}

fn keys(run: u64, n: usize) -> Result<Vec<CacheKey>, Error> {
    let key = |i: usize| CacheEngineKey::new(MODEL, 1, 0, mix(run ^ i as u64), Dtype::Uint8);
    (0..n).map(|i| key(i).map(CacheKey::from)).collect()
}

impl Plan {
    fn new(args: &BenchArgs, pool_bytes: usize) -> Result<Self, Error> {
        let (chunk_bytes, keys) = (args.chunk_size.0, args.keys.get());
        let batch = args.batch.get().min(keys);
        let concurrency = args.concurrency.get().min(keys.div_ceil(batch));
        let at_once = concurrency.saturating_mul(batch);
        let block = chunk_bytes.checked_next_multiple_of(POOL_PAGE).unwrap_or(usize::MAX);
        let fits = pool_bytes / block;
        if fits < at_once.min(keys) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "{} of {} in flight do not fit the pool of {}",
                    count(at_once, "chunk"),
                    args.chunk_size,
                    ByteSize(pool_bytes)
                ),
            )
            .with_hint(
                "lower --concurrency, --batch or --chunk-size, or raise `max_local_cpu_size` in the configuration",
            ));
        }
        // A window has whole batches, so every call but the last has `batch` chunks.
        let window = (WINDOW_BYTES / block).max(at_once).min(fits);
        let window = (window - window % batch).min(keys);
        Ok(Self { chunk_bytes, keys, batch, concurrency, rounds: args.rounds.get(), window })
    }

    fn print(&self, out: &mut Out) -> Result<(), Failure> {
        let (chunks, rounds) = (count(self.keys, "chunk"), count(self.rounds, "round"));
        let calls = match self.batch {
            1 => String::new(),
            batch => format!(" batches of {batch}"),
        };
        writeln!(
            out,
            "{chunks} of {}, {}{calls} in flight, {rounds} after a warm-up; every byte verified",
            ByteSize(self.chunk_bytes),
            self.concurrency
        )?;
        Ok(())
    }
}

impl Report {
    fn print(&self, out: &mut Out) -> Result<(), Failure> {
        let Style { bold, plain, .. } = out.style();
        writeln!(out, "\n{bold}{}{plain}  {}\n", self.connector, out.shown(&self.url))?;
        writeln!(out, "{:10}{:>14}{:>12}{:>12}{:>12}{:>14}", "", "rate", "p50", "p99", "p99.9", "CPU")?;
        let Measured { put, get, exists, .. } = &self.measured;
        for (name, figures) in [("put", put), ("get", get), ("exists", exists)] {
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| Time(figures.latency(share)));
            let total = figures.total();
            writeln!(out, "{name:10}{:>14}{p50:>12}{p99:>12}{p999:>12}{:>14}", total.rate(), total.cpu())?;
        }
        Ok(())
    }
}

impl Ratios {
    fn of(a: &Measured, b: &Measured) -> Self {
        Self { put: Ratio::of(&a.put, &b.put), get: Ratio::of(&a.get, &b.get), exists: Ratio::of(&a.exists, &b.exists) }
    }

    fn print(&self, out: &mut Out) -> Result<(), Failure> {
        let Style { bold, plain, .. } = out.style();
        writeln!(
            out,
            "\n{bold}ratio{plain}  the first store's rate divided by the second's: median and range of the rounds\n"
        )?;
        for (name, ratio) in [("put", self.put), ("get", self.get), ("exists", self.exists)] {
            let Some(Ratio { median, min, max }) = ratio else { continue };
            let [median, min, max] = [median, min, max].map(three_digits);
            writeln!(out, "{name:10}{median:>14}{:>24}", format!("{min} to {max}"))?;
        }
        Ok(())
    }
}

impl Clocked {
    fn rate(self) -> String {
        match self.gib_per_s() {
            Some(rate) => format!("{} GiB/s", three_digits(rate)),
            None => format!("{:.0} /s", self.per_s()),
        }
    }

    /// CPU time per GiB, or per operation if operations move no bytes.
    fn cpu(self) -> String {
        match (self.cpu_s_per_gib(), self.cpu_each()) {
            (Some(cpu), _) => format!("{} s/GiB", three_digits(cpu)),
            (None, Some(cpu)) => Time(cpu).to_string(),
            (None, None) => "unknown".into(),
        }
    }
}
