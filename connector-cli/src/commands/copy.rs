//! `kvconn cp`: copies the chunks of a store or an archive into another store or archive. You can interrupt and resume it.

mod archive;
mod batches;
mod progress;
mod route;
mod totals;

use std::io::Write;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, ConnectorContext, Error, ErrorKind, RemoteUrl};
use futures::{Stream, StreamExt};
use tokio::sync::Notify;

use crate::args::CpArgs;
use crate::exit::{Answer, Failure};
use crate::output::{Out, count, print_note, users};
use crate::setup::Setup;
use archive::{Archive, Writer};
use batches::{Batch, BatchSize};
use progress::CopyProgress;
use route::{Existing, Route, Target};
use totals::{Copied, Totals};

/// Chunks of a batch, unless set. A store with long calls sets a number of calls at once, and gets at least as many.
const CHUNKS: usize = 16;
/// The most chunks of a batch, unless set.
const MOST_CHUNKS: usize = 64;
/// Bytes of a batch, unless the pool is small.
const BATCH_BYTES: usize = 128 << 20;
/// The parts of the pool for each batch in flight. A batch that compares or verifies holds two chunks for each key.
const POOL_SHARES: usize = 3;

/// One side of a copy.
enum Place<'a> {
    Store(&'a str),
    Archive(Archive),
}

impl<'a> Place<'a> {
    fn of(text: &'a str) -> Result<Self, Error> {
        if text.contains("://") {
            return Ok(Self::Store(text));
        }
        match Archive::named(text)? {
            Some(archive) => Ok(Self::Archive(archive)),
            None => Ok(Self::Store(text)),
        }
    }
}

pub(crate) async fn run(setup: &Setup, args: &CpArgs, out: &mut Out) -> Result<Answer, Failure> {
    let refused = |why: &'static str| Error::new(ErrorKind::InvalidInput, why);
    let copy = Copy { setup, args };
    match (Place::of(&args.source)?, Place::of(&args.target)?) {
        (Place::Store(a), Place::Store(b)) if a == b => {
            Err(refused("source and destination are the same store").into())
        }
        (Place::Archive(_), Place::Archive(_)) => Err(refused("source and destination are archives")
            .with_hint("write the URL of a store for one of them")
            .into()),
        (_, Place::Archive(_)) if args.verify => {
            let hint = "copy first, and then compare with `kvconn cp FILE.tar STORE`";
            Err(refused("--verify reads back from a store, and the destination is an archive").with_hint(hint).into())
        }
        (Place::Store(source), Place::Store(target)) => {
            let (source, target) = (setup.builder(source).existing(true), setup.builder(target));
            if args.prefix.is_empty() && lists_copies(&source.clone().build()?, &target.clone().build()?) {
                return Err(refused("the source would list the copies, and kvconn would copy them again")
                    .with_hint("copy to another bucket or database, or copy some keys with `--prefix MODEL@`")
                    .into());
            }
            setup
                .with_opened(source, async |source| {
                    setup.with_opened(target, async |target| copy.stores(source, target, out).await).await
                })
                .await
        }
        (Place::Store(source), Place::Archive(archive)) => {
            let source = setup.builder(source).existing(true);
            setup.with_opened(source, async |source| copy.save(source, archive, out).await).await
        }
        (Place::Archive(archive), Place::Store(target)) => {
            setup.with_opened(setup.builder(target), async |target| copy.load(archive, target, out).await).await
        }
    }
}

/// Whether a listing of the source has the destination's keys, under longer names: an object store's prefix within the
/// source's, or a namespace of a redis server whose source has none.
fn lists_copies(source: &ConnectorContext, target: &ConnectorContext) -> bool {
    let (from, to) = (source.url(), target.url());
    let is_same = |name| from.query(name) == to.query(name);
    if from.scheme() != to.scheme() || source.location().hosts() != target.location().hosts() {
        return false;
    }
    match from.scheme() {
        "s3" | "gs" | "azure" => {
            let prefix = |url: &RemoteUrl| {
                let prefix = url.query("prefix").unwrap_or(url.path()).trim_matches('/').to_owned();
                if prefix.is_empty() { prefix } else { prefix + "/" }
            };
            let (outer, inner) = (prefix(from), prefix(to));
            let place = ["endpoint", "bucket", "container", "account_name", "account_url"];
            place.into_iter().all(is_same) && outer != inner && inner.starts_with(&outer)
        }
        scheme if ["redis", "resp", "valkey"].iter().any(|of| scheme.starts_with(of)) => {
            let is_named = |url: &RemoteUrl| url.query("namespace").is_some();
            from.path() == to.path() && is_same("database") && !is_named(from) && is_named(to)
        }
        // A namespace is a directory, which a listing does not enter.
        _ => false,
    }
}

/// Refuses `--verify` for a store whose reads come from another place than its copies.
fn check_verify(args: &CpArgs, target: &Connector) -> Result<(), Error> {
    if args.verify && target.name().starts_with("kvconn.tiered/") {
        let why = "--verify reads back, and a tiered store reads from its front first";
        return Err(Error::new(ErrorKind::InvalidInput, why).with_hint("copy to the URL of its back"));
    }
    Ok(())
}

/// The command's arguments and settings.
struct Copy<'a> {
    setup: &'a Setup,
    args: &'a CpArgs,
}

/// A copy that has ended.
struct Ended {
    totals: Totals,
    time: Duration,
    /// Why the source gave no more chunks.
    source_failed: Option<Error>,
    /// Whether the destination, an archive, could not be written.
    target_lost: bool,
}

impl Copy<'_> {
    async fn stores(&self, source: &Connector, target: &Connector, out: &mut Out) -> Result<Answer, Failure> {
        check_verify(self.args, target)?;
        if !source.capabilities().keeps_layout && target.capabilities().keeps_layout {
            note_plain(source);
        }
        let size = self.size(&[source, target]);
        let route = self.route(Some(source), Target::Store(target.clone()), &size);
        let progress = CopyProgress::of_chunks(self.setup, source, &self.args.prefix);
        let keys = self.setup.list(source, &self.args.prefix);
        let ended = self.drive(route, batches::of_keys(keys, size), progress).await;
        self.report(ended, out)
    }

    async fn save(&self, source: &Connector, archive: Archive, out: &mut Out) -> Result<Answer, Failure> {
        if !source.capabilities().keeps_layout {
            note_plain(source);
        }
        let is_stdout = archive.is_stdio();
        let size = self.size(&[source]);
        let (writer, chunks) = if self.args.dry_run { (None, None) } else { Writer::start(archive)?.split() };
        let route = self.route(Some(source), Target::Archive(chunks), &size);
        let progress = CopyProgress::of_chunks(self.setup, source, &self.args.prefix);
        let keys = self.setup.list(source, &self.args.prefix);
        let ended = self.drive(route, batches::of_keys(keys, size), progress).await;
        let failed = ended.totals.failed();
        let is_stopped = self.setup.interrupt.is_set() || failed >= self.args.max_errors.get();
        let is_whole = !is_stopped && ended.source_failed.is_none();
        if let Some(writer) = writer {
            writer.end(is_whole.then_some(failed as u64)).await?;
        }
        if !is_whole {
            print_note("the archive is not complete, so kvconn did not keep it");
        }
        if is_stdout {
            // Stdout has the archive.
            print_note(ended.totals.summary(ended.time, self.args));
            return self.answer(ended);
        }
        self.report(ended, out)
    }

    async fn load(&self, archive: Archive, target: &Connector, out: &mut Out) -> Result<Answer, Failure> {
        check_verify(self.args, target)?;
        let size = self.size(&[target]);
        let route = self.route(None, Target::Store(target.clone()), &size);
        let progress = CopyProgress::of_bytes(archive.len());
        let most = self.setup.pool_bytes();
        let (prefix, wants) = (self.args.prefix.clone(), self.setup.wants());
        let wanted = move |key: &CacheKey| key.as_str().starts_with(&prefix) && wants(key);
        let batches = archive.batches(wanted, size, most, progress.steps())?;
        let ended = self.drive(route, batches, progress).await;
        self.report(ended, out)
    }

    fn size(&self, stores: &[&Connector]) -> Arc<BatchSize> {
        let suits = stores.iter().map(|store| store.capabilities().batch_concurrency).max().unwrap_or_default();
        let most = self.args.batch.map_or(suits.clamp(CHUNKS, MOST_CHUNKS), std::num::NonZero::get);
        let shares = self.args.concurrency.get().saturating_mul(POOL_SHARES);
        let bytes = BATCH_BYTES.min(self.setup.pool_bytes() / shares);
        Arc::new(BatchSize::new(most, bytes))
    }

    fn route(&self, source: Option<&Connector>, target: Target, size: &Arc<BatchSize>) -> Route {
        let existing = match self.args {
            CpArgs { overwrite: true, .. } => Existing::Replace,
            CpArgs { skip_existing: true, .. } => Existing::Skip,
            _ => Existing::Compare,
        };
        Route::new(source.cloned(), target, existing, (self.args.verify, self.args.dry_run), size.clone())
    }

    /// Copies the batches. An interrupt or too many errors end the source; batches in flight still finish.
    async fn drive(
        &self,
        route: Route,
        batches: impl Stream<Item = Result<Batch, Error>>,
        mut progress: CopyProgress,
    ) -> Ended {
        let start = Instant::now();
        let mut ended =
            Ended { totals: Totals::default(), time: Duration::ZERO, source_failed: None, target_lost: false };
        let stop = Notify::new();
        let stopped = async {
            tokio::select! {
                () = self.setup.interrupt.clone().wait() => {}
                () = stop.notified() => {}
            }
        };
        let copies = batches.take_until(Box::pin(stopped)).map(|batch| {
            let route = route.clone();
            async move { batch.map(|batch| tokio::spawn(route.copy(batch))) }
        });
        let finished = copies.map(|copy| async {
            match copy.await {
                Ok(copy) => Ok(copy.await),
                Err(e) => Err(e),
            }
        });
        let mut finished = pin!(finished.buffer_unordered(self.args.concurrency.get()));
        while let Some(done) = finished.next().await {
            match done {
                Err(e) => ended.source_failed = ended.source_failed.or(Some(e)),
                Ok(Ok(copied)) => copied.into_iter().for_each(|copied| ended.add(copied)),
                Ok(Err(e)) => {
                    let e = Error::new(ErrorKind::Other, format!("the copy of a batch ended unexpectedly: {e}"));
                    ended.totals.fail(e);
                }
            }
            if ended.target_lost || ended.totals.failed() >= self.args.max_errors.get() {
                stop.notify_one();
            }
            progress.show(&ended.totals, start.elapsed());
        }
        progress.end().await;
        ended.time = start.elapsed();
        ended
    }

    fn report(&self, ended: Ended, out: &mut Out) -> Result<Answer, Failure> {
        if self.args.json {
            out.json(&ended.totals.as_json(ended.time, self.args.dry_run))?;
        } else {
            writeln!(out, "{}", ended.totals.summary(ended.time, self.args))?;
        }
        // Before the stores are closed, which may take long.
        out.flush()?;
        self.answer(ended)
    }

    fn answer(&self, ended: Ended) -> Result<Answer, Failure> {
        let failed = ended.totals.failed();
        let found_none = ended.totals.keys() == 0;
        ended.totals.end_errors();
        if let Some(e) = ended.source_failed {
            return Err(e.into());
        }
        if self.setup.interrupt.is_set() {
            let present = totals::present(self.args);
            print_note(format_args!("interrupted; run the same command again to continue: it skips {present} chunks"));
            return Ok(Answer::Interrupted);
        }
        if found_none && !self.args.prefix.is_empty() {
            print_note(format_args!("no key starts with `{}`", users(&self.args.prefix)));
        }
        if failed >= self.args.max_errors.get() {
            print_note(format_args!("stopped after {}; --max-errors N allows more", count(failed, "error")));
        }
        Ok(Answer::yes_if(failed == 0))
    }
}

impl Ended {
    fn add(&mut self, copied: Copied) {
        match copied {
            Copied::TargetLost => self.target_lost = true,
            copied => self.totals.add(copied),
        }
    }
}

fn note_plain(source: &Connector) {
    print_note(format_args!("{} keeps no shapes and dtypes: the copies are plain bytes", source.name()));
}
