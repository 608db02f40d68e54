//! The sum of all chunk files' bytes, in a file that processes lock.

use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use connector_core::{Error, ErrorKind, Result};

use super::RESCAN;

/// The ledger's name, in the first base path.
pub(in super::super) const NAME: &str = ".kvconn-quota";

/// The longest wait for the lock. Most holders need microseconds. A scan needs a second for a million files.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// An open ledger.
pub(super) struct Ledger {
    file: File,
    path: PathBuf,
    /// Differs between stores that share their first base path.
    store: u64,
    /// Changes with each boot: after a power cut the ledger and the directories need not agree.
    boot: u64,
    /// Whether `boot` was compared. Only once: several systems may share one ledger.
    is_boot_checked: bool,
}

/// The ledger's content.
pub(super) struct Record {
    /// Bytes of all chunk files; `None` if a scan is needed.
    pub(super) sum: Option<u64>,
    /// Time of the last scan.
    pub(super) scanned: SystemTime,
}

/// A locked ledger.
pub(super) struct Locked(Ledger);

impl Ledger {
    /// Opens or creates the ledger, but does not create its directory.
    pub(super) fn open(base_paths: &[PathBuf]) -> Result<Self> {
        let first = base_paths.first().map_or(Path::new("."), PathBuf::as_path);
        let path = first.join(NAME);
        let failed = |e: io::Error| Error::io(e, format_args!("open the quota's ledger `{}`", path.display()));
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let inodes = base_paths.iter().map(|base| base.metadata().map(|stat| stat.ino()));
        let inodes: Vec<u64> = inodes.collect::<io::Result<_>>().map_err(failed)?;
        // A system without a boot id counts as never restarted.
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let (store, boot) = (hash(inodes), hash(boot));
        Ok(Self { file, path, store, boot, is_boot_checked: false })
    }

    /// Waits for the lock, and reopens the ledger if it was removed.
    pub(super) fn lock(self, base_paths: &[PathBuf]) -> Result<Locked> {
        let mut ledger = self;
        let start = Instant::now();
        loop {
            match ledger.file.try_lock() {
                Ok(()) if ledger.file.metadata().is_ok_and(|stat| stat.nlink() > 0) => return Ok(Locked(ledger)),
                Ok(()) => ledger = Self::open(base_paths)?,
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_TIMEOUT => {
                    // Polls, because a blocking lock would wait for ever for a stopped process.
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!(
                            "another process has held the lock of `{}` for {LOCK_TIMEOUT:?}",
                            ledger.path.display()
                        ),
                    )
                    .temporary(true));
                }
                Err(TryLockError::Error(e)) => {
                    return Err(Error::io(e, format_args!("lock `{}`", ledger.path.display()))
                        .with_hint("the option `capacity` needs a file system with `flock`"));
                }
            }
        }
    }
}

impl Locked {
    pub(super) fn unlock(self) -> Ledger {
        // If this fails, the next error closes the file, which unlocks it.
        let _ = self.0.file.unlock();
        self.0
    }

    /// The ledger's content. Without a sum if the ledger is marked, damaged or too old, or belongs to another store
    /// or boot.
    pub(super) fn read(&mut self, now: SystemTime) -> Result<Record> {
        let mut text = [0; LEN];
        let unknown = Record { sum: None, scanned: now };
        let is_boot_checked = std::mem::replace(&mut self.0.is_boot_checked, true);
        match self.0.file.read_exact_at(&mut text, 0) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(unknown),
            Err(e) => return Err(self.failed(e, "read")),
        }
        let Some((sum, scanned, store, boot)) = std::str::from_utf8(&text).ok().and_then(parse) else {
            return Ok(unknown);
        };
        let scanned = SystemTime::UNIX_EPOCH + Duration::from_secs(scanned);
        let is_fresh = now.duration_since(scanned).is_ok_and(|ago| ago < RESCAN);
        let is_known = store == self.0.store && (is_boot_checked || boot == self.0.boot);
        Ok(if is_fresh && is_known { Record { sum: Some(sum), scanned } } else { unknown })
    }

    /// Marks the sum as wrong. If the process is killed before [`write`](Self::write), the next one finds the mark.
    pub(super) fn mark_dirty(&self) -> Result<()> {
        self.0.file.write_all_at(b"?", 0).map_err(|e| self.failed(e, "write"))
    }

    /// Writes the sum, if it is known, without the mark.
    pub(super) fn write(&self, record: &Record) -> Result<()> {
        let Some(sum) = record.sum else { return Ok(()) };
        let scanned = record.scanned.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let text = text(sum, scanned, self.0.store, self.0.boot);
        self.0.file.write_all_at(text.as_bytes(), 0).map_err(|e| self.failed(e, "write"))
    }

    fn failed(&self, e: io::Error, step: &str) -> Error {
        Error::io(e, format_args!("{step} the quota's ledger `{}`", self.0.path.display()))
    }
}

/// The ledger's line: `=`, or the mark `?`; the sum in bytes; the time of the last scan; the ids of store and boot.
fn text(sum: u64, scanned: u64, store: u64, boot: u64) -> String {
    format!("={sum:020} {scanned:020} {store:016x} {boot:016x}\n")
}

const LEN: usize = 1 + 20 + 1 + 20 + 1 + 16 + 1 + 16 + 1;

fn parse(line: &str) -> Option<(u64, u64, u64, u64)> {
    let mut words = line.strip_prefix('=')?.strip_suffix('\n')?.split(' ');
    let (sum, scanned) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let mut id = || u64::from_str_radix(words.next()?, 16).ok();
    Some((sum, scanned, id()?, id()?))
}

/// Equal in every process of one version of kvconn; after an update the files are scanned once more.
fn hash(value: impl std::hash::Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_keeps_its_sum_until_it_is_marked_or_old_or_of_another_store_or_boot() {
        let dir = tempfile::tempdir().unwrap();
        let bases = [dir.path().to_owned()];
        let now = SystemTime::now();
        let open = || Ledger::open(&bases).unwrap();
        let mut locked = open().lock(&bases).unwrap();
        assert_eq!(locked.read(now).unwrap().sum, None, "a new one has no sum");
        locked.write(&Record { sum: Some(u64::MAX), scanned: now }).unwrap();
        assert_eq!(locked.read(now).unwrap().sum, Some(u64::MAX));
        assert_eq!(locked.read(now + RESCAN).unwrap().sum, None, "too old");
        assert_eq!(locked.read(now - Duration::from_secs(5)).unwrap().sum, None, "the clock was set back");
        drop(locked);
        for other in [Ledger { store: 1, ..open() }, Ledger { boot: 1, ..open() }] {
            assert_eq!(other.lock(&bases).unwrap().read(now).unwrap().sum, None, "of another store or boot");
        }
        let mut locked = open().lock(&bases).unwrap();
        assert!(locked.read(now).unwrap().sum.is_some());
        locked.mark_dirty().unwrap();
        assert_eq!(locked.read(now).unwrap().sum, None, "its writer was killed");
        std::fs::write(dir.path().join(NAME), "=nonsense").unwrap();
        assert_eq!(locked.read(now).unwrap().sum, None);
    }

    #[test]
    fn a_removed_ledger_is_created_again_but_not_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let bases = [dir.path().join("base")];
        assert!(Ledger::open(&bases).is_err());
        std::fs::create_dir(&bases[0]).unwrap();
        let ledger = Ledger::open(&bases).unwrap();
        std::fs::remove_file(bases[0].join(NAME)).unwrap();
        let ledger = ledger.lock(&bases).unwrap().unlock();
        assert!(bases[0].join(NAME).exists());
        std::fs::remove_dir_all(&bases[0]).unwrap();
        assert!(ledger.lock(&bases).is_err());
        assert!(!bases[0].exists());
    }
}
