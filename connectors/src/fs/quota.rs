//! Keeps the sum of all chunk files within a number of bytes, whoever else writes into the same directories.
//!
//! Every change of a chunk file's name (a put's rename, a remove, an eviction) is made under a lock that all processes
//! share: `flock` on the [`Ledger`] in the first base path, which holds the sum. So the sum is exact as long as all writers
//! have the option. What others do (LMCache, a store without the option) is seen by a look at all files: when there seems
//! to be no room, at the latest a minute after the last look, and whenever the ledger cannot be trusted.
//!
//! The last use of a chunk is its file's access or modification time, whichever is later. A get sets the access time
//! itself, at most every ten seconds a file, because most systems mount with `relatime`, which sets it once a day.

mod evict;
mod ledger;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use connector_core::{Error, ErrorKind, Result};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::commit::Work;
pub(super) use ledger::NAME as LEDGER;
use ledger::{Book, Ledger, Locked};

/// A get within this time of the last use does not note another.
const USED_ANEW: Duration = Duration::from_secs(10);

/// After this time the files are looked at again, to see what others wrote.
const RESCAN: Duration = Duration::from_secs(60);

/// To make room, files go until so much of the capacity is used: one look at all files serves many puts.
const LOW_WATER: (u64, u64) = (9, 10);

/// The most bytes that a store's files may have together.
pub(super) struct Quota {
    pub(super) capacity: u64,
    base_paths: Vec<PathBuf>,
    /// Where files are that are being written.
    tmp_dirs: Vec<PathBuf>,
    /// A lock of this process's threads; the file's lock is the whole process's.
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

    /// Makes room for a file of `bytes` bytes that becomes `path`, and renames it unless the work was cancelled.
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
            let mut book = ledger.read(now)?;
            let replaced = file_size(path);
            let fits = |sum: u64| sum.saturating_sub(replaced).saturating_add(bytes) <= self.capacity;
            if book.sum.is_none_or(|sum| !fits(sum)) {
                let mut chunks = evict::look(&self.base_paths)?;
                evict::remove_left_behind(&self.tmp_dirs);
                let mut sum = chunks.sum();
                if !fits(sum) {
                    // On a full disk this alone may fail, and what goes makes room for it.
                    let _ = ledger.distrust();
                    let (part, whole) = LOW_WATER;
                    let others = (self.capacity / whole * part).max(bytes) - bytes;
                    let refused = chunks.evict(path, others);
                    sum = chunks.sum();
                    if !fits(sum) {
                        let why = format!("the store is full: {sum} bytes are in files that cannot be removed");
                        let e = Error::new(ErrorKind::StoreFull, why);
                        return Err(refused.map(|cause| e.clone().with_source(cause)).unwrap_or(e));
                    }
                }
                book = Book { sum: Some(sum), looked: now };
            }
            ledger.distrust()?;
            rename()?;
            book.sum = book.sum.map(|sum| sum.saturating_sub(replaced) + bytes);
            // The chunk is there. If the sum cannot be written, the mark says so to the next one.
            let _ = ledger.write(&book);
            Ok(())
        })
    }

    /// Removes the file; `false` if `remove` says so.
    ///
    /// No error of the ledger stops it: a full disk that takes no ledger is the time to remove, and a sum that still counts
    /// what is gone is put right by the look at all files that comes before anything is evicted.
    pub(super) fn remove(&self, path: &Path, remove: impl FnOnce() -> Result<bool>) -> Result<bool> {
        if !path.symlink_metadata().is_ok_and(|stat| stat.is_file()) {
            // Also where no store is: a remove leaves none behind.
            return remove();
        }
        let mut remove = Some(remove);
        let mut removed = Ok(false);
        let noted = self.with_ledger(|ledger| {
            let book = ledger.read(SystemTime::now());
            let bytes = file_size(path);
            let marked = ledger.distrust();
            removed = remove.take().map_or(Ok(false), |remove| remove());
            let mut book = book?;
            if matches!(removed, Ok(true)) {
                book.sum = book.sum.map(|sum| sum.saturating_sub(bytes));
            }
            marked?;
            ledger.write(&book)
        });
        if let Err(e) = noted {
            tracing::debug!(error = %e, "the quota's ledger does not know of a remove");
        }
        // Still there if the ledger could not be had at all.
        remove.map_or(removed, |remove| remove())
    }

    /// Nobody else changes the store's files while `work` runs. If it fails, the ledger is as it left it.
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

/// Whether a get of the file should be noted: its last use was not just now.
pub(super) fn is_stale(used: SystemTime) -> bool {
    used.elapsed().is_ok_and(|ago| ago >= USED_ANEW)
}

/// Notes that the file was used. Only its owner may; for others the kernel's own access time has to do.
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
    fn a_use_is_noted_when_the_last_one_is_some_time_ago() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("x")).unwrap();
        let used = |file: &File| file.metadata().unwrap().accessed().unwrap();
        let long_ago = SystemTime::now() - USED_ANEW * 2;
        let modified = long_ago - USED_ANEW;
        file.set_times(FileTimes::new().set_accessed(long_ago).set_modified(modified)).unwrap();
        assert!(is_stale(used(&file)));
        note_use(&file);
        assert!(!is_stale(used(&file)));
        assert_eq!(file.metadata().unwrap().modified().unwrap(), modified, "the file itself is as it was");
        assert!(!is_stale(SystemTime::now() + USED_ANEW), "another system's clock may be ahead");
    }
}
