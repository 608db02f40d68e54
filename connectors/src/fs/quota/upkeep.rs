//! The work of a quota in the background: the rest of a scan, and of a large eviction.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use connector_core::Result;
use connector_core::connector::Gate;

use super::super::cancel::{Work, cancellable};
use super::super::dirs::Dirs;
use super::super::files::Files;
use super::super::threads::Threads;
use super::evict::{Need, Search};
use super::ledger::{Locked, Record};
use super::oldest::{Candidate, Oldest};
use super::{LOW_WATER, Quota, Scan, Turn, part};

/// The names that a step visits. Puts of a store whose sum is not known wait for a step.
const STEP: usize = 128;

/// The files that a store's handle knows, and the work on them.
#[derive(Default)]
pub(super) struct Upkeep {
    /// The files used longest ago, by the last scan.
    pub(super) oldest: Oldest,
    /// The bytes of each base path, by the last scan.
    bytes: Vec<u64>,
    pub(super) scan: Option<Scan>,
    /// Whether an eviction has more files to remove.
    pub(super) is_evicting: bool,
}

/// The next piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Visit files, without the ledger's lock.
    Scan,
    /// End a scan, or evict, under the ledger's lock.
    Settle,
}

impl Upkeep {
    /// Takes out the oldest file that the last scan found. If `is_urgent` and none is left, takes the oldest that the
    /// current scan has found so far.
    pub(super) fn pop(&mut self, base: Option<usize>, is_urgent: bool) -> Option<Candidate> {
        let scan = self.scan.as_mut().filter(|_| is_urgent);
        self.oldest.pop(base).or_else(|| scan?.oldest.pop(base))
    }

    /// Whether puts without a sum continue the scan: they have scanned for less than `at_most`, and what they found `fits`.
    pub(super) fn may_scan_on(&self, at_most: Duration, record: &Record, fits: impl Fn(u64) -> bool) -> bool {
        self.scan.as_ref().is_some_and(|scan| scan.took < at_most && fits(scan.least(record)))
    }

    /// The bytes of a base path, as far as they are known.
    pub(super) fn bytes(&self, base: usize) -> u64 {
        let now = self.scan.as_ref().map_or(0, |scan| scan.bytes[base]);
        self.bytes.get(base).map_or(now, |last| now.max(*last))
    }

    /// Takes over the result of a scan that has visited all files.
    pub(super) fn settle(&mut self, scan: Scan, ledger: &mut Locked, record: &mut Record) {
        ledger.note_scan(scan.took);
        // A scan that began before a writer was killed may have missed its files, so the next put scans.
        let is_early = record.is_due && !scan.is_due_by(record);
        record.sum = scan.sum(record);
        record.scanned = scan.began;
        record.is_due = record.sum.is_none() || is_early;
        self.bytes = scan.bytes;
        self.oldest = scan.oldest.complete();
    }
}

impl Quota {
    pub(super) fn upkeep(&self) -> MutexGuard<'_, Upkeep> {
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a put start the task, if there is work.
    pub(super) fn want_upkeep(&self, upkeep: &Upkeep) {
        let has_work = upkeep.scan.is_some() || upkeep.is_evicting;
        if has_work && !self.is_running.swap(true, Ordering::AcqRel) {
            self.is_wanted.store(true, Ordering::Release);
        }
    }

    /// Whether the caller has to start [`run`].
    pub(in super::super) fn is_upkeep_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Acquire) && self.is_wanted.swap(false, Ordering::AcqRel)
    }

    /// Does a step, with a `turn` one under the ledger's lock, and finds the next. Puts hold the upkeep's lock while they
    /// wait for a disk, so only blocking threads may.
    fn step(&self, turn: Option<Result<Turn>>, dirs: &Dirs, work: &Work) -> Result<Option<Step>> {
        match turn {
            Some(turn) => self.settle_step(turn?, dirs, work),
            None => self.scan_step(dirs),
        }?;
        Ok(self.next_step())
    }

    /// The next step, or `None` when the work is done.
    pub(super) fn next_step(&self) -> Option<Step> {
        let upkeep = self.upkeep();
        let step = match &upkeep.scan {
            Some(scan) if !scan.is_done() => Some(Step::Scan),
            None if !upkeep.is_evicting => None,
            _ => Some(Step::Settle),
        };
        self.is_running.store(step.is_some(), Ordering::Release);
        step
    }

    /// Visits the next files of a scan.
    pub(super) fn scan_step(&self, dirs: &Dirs) -> Result<()> {
        let mut upkeep = self.upkeep();
        let Some(scan) = &mut upkeep.scan else { return Ok(()) };
        let done = scan.step(dirs, self.layout, STEP, self.now());
        if done.is_err() {
            upkeep.scan = None;
        }
        done
    }

    /// Ends a scan that has visited all files, and evicts some files of a store that is too large.
    pub(super) fn settle_step(&self, turn: Turn, dirs: &Dirs, work: &Work) -> Result<()> {
        let settled = turn.with_ledger(dirs, work, |ledger| {
            let now = self.now();
            let mut record = ledger.read(now)?;
            let mut upkeep = self.upkeep();
            if let Some(scan) = upkeep.scan.take_if(|scan| scan.is_done()) {
                upkeep.settle(scan, ledger, &mut record);
                upkeep.is_evicting |= record.sum.is_some_and(|sum| sum > self.capacity);
            }
            if upkeep.is_evicting {
                let low = part(self.capacity, LOW_WATER);
                let need = |record: &Record, _| match record.sum {
                    Some(sum) if sum > low => Need::Soon,
                    _ => Need::Nothing,
                };
                self.eviction(dirs, &mut Search::default(), now).run(&mut upkeep, ledger, &mut record, need)?;
            }
            ledger.write(&record, record.mark())
        });
        if settled.is_err() {
            // The next put begins again.
            self.upkeep().is_evicting = false;
        }
        settled.map(drop)
    }
}

/// Does a store's work in the background until there is none, or the store is closed or dropped.
pub(in super::super) async fn run(files: Weak<Files>, threads: Threads, gate: Gate) {
    // Without a scan, this step only finds the next one.
    let mut next = Some(Step::Scan);
    while let Some(step) = next {
        let (Some(files), Ok(pass)) = (files.upgrade(), gate.enter()) else { return };
        let Some(quota) = &files.quota else { return };
        let turn = match step {
            Step::Scan => None,
            Step::Settle => Some(quota.turn(&files.dirs).await),
        };
        let begin = Instant::now();
        let (_cancel, work) = cancellable();
        let of = files.clone();
        let done = threads.run(move || {
            let next = of.quota.as_ref().map_or(Ok(None), |quota| quota.step(turn, &of.dirs, &work));
            drop(pass);
            next
        });
        next = match done.await {
            Ok(next) => next,
            Err(e) => {
                // A put that needs the result does the work itself, and fails if it must.
                tracing::debug!(error = %e, "the quota's work in the background ended early");
                quota.is_running.store(false, Ordering::Release);
                return;
            }
        };
        drop(files);
        if step == Step::Settle {
            // Other processes poll for the ledger's lock.
            tokio::time::sleep(begin.elapsed().max(Duration::from_millis(1))).await;
        }
    }
}

#[cfg(test)]
mod tests;
