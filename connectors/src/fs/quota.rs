//! Keeps the sum of all chunk files within a number of bytes, also if others write into the same directories.
//!
//! All processes share a lock, `flock` on the [`Ledger`] in the first base path, which holds the sum. A put's rename,
//! a remove and an eviction happen under that lock, so the sum is exact if all writers have the option. Before a change
//! the ledger gets a sum that is right or too large, even if the process is then killed.
//!
//! A [`Scan`] finds the files of other writers (LMCache, a store without the option) and the files used longest ago. A
//! put begins one in each of these cases:
//!
//! - The sum is not known.
//! - The last scan is a minute old (more, if a scan takes seconds).
//! - A writer was killed.
//! - The store is nearly full, and few old files are known.
//!
//! The put visits the first files itself, which are all files of a small store. The [`upkeep`](Quota::next_step) in the
//! background visits the rest, a few at a time and without the ledger's lock, while puts go on. Until the scan ends, a put
//! counts against the last sum. Without a sum, puts scan for [`SCAN_AT_ONCE`] in all. After that, or once the files found
//! so far fill the store, each put removes at least as many bytes as it adds.
//!
//! The last use of a chunk is its file's access or modification time, whichever is later. A get sets the access time, at most
//! every ten seconds a file: most systems mount with `relatime`, which sets it once a day.

mod evict;
mod ledger;
mod oldest;
mod scan;
mod upkeep;

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use connector_core::{Error, ErrorKind, Result};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use tokio::sync::{OwnedMutexGuard, Semaphore};

use super::Layout;
use super::cancel::Work;
use super::dirs::Dirs;
use super::files::Place;
use super::folder::{Stat, Wait};
use evict::{Eviction, Need};
pub(super) use evict::{Made, Search};
pub(super) use ledger::NAME as LEDGER;
use ledger::{Ledger, Locked, Mark, Record};
use scan::Scan;
use upkeep::Upkeep;
pub(super) use upkeep::run as run_upkeep;

/// A get does not refresh the access time if the last use was within this time.
const FRESH: Duration = Duration::from_secs(10);

/// After this time a put scans the files again, to find the files of other writers.
const RESCAN: Duration = Duration::from_secs(60);

/// A process spends at most 1/20 of its time on scans. vLLM's layout has nearly a directory for each file, so a scan takes
/// long.
const SCAN_SHARE: u32 = 20;

/// An eviction frees a tenth of the capacity, so that most puts find room.
const LOW_WATER: (u64, u64) = (9, 10);

/// From this part of the capacity on, a scan prepares the next eviction.
const HIGH_WATER: (u64, u64) = (15, 16);

/// The files that a put visits, and the files that it removes unless its own room needs more. The background does the rest.
const AT_ONCE: usize = 512;

/// The time that puts of a store without a sum scan, all together. They hold the lock meanwhile.
const SCAN_AT_ONCE: Duration = Duration::from_millis(50);

/// The longest wait for the ledger's lock. Holders need microseconds to milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Temporary files of one store at a time. A cancelled put keeps its place until its file is removed.
const WRITERS: usize = 32;

/// Limits the bytes of a store's files.
pub(super) struct Quota {
    pub(super) capacity: u64,
    layout: Layout,
    /// A place for each file that is being written.
    pub(super) writers: Arc<Semaphore>,
    ledger: Arc<tokio::sync::Mutex<Option<Ledger>>>,
    /// Locked after the ledger. A call that has locked it never waits for the ledger.
    upkeep: Mutex<Upkeep>,
    /// Whether the upkeep has work and is not running.
    is_wanted: AtomicBool,
    /// Whether a task does the upkeep, or a put is to start it. It changes to `true` only under the upkeep's lock.
    is_running: AtomicBool,
    /// [`SCAN_AT_ONCE`]
    scan_at_once: Duration,
    /// The nanoseconds by which the file system's clock was ahead of this system's, at most. The clock of a network file
    /// system may be.
    clock_ahead: AtomicU64,
}

/// The right to wait for the ledger's lock. Calls wait for their turn without a thread, and one thread waits for other
/// processes.
pub(super) struct Turn {
    ledger: OwnedMutexGuard<Option<Ledger>>,
    /// The end of the wait for the lock. Counted from the call's begin, so that calls do not wait for each other's
    /// time.
    deadline: Instant,
}

impl Quota {
    pub(super) fn new(capacity: u64, layout: Layout) -> Self {
        Self {
            capacity,
            layout,
            writers: Arc::new(Semaphore::new(WRITERS)),
            ledger: Arc::default(),
            upkeep: Mutex::default(),
            is_wanted: AtomicBool::new(false),
            is_running: AtomicBool::new(false),
            scan_at_once: SCAN_AT_ONCE,
            clock_ahead: AtomicU64::new(0),
        }
    }

    /// The time by which files are old or young.
    fn now(&self) -> SystemTime {
        SystemTime::now() + Duration::from_nanos(self.clock_ahead.load(Ordering::Relaxed))
    }

    /// Notes the time that the file system gave a file just now.
    fn note_time(&self, at: SystemTime) {
        let ahead = at.duration_since(SystemTime::now()).unwrap_or_default();
        self.clock_ahead.fetch_max(u64::try_from(ahead.as_nanos()).unwrap_or(0), Ordering::Relaxed);
    }

    /// Lets go of the directories and the ledger of a store that is closed.
    pub(super) fn close(&self) {
        self.upkeep().scan = None;
        if let Ok(mut ledger) = self.ledger.try_lock() {
            *ledger = None;
        }
    }

    /// Waits for the caller's turn.
    pub(super) async fn turn(&self, dirs: &Dirs) -> Result<Turn> {
        let deadline = tokio::time::Instant::now() + LOCK_TIMEOUT;
        match tokio::time::timeout_at(deadline, self.ledger.clone().lock_owned()).await {
            Ok(ledger) => Ok(Turn { ledger, deadline: deadline.into_std() }),
            Err(_) => Err(ledger::is_held(&dirs.path(0).join(LEDGER))),
        }
    }

    /// Refuses a file that is larger than the whole store.
    pub(super) fn check(&self, bytes: u64) -> Result<()> {
        if bytes <= self.capacity {
            return Ok(());
        }
        let capacity = self.capacity;
        Err(Error::new(
            ErrorKind::TooLarge,
            format!("a file of {bytes} bytes is larger than the whole store of {capacity} bytes"),
        )
        .with_hint("raise the option `capacity`"))
    }

    /// Makes room for a new file, and renames it to `place` unless the work is cancelled before. `Part` if others must have
    /// the lock before the search goes on. Never `Nothing`.
    pub(super) fn replace(
        &self,
        turn: Turn,
        dirs: &Dirs,
        (place, new): (&Place, Stat),
        search: &mut Search,
        work: &Work,
        rename: impl FnOnce() -> Result<()>,
    ) -> Result<Made> {
        let bytes = new.bytes;
        let made = turn.with_ledger(dirs, work, |ledger| {
            if !work.commit() {
                return Ok(Made::Room);
            }
            self.note_time(new.modified);
            let now = self.now();
            let mut record = ledger.read(now)?;
            let replaced = file_size(dirs, place);
            let after = |record: &Record| record.sum.map(|sum| sum.saturating_sub(replaced).saturating_add(bytes));
            if record.is_due || after(&record).is_none_or(|after| after > part(self.capacity, HIGH_WATER)) {
                let eviction = Eviction { kept: Some(place), ..self.eviction(dirs, search, now) };
                if self.make_fit(eviction, ledger, &mut record, (replaced, bytes))? == Made::Part {
                    return Ok(Made::Part);
                }
            }
            let changes = &mut record.changes;
            changes.added = changes.added.wrapping_add(bytes);
            let sum = after(&record);
            ledger.write(&Record { sum: sum.max(record.sum), ..record }, Mark::Changing)?;
            rename()?;
            record.changes.removed = record.changes.removed.wrapping_add(replaced);
            // The chunk is stored. If the sum cannot be written, the mark stays, and the next put scans.
            let _ = ledger.write(&Record { sum, ..record }, Mark::Unchanged);
            Ok(Made::Room)
        })?;
        Ok(made.unwrap_or(Made::Room))
    }

    /// Makes room under the ledger's lock for `bytes` that replace `replaced` bytes. The sum then fits into the capacity. A sum
    /// that was too large, or is not known, does not grow. Never `Nothing`, which is an error.
    fn make_fit(
        &self,
        mut eviction: Eviction<'_>,
        ledger: &mut Locked,
        record: &mut Record,
        (replaced, bytes): (u64, u64),
    ) -> Result<Made> {
        let (dirs, now) = (eviction.dirs, eviction.now);
        let fits = |sum: u64| sum.saturating_sub(replaced).saturating_add(bytes) <= self.capacity;
        let mut upkeep = self.upkeep();
        if record.is_due {
            // A scan for another reason, or of an older ledger, may have missed the files that make this one due.
            upkeep.scan.take_if(|scan| !scan.is_due_by(record));
            let mut is_scanning = upkeep.scan.is_none();
            while is_scanning {
                let has_ended = self.scan(dirs, &mut upkeep, ledger, record, now)?;
                // A sum that is known is enough.
                is_scanning = !has_ended && record.sum.is_none() && upkeep.may_scan_on(self.scan_at_once, record, fits);
            }
            // The files found so far may be more than the last sum.
            let least = upkeep.scan.as_ref().map_or(0, |scan| scan.least(record));
            record.sum = record.sum.map(|sum| sum.max(least));
        }
        let others = part(self.capacity, LOW_WATER).max(bytes) - bytes;
        if record.sum.is_none_or(|sum| !fits(sum)) {
            let need = |record: &Record, freed: u64| match record.sum {
                Some(sum) if sum.saturating_sub(replaced) <= others => Need::Nothing,
                Some(sum) if fits(sum) || freed + replaced >= bytes => Need::Soon,
                None if freed + replaced >= bytes => Need::Nothing,
                _ => Need::Now,
            };
            if upkeep.is_evicting {
                // The background makes the room for later puts.
                eviction.at_once = 0;
            }
            let made = eviction.run(&mut upkeep, ledger, record, need);
            if eviction.files > 0 {
                // This fails on a full disk. Then the sum stays too large until the next scan.
                let mark = if matches!(made, Ok(Made::Room)) { Mark::Changing } else { record.mark() };
                let _ = ledger.write(record, mark);
            }
            match made? {
                Made::Room => {}
                Made::Part => {
                    self.want_upkeep(&upkeep);
                    return Ok(Made::Part);
                }
                Made::Nothing => {
                    let sum = record.sum.unwrap_or(0);
                    let why = format!("the store is full: {sum} bytes are in files that cannot be removed");
                    let e = Error::new(ErrorKind::StoreFull, why);
                    return Err(match eviction.refused {
                        Some(cause) => e.with_source(cause),
                        None => e,
                    });
                }
            }
        }
        if upkeep.scan.is_none() && upkeep.oldest.is_low() {
            upkeep.scan = Some(Scan::new(dirs, record, now));
        }
        self.want_upkeep(&upkeep);
        Ok(Made::Room)
    }

    fn eviction<'a>(&'a self, dirs: &'a Dirs, search: &'a mut Search, now: SystemTime) -> Eviction<'a> {
        Eviction {
            quota: self,
            dirs,
            kept: None,
            base: None,
            now,
            at_once: AT_ONCE,
            search,
            files: 0,
            gone: 0,
            refused: None,
        }
    }

    /// Visits the next files under the ledger's lock, in a new scan if there is none. `true` after the last one: then
    /// the record has the sum.
    fn scan(
        &self,
        dirs: &Dirs,
        upkeep: &mut Upkeep,
        ledger: &mut Locked,
        record: &mut Record,
        now: SystemTime,
    ) -> Result<bool> {
        let mut scan = upkeep.scan.take().unwrap_or_else(|| Scan::new(dirs, record, now));
        // If this scan looks for files of other writers, other processes need not begin one, too.
        record.scanned = scan.began;
        scan.step(dirs, self.layout, AT_ONCE, self.now())?;
        if !scan.is_done() {
            upkeep.scan = Some(scan);
            return Ok(false);
        }
        upkeep.settle(scan, ledger, record);
        Ok(true)
    }

    /// Removes the chunks used longest ago from the base path of `place`, whose disk is full below the capacity. Frees at
    /// least `bytes`, and a tenth of the base path's bytes or 512 files. `Nothing` if no file could be removed.
    pub(super) fn make_room(
        &self,
        turn: Turn,
        dirs: &Dirs,
        (place, bytes): (&Place, u64),
        search: &mut Search,
        work: &Work,
    ) -> Result<Made> {
        let made = turn.with_ledger(dirs, work, |ledger| {
            if !work.commit() {
                return Ok(Made::Nothing);
            }
            let now = self.now();
            let mut record = ledger.read(now)?;
            let mut upkeep = self.upkeep();
            if upkeep.scan.is_none() && (record.is_due || upkeep.oldest.is_low()) {
                self.scan(dirs, &mut upkeep, ledger, &mut record, now)?;
            }
            let tenth = upkeep.bytes(place.base) / 10;
            let mut eviction = self.eviction(dirs, search, now);
            (eviction.kept, eviction.base) = (Some(place), Some(place.base));
            let made = eviction.run(&mut upkeep, ledger, &mut record, |_, freed| match freed {
                _ if freed < bytes => Need::Now,
                _ if freed < tenth => Need::Soon,
                _ => Need::Nothing,
            })?;
            // The background evicts only down to the capacity.
            upkeep.is_evicting = false;
            self.want_upkeep(&upkeep);
            // The ledger is a file on that disk, too. If it cannot be written, the sum stays too large until the next
            // scan.
            let _ = ledger.write(&record, record.mark());
            // Some of the room may be enough.
            Ok(if made == Made::Nothing && search.freed > 0 { Made::Room } else { made })
        })?;
        Ok(made.unwrap_or(Made::Nothing))
    }

    /// Removes the file by `remove`, which returns whether the file existed.
    ///
    /// An error of the ledger does not stop it: a remove must work on a full disk that takes no ledger. If the sum
    /// still counts the file, the scan before the next eviction corrects it.
    pub(super) fn remove(
        &self,
        turn: Result<Turn>,
        dirs: &Dirs,
        place: &Place,
        work: &Work,
        remove: impl FnOnce() -> Result<bool>,
    ) -> Result<bool> {
        let mut remove = Some(remove);
        let mut removed = Ok(false);
        let noted = turn.and_then(|turn| {
            turn.with_ledger(dirs, work, |ledger| {
                let record = ledger.read(self.now());
                let bytes = file_size(dirs, place);
                let marked = record.and_then(|record| ledger.write(&record, Mark::Changing).map(|()| record));
                removed = remove.take().map_or(Ok(false), |remove| remove());
                let mut record = marked?;
                if matches!(removed, Ok(true)) {
                    record.sum = record.sum.map(|sum| sum.saturating_sub(bytes));
                    record.changes.removed = record.changes.removed.wrapping_add(bytes);
                }
                ledger.write(&record, record.mark())
            })
        });
        if let Err(e) = noted {
            tracing::debug!(error = %e, "the quota's ledger does not count a remove");
        }
        // `remove` was not called if the ledger could not be locked.
        remove.map_or(removed, |remove| remove())
    }
}

impl Turn {
    /// Runs `work` under the lock; `None` if the work is cancelled before. If it fails, the ledger stays as `job` left
    /// it.
    fn with_ledger<T>(
        mut self,
        dirs: &Dirs,
        work: &Work,
        job: impl FnOnce(&mut Locked) -> Result<T>,
    ) -> Result<Option<T>> {
        let ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => Ledger::open(dirs)?,
        };
        let Some(mut locked) = ledger.lock(dirs, self.deadline, work)? else { return Ok(None) };
        let answer = job(&mut locked);
        *self.ledger = Some(locked.unlock());
        answer.map(Some)
    }
}

/// A part of a number of bytes.
fn part(bytes: u64, (part, whole): (u64, u64)) -> u64 {
    bytes / whole * part
}

/// The later of the access and the modification time, of those that are not after `now`. A file without such a time
/// counts as used longest ago: otherwise a clock that was set back would keep it for ever.
fn last_use(stat: &Stat, now: SystemTime) -> SystemTime {
    let times = [stat.accessed, stat.modified];
    times.into_iter().filter(|time| *time <= now).max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Whether a get should refresh the file's access time.
pub(super) fn is_stale(stat: &Stat, now: SystemTime) -> bool {
    now.duration_since(last_use(stat, now)).is_ok_and(|ago| ago >= FRESH)
}

/// Refreshes the access time. Only the file's owner may; for others the kernel's own updates count.
pub(super) fn note_use(file: &File) {
    let at = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    let times = Timestamps { last_access: at(UTIME_NOW), last_modification: at(UTIME_OMIT) };
    let _ = rustix::fs::futimens(file, &times);
}

/// 0 if there is no such file.
fn file_size(dirs: &Dirs, place: &Place) -> u64 {
    let stat = dirs.folder_of(place, Wait::Yes).and_then(|(folder, name)| folder.stat_file(name));
    stat.ok().flatten().map_or(0, |stat| stat.bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;

    use super::*;

    #[test]
    fn a_use_is_noted_if_the_last_one_is_some_time_ago() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("x")).unwrap();
        let set = |accessed, modified| {
            file.set_times(FileTimes::new().set_accessed(accessed).set_modified(modified)).unwrap();
            Stat::of_file(&file).unwrap()
        };
        let now = SystemTime::now();
        let modified = now - FRESH * 3;
        assert!(is_stale(&set(now - FRESH * 2, modified), now));
        note_use(&file);
        let stat = Stat::of_file(&file).unwrap();
        assert!(!is_stale(&stat, SystemTime::now()));
        assert_eq!(stat.modified, modified, "only the access time changes");
        assert!(!is_stale(&set(modified, now), now), "a write is a use");
        for (accessed, modified) in [(now + FRESH, modified), (now + FRESH, now + FRESH)] {
            assert!(is_stale(&set(accessed, modified), now), "a time after now is not a use");
        }
    }
}
