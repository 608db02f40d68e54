//! `kvconn cp`: copies all chunks of one store into another and verifies them. You can interrupt and resume it.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, Error, ErrorKind, MemoryObj};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::Semaphore;

use crate::args::CpArgs;
use crate::exit::{Answer, Failure};
use crate::interrupt::Interrupt;
use crate::output::{Out, Time, count, gib_per_s, print_error, print_note, three_digits};
use crate::setup::Setup;
use crate::size::ByteSize;

/// The keys of one lookup in the destination, with `--skip-existing`.
const ASK: usize = 256;

/// The result for one key.
enum Copied {
    /// The chunk of this many bytes was written, read back and equal.
    Written(usize),
    /// The destination already has the chunk: an equal one, or with `--skip-existing` any one.
    Present,
    /// The source listed the key, but no longer has the chunk.
    Gone,
    Failed(CacheKey, Error),
    /// The source failed to list its keys.
    ListFailed(Error),
}

#[derive(Default)]
struct Totals {
    copied: usize,
    bytes: usize,
    present: usize,
    gone: usize,
    failed: usize,
}

/// The two stores of a copy. Cheap to clone.
#[derive(Clone)]
struct Route {
    source: Connector,
    target: Connector,
    /// Whether to read and compare the destination's chunk first.
    compare: bool,
    lanes: Arc<Lanes>,
}

/// The copies that run at once. The pool may have less memory than they need: then fewer run at once from then on.
struct Lanes {
    /// A permit for each copy that runs.
    free: Semaphore,
    all: AtomicUsize,
}

pub(crate) async fn run(setup: &Setup, args: &CpArgs, out: &mut Out) -> Result<Answer, Failure> {
    if args.source == args.target {
        return Err(Error::new(ErrorKind::InvalidInput, "source and destination are the same store").into());
    }
    let (source, target) = (setup.builder(&args.source).existing(true), setup.builder(&args.target));
    setup
        .with_opened(source, async |source| {
            setup.with_opened(target, async |target| copy(source, target, args, &setup.interrupt, out).await).await
        })
        .await
}

async fn copy(
    source: &Connector,
    target: &Connector,
    args: &CpArgs,
    interrupt: &Interrupt,
    out: &mut Out,
) -> Result<Answer, Failure> {
    let keeps = [source, target].map(|store| store.capabilities().keeps_layout);
    if let [false, true] = keeps {
        print_note(format_args!("{} keeps no shapes and dtypes: the copies are plain bytes", source.name()));
    }
    let compare = !args.overwrite && !args.skip_existing;
    let at_once = [source, target].map(|store| store.capabilities().batch_concurrency).into_iter().max();
    let at_once = args.concurrency.map_or(at_once.unwrap_or_default().max(1), NonZeroUsize::get);
    let lanes = Arc::new(Lanes { free: Semaphore::new(at_once), all: AtomicUsize::new(at_once) });
    let route = Route { source: source.clone(), target: target.clone(), compare, lanes };
    let bar = progress();
    let start = Instant::now();
    let mut totals = Totals::default();
    let mut list_failed = None;

    // An interrupt ends the list of keys. Copies in flight still finish.
    let keys = source.list(&args.prefix).map(|key| key.map_err(Copied::ListFailed));
    let keys = if args.skip_existing { missing(keys, target) } else { keys.boxed() };
    let keys = keys.take_until(Box::pin(interrupt.clone().wait()));
    let copies = keys.map(|key| {
        let route = route.clone();
        async move {
            match key {
                Ok(key) => route.copy(key).await,
                Err(done) => done,
            }
        }
    });
    let mut copies = copies.map(tokio::spawn).buffer_unordered(at_once);
    while let Some(done) = copies.next().await {
        match done {
            Ok(Copied::ListFailed(e)) => list_failed = Some(e),
            Ok(done) => totals.add(done, &bar),
            Err(e) => {
                totals.failed += 1;
                bar.suspend(|| print_error(format_args!("copying a chunk ended unexpectedly: {e}")));
            }
        }
        bar.set_message(totals.progress(start.elapsed()));
    }
    bar.finish_and_clear();

    let present = if args.skip_existing { "present" } else { "equal" };
    writeln!(out, "{}", totals.summary(start.elapsed(), present))?;
    // Before the stores are closed, which may take long.
    out.flush()?;
    if let Some(e) = list_failed {
        return Err(e.into());
    }
    if interrupt.is_set() {
        print_note(format_args!("interrupted; run the same command again to continue: it skips {present} chunks"));
        return Ok(Answer::Interrupted);
    }
    Ok(Answer::yes_if(totals.failed == 0))
}

/// Asks the destination for each key. A key that it has becomes its result, and the others stay.
fn missing<'a>(
    keys: impl Stream<Item = Result<CacheKey, Copied>> + Send + 'a,
    target: &'a Connector,
) -> BoxStream<'a, Result<CacheKey, Copied>> {
    let asked = keys.chunks(ASK).then(async |keys| {
        let (keys, failed): (Vec<_>, Vec<_>) = keys.into_iter().partition(Result::is_ok);
        let keys: Vec<CacheKey> = keys.into_iter().flatten().collect();
        let answers = target.batched_exists(&keys).await;
        let asked = keys.into_iter().zip(answers).map(|(key, answer)| match answer {
            Ok(false) => Ok(key),
            Ok(true) => Err(Copied::Present),
            Err(e) => Err(Copied::Failed(key, e)),
        });
        stream::iter(asked.chain(failed).collect::<Vec<_>>())
    });
    asked.flatten().boxed()
}

impl Lanes {
    /// Counts one lane less. `false` if only one is left.
    fn end_one(&self) -> bool {
        let less = |all: usize| (all > 1).then(|| all - 1);
        self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

impl Route {
    async fn copy(self, key: CacheKey) -> Copied {
        loop {
            // The semaphore is never closed.
            let lane = self.lanes.free.acquire().await;
            // With one lane left, no other copy runs now.
            let is_alone = self.lanes.all.load(Ordering::Relaxed) == 1;
            match self.try_copy(&key).await {
                Ok(done) => return done,
                Err(e) if e.kind() == ErrorKind::PoolFull && !is_alone => {
                    if self.lanes.end_one()
                        && let Ok(lane) = lane
                    {
                        lane.forget();
                    }
                }
                Err(e) => return Copied::Failed(key, e),
            }
        }
    }

    async fn try_copy(&self, key: &CacheKey) -> Result<Copied, Error> {
        let Some(chunk) = self.source.get(key).await? else { return Ok(Copied::Gone) };
        if self.compare && self.has_equal(key, &chunk).await? {
            return Ok(Copied::Present);
        }
        self.target.put(key, chunk.clone()).await?;
        let differs = |how: &str| {
            Error::new(ErrorKind::Corrupt, format!("the copy {how}"))
                .with_operation("verify")
                .with_connector(self.target.name())
                .with_key(key)
        };
        match self.target.get(key).await? {
            None => Err(differs("is gone right after it was written").with_hint("the store may be full")),
            Some(back) if *back != *chunk => Err(differs("has different bytes")),
            Some(back) if !self.is_same(key, &chunk, &back) => {
                Err(differs(&format!("has the layout `{}` instead of `{}`", back.layout(), chunk.layout())))
            }
            Some(_) => Ok(Copied::Written(chunk.len())),
        }
    }

    async fn has_equal(&self, key: &CacheKey, chunk: &MemoryObj) -> Result<bool, Error> {
        match self.target.get(key).await {
            Ok(stored) => Ok(stored.is_some_and(|stored| self.is_same(key, chunk, &stored))),
            // The copy replaces a corrupt chunk.
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn is_same(&self, key: &CacheKey, a: &MemoryObj, b: &MemoryObj) -> bool {
        let layout_counts =
            [&self.source, &self.target].into_iter().all(|store| store.capabilities().keeps_layout_of(key.kind()));
        **a == **b && (!layout_counts || a.layout() == b.layout())
    }
}

impl Totals {
    fn add(&mut self, done: Copied, bar: &ProgressBar) {
        match done {
            Copied::Written(bytes) => {
                self.copied += 1;
                self.bytes += bytes;
            }
            Copied::Present => self.present += 1,
            Copied::Gone => self.gone += 1,
            Copied::Failed(key, e) => {
                self.failed += 1;
                bar.suspend(|| print_error(e.with_key(key)));
            }
            Copied::ListFailed(_) => {}
        }
    }

    fn progress(&self, time: Duration) -> String {
        let rate = three_digits(gib_per_s(self.bytes, time));
        let (bytes, skipped) = (ByteSize(self.bytes), self.present + self.gone);
        format!("{} copied, {bytes}, {rate} GiB/s; {skipped} skipped, {} failed", self.copied, self.failed)
    }

    /// `present` describes the skipped chunks.
    fn summary(&self, time: Duration, present: &str) -> String {
        let mut text = format!("copied {}", count(self.copied, "chunk"));
        if self.copied > 0 {
            let rate = three_digits(gib_per_s(self.bytes, time));
            text.push_str(&format!(" ({} in {}, {rate} GiB/s), all verified", ByteSize(self.bytes), Time(time)));
        }
        text.push_str(&format!("; skipped {} {present}; failed {}", self.present, self.failed));
        if self.gone > 0 {
            text.push_str(&format!("; {} removed from the source during the copy", self.gone));
        }
        text
    }
}

/// A spinner on stderr if stderr is a terminal. A bar would need the number of keys, which only a full listing tells.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
