//! Keeps the sum of all chunk files within a number of bytes, also if others write into the same directories.
//!
//! All processes share a lock, `flock` on the [`Ledger`] in the first base path, which holds the sum. A put's rename,
//! a remove and an eviction happen under that lock, so the sum is exact if all writers have the option. A scan finds
//! the files of other writers (LMCache, a store without the option). A put scans if there seems to be no room, a
//! minute after the last scan, and if the ledger is wrong.
//!
//! The last use of a chunk is its file's access or modification time, whichever is later. A get sets the access time, at most
//! every ten seconds a file: most systems mount with `relatime`, which sets it once a day.

mod evict;
mod ledger;

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use connector_core::{Error, ErrorKind, Result};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::cancel::Work;
pub(super) use ledger::NAME as LEDGER;
use ledger::{Ledger, Locked, Record};

/// A get does not refresh the access time if the last use was within this time.
const FRESH: Duration = Duration::from_secs(10);

/// After this time a put scans the files again, to find the files of other writers.
const RESCAN: Duration = Duration::from_secs(60);

/// An eviction frees this part of the capacity, so that one scan serves many puts.
const LOW_WATER: (u64, u64) = (9, 10);

/// Limits the bytes of a store's files.
pub(super) struct Quota {
    pub(super) capacity: u64,
    base_paths: Vec<PathBuf>,
    tmp_dirs: Vec<PathBuf>,
    /// The mutex excludes this process's threads, the file's lock other processes.
    ledger: Mutex<Option<Ledger>>,
}

impl Quota {
    pub(super) fn new(capacity: u64, base_paths: Vec<PathBuf>, tmp_dir: Option<&Path>) -> Self {
        let tmp_dirs = base_paths.iter().map(|base| tmp_dir.map_or_else(|| base.clone(), |tmp| base.join(tmp)));
        let tmp_dirs = tmp_dirs.collect();
        Self { capacity, base_paths, tmp_dirs, ledger: Mutex::new(None) }
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

    /// Makes room for a file of `bytes` bytes at `path`, and renames it unless the work was cancelled.
    pub(super) fn replace(
        &self,
        path: &Path,
        bytes: u64,
        work: &Work,
        rename: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.with_ledger(|ledger| {
            if !work.commit() {
                return Ok(());
            }
            let now = SystemTime::now();
            let mut record = ledger.read(now)?;
            let replaced = file_size(path);
            let fits = |sum: u64| sum.saturating_sub(replaced).saturating_add(bytes) <= self.capacity;
            if record.sum.is_none_or(|sum| !fits(sum)) {
                let mut chunks = evict::scan(&self.base_paths)?;
                evict::remove_left_behind(&self.tmp_dirs);
                if !fits(chunks.sum()) {
                    // This fails on a full disk. Then the eviction makes room for it.
                    let _ = ledger.mark_dirty();
                    let (part, whole) = LOW_WATER;
                    let others = (self.capacity / whole * part).max(bytes) - bytes;
                    let refused = chunks.evict(path, others);
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
    }

    /// Removes the file by `remove`, which returns whether the file existed.
    ///
    /// An error of the ledger does not stop it: a remove must work on a full disk that takes no ledger. If the sum
    /// still counts the file, the scan before the next eviction corrects it.
    pub(super) fn remove(&self, path: &Path, remove: impl FnOnce() -> Result<bool>) -> Result<bool> {
        if !path.symlink_metadata().is_ok_and(|stat| stat.is_file()) {
            // A remove from a store that does not exist leaves no ledger behind.
            return remove();
        }
        let mut remove = Some(remove);
        let mut removed = Ok(false);
        let noted = self.with_ledger(|ledger| {
            let record = ledger.read(SystemTime::now());
            let bytes = file_size(path);
            let marked = ledger.mark_dirty();
            removed = remove.take().map_or(Ok(false), |remove| remove());
            let mut record = record?;
            if matches!(removed, Ok(true)) {
                record.sum = record.sum.map(|sum| sum.saturating_sub(bytes));
            }
            marked?;
            ledger.write(&record)
        });
        if let Err(e) = noted {
            tracing::debug!(error = %e, "the quota's ledger does not count a remove");
        }
        // `remove` was not called if the ledger could not be locked.
        remove.map_or(removed, |remove| remove())
    }

    /// Runs `work` under the lock. If it fails, the ledger stays as `work` left it.
    fn with_ledger<T>(&self, work: impl FnOnce(&mut Locked) -> Result<T>) -> Result<T> {
        let mut slot = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let ledger = match slot.take() {
            Some(ledger) => ledger,
            None => Ledger::open(&self.base_paths)?,
        };
        let mut locked = ledger.lock(&self.base_paths)?;
        let answer = work(&mut locked);
        *slot = Some(locked.unlock());
        answer
    }
}

/// The later of the access and the modification time.
fn last_use(stat: &Metadata) -> SystemTime {
    let times = [stat.accessed(), stat.modified()];
    times.into_iter().flatten().max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Whether a get should refresh the file's access time.
pub(super) fn is_stale(stat: &Metadata) -> bool {
    last_use(stat).elapsed().is_ok_and(|ago| ago >= FRESH)
}

/// Refreshes the access time. Only the file's owner may; for others the kernel's own updates count.
pub(super) fn note_use(file: &File) {
    let at = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    let times = Timestamps { last_access: at(UTIME_NOW), last_modification: at(UTIME_OMIT) };
    let _ = rustix::fs::futimens(file, &times);
}

/// 0 if there is no such file.
fn file_size(path: &Path) -> u64 {
    path.symlink_metadata().map_or(0, |stat| if stat.is_file() { stat.len() } else { 0 })
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
            file.metadata().unwrap()
        };
        let now = SystemTime::now();
        let modified = now - FRESH * 3;
        assert!(is_stale(&set(now - FRESH * 2, modified)));
        note_use(&file);
        let stat = file.metadata().unwrap();
        assert!(!is_stale(&stat));
        assert_eq!(stat.modified().unwrap(), modified, "only the access time changes");
        assert!(!is_stale(&set(now + FRESH, modified)), "another system's clock may be ahead");
        assert!(!is_stale(&set(modified, now)), "a write is a use");
    }
}
