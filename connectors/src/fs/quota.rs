//! Keeps the sum of all chunk files within a number of bytes, also if others write into the same directories.
//!
//! All processes share a lock, `flock` on the [`Ledger`] in the first base path, which holds the sum. A put's rename,
//! a remove and an eviction happen under that lock, so the sum is exact if all writers have the option. A scan finds
//! the files of other writers (LMCache, a store without the option). A put scans if there seems to be no room, a
//! minute after the last scan (later, if a scan takes seconds), and if the ledger is wrong.
//!
//! The last use of a chunk is its file's access or modification time, whichever is later. A get sets the access time, at most
//! every ten seconds a file: most systems mount with `relatime`, which sets it once a day.

mod evict;
mod ledger;

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use connector_core::{Error, ErrorKind, Result};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};

use super::Layout;
use super::cancel::Work;
use super::dirs::Dirs;
use super::files::Place;
use super::folder::{Stat, Wait};
pub(super) use ledger::NAME as LEDGER;
use ledger::{Ledger, Locked, Record};

/// A get does not refresh the access time if the last use was within this time.
const FRESH: Duration = Duration::from_secs(10);

/// After this time a put scans the files again, to find the files of other writers.
const RESCAN: Duration = Duration::from_secs(60);

/// A process spends at most 1/20 of its time on scans. vLLM's layout has nearly a directory for each file, so a scan takes
/// long.
const SCAN_SHARE: u32 = 20;

/// An eviction frees this part of the capacity, so that one scan serves many puts.
const LOW_WATER: (u64, u64) = (9, 10);

/// The longest wait for the ledger's lock. Most holders need microseconds. A scan needs a second for a million files.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// Temporary files of one store at a time. A cancelled put keeps its place until its file is removed.
const WRITERS: usize = 32;

/// Limits the bytes of a store's files.
pub(super) struct Quota {
    pub(super) capacity: u64,
    layout: Layout,
    /// A place for each file that is being written.
    pub(super) writers: Arc<Semaphore>,
    ledger: Arc<Mutex<Option<Ledger>>>,
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
        Self { capacity, layout, writers: Arc::new(Semaphore::new(WRITERS)), ledger: Arc::default() }
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

    /// Makes room for a new file, and renames it to `place` unless the work is cancelled before.
    pub(super) fn replace(
        &self,
        turn: Turn,
        dirs: &Dirs,
        place: &Place,
        new: Stat,
        work: &Work,
        rename: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let bytes = new.bytes;
        turn.with_ledger(dirs, work, |ledger| {
            if !work.commit() {
                return Ok(());
            }
            // A network file system's clock may be ahead of this system's.
            let now = SystemTime::now().max(new.modified);
            let mut record = ledger.read(now)?;
            let replaced = file_size(dirs, place);
            let fits = |sum: u64| sum.saturating_sub(replaced).saturating_add(bytes) <= self.capacity;
            if record.sum.is_none_or(|sum| !fits(sum)) {
                let mut chunks = self.scan(dirs, ledger, now)?;
                if !fits(chunks.sum()) {
                    // This fails on a full disk. Then the eviction makes room for it.
                    let _ = ledger.mark_dirty();
                    let (part, whole) = LOW_WATER;
                    let others = (self.capacity / whole * part).max(bytes) - bytes;
                    let refused = chunks.evict(dirs, place, others);
                    if !fits(chunks.sum()) {
                        let sum = chunks.sum();
                        let why = format!("the store is full: {sum} bytes are in files that cannot be removed");
                        let e = Error::new(ErrorKind::StoreFull, why);
                        return Err(match refused {
                            Some(cause) => e.with_source(cause),
                            None => e,
                        });
                    }
                }
                record = Record { sum: Some(chunks.sum()), scanned: now };
            }
            ledger.mark_dirty()?;
            rename()?;
            record.sum = record.sum.map(|sum| sum.saturating_sub(replaced) + bytes);
            // The chunk is stored. If the sum cannot be written, the mark stays, and the next put scans.
            let _ = ledger.write(&record);
            Ok(())
        })
        .map(drop)
    }

    fn scan(&self, dirs: &Dirs, ledger: &mut Locked, now: SystemTime) -> Result<evict::Chunks> {
        let begin = Instant::now();
        let chunks = evict::scan(dirs, self.layout, now)?;
        ledger.note_scan(begin.elapsed());
        evict::remove_left_behind(dirs);
        Ok(chunks)
    }

    /// Removes the chunks used longest ago from the base path of `place`, whose disk is full below the capacity. Frees at
    /// least `bytes`, and at least a tenth of the base path's bytes. `false` if no file could be removed.
    pub(super) fn make_room(&self, turn: Turn, dirs: &Dirs, place: &Place, bytes: u64, work: &Work) -> Result<bool> {
        let evicted = turn.with_ledger(dirs, work, |ledger| {
            if !work.commit() {
                return Ok(false);
            }
            let now = SystemTime::now();
            let mut chunks = self.scan(dirs, ledger, now)?;
            // The ledger is a file on that disk, too. If it cannot be written, the next put scans.
            let _ = ledger.mark_dirty();
            let evicted = chunks.evict_from(dirs, place, bytes);
            let _ = ledger.write(&Record { sum: Some(chunks.sum()), scanned: now });
            Ok(evicted > 0)
        })?;
        Ok(evicted.unwrap_or(false))
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
                let record = ledger.read(SystemTime::now());
                let bytes = file_size(dirs, place);
                let marked = ledger.mark_dirty();
                removed = remove.take().map_or(Ok(false), |remove| remove());
                let mut record = record?;
                if matches!(removed, Ok(true)) {
                    record.sum = record.sum.map(|sum| sum.saturating_sub(bytes));
                }
                marked?;
                ledger.write(&record)
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
