//! The sum of all chunk files' bytes, in a file that processes lock.

use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use connector_core::{Error, ErrorKind, Result};
use rustix::fs::OFlags;

use super::super::cancel::Work;
use super::super::dirs::Dirs;
use super::super::folder::Wait;
use super::{LOCK_TIMEOUT, RESCAN, SCAN_SHARE};

/// The ledger's name, in the first base path.
pub(in super::super) const NAME: &str = ".kvconn-quota";

/// The shortest and the longest time between two tries to lock.
const POLL: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(5));

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
    /// The age at which this process no longer trusts a sum.
    rescan: Duration,
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
    pub(super) fn open(dirs: &Dirs) -> Result<Self> {
        let path = dirs.path(0).join(NAME);
        let failed = |e: io::Error| Error::io(e, format_args!("open the quota's ledger `{}`", path.display()));
        let open = |flags| dirs.folder(0, Wait::Yes).and_then(|folder| folder.open_file(NAME, flags, Wait::Yes));
        // Created only if it is missing: in a sticky directory `O_CREAT` is refused for another user's file.
        let opened = match open(OFlags::RDWR) {
            Ok(None) => open(OFlags::RDWR | OFlags::CREATE),
            opened => opened,
        };
        let Some((file, _)) = opened.map_err(failed)? else {
            let why = format!("the quota's ledger `{}` is not a regular file", path.display());
            return Err(Error::new(ErrorKind::Io, why).with_hint("move it away"));
        };
        if file.metadata().is_ok_and(|stat| stat.nlink() > 1) && !is_ledger(&file).map_err(failed)? {
            let why = format!("the quota's ledger `{}` is a hard link to another file", path.display());
            return Err(Error::new(ErrorKind::Io, why).with_hint("move it away"));
        }
        let inodes = (0..dirs.count()).map(|base| dirs.folder(base, Wait::Yes)?.inode());
        let inodes: Vec<u64> = inodes.collect::<io::Result<_>>().map_err(failed)?;
        // A system without a boot id counts as never restarted.
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let (store, boot) = (hash(inodes), hash(boot));
        Ok(Self { file, path, store, boot, is_boot_checked: false, rescan: RESCAN })
    }

    /// Waits for the lock, and reopens the ledger if it was removed. `None` if the work is cancelled.
    pub(super) fn lock(self, dirs: &Dirs, deadline: Instant, work: &Work) -> Result<Option<Locked>> {
        let mut ledger = self;
        let start = Instant::now();
        loop {
            match ledger.file.try_lock() {
                Ok(()) if ledger.file.metadata().is_ok_and(|stat| stat.nlink() > 0) => return Ok(Some(Locked(ledger))),
                Ok(()) => ledger = Self::open(dirs)?,
                Err(TryLockError::WouldBlock) if work.is_cancelled() => return Ok(None),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    // Polls, because a blocking lock would wait for ever for a stopped process. The longer the lock is
                    // held, the less a late look matters.
                    std::thread::sleep((start.elapsed() / 8).clamp(POLL.0, POLL.1));
                }
                Err(TryLockError::WouldBlock) => return Err(is_held(&ledger.path)),
                Err(TryLockError::Error(e)) => {
                    return Err(Error::io(e, format_args!("lock `{}`", ledger.path.display()))
                        .with_hint("the option `capacity` needs a file system with `flock`"));
                }
            }
        }
    }
}

/// Whether the file holds a ledger, marked or not.
fn is_ledger(file: &File) -> io::Result<bool> {
    let mut text = [0; LEN + 1];
    let len = file.read_at(&mut text, 0)?;
    Ok(len == LEN && matches!(text[0], b'=' | b'?') && std::str::from_utf8(&text[1..LEN]).is_ok_and(|text| parse(&format!("={text}")).is_some()))
}

/// The error of a lock that is held too long.
pub(super) fn is_held(path: &Path) -> Error {
    let path = path.display();
    Error::new(ErrorKind::Timeout, format!("another process has held the lock of `{path}` for {LOCK_TIMEOUT:?}"))
        .temporary(true)
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
        let is_fresh = now.duration_since(scanned).is_ok_and(|ago| ago < self.0.rescan);
        let is_known = store == self.0.store && (is_boot_checked || boot == self.0.boot);
        Ok(if is_fresh && is_known { Record { sum: Some(sum), scanned } } else { unknown })
    }

    /// Records the time that a scan took. The next scan comes later after a longer one.
    pub(super) fn note_scan(&mut self, took: Duration) {
        self.0.rescan = RESCAN.max(took * SCAN_SHARE);
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
    use super::super::super::cancel::cancellable;
    use super::*;

    fn dirs(base: PathBuf) -> Dirs {
        Dirs::new(vec![base], None, None, false)
    }

    fn lock(ledger: Ledger, dirs: &Dirs) -> Result<Locked> {
        let (_cancel, work) = cancellable();
        ledger.lock(dirs, Instant::now(), &work).map(|locked| locked.expect("not cancelled"))
    }

    #[test]
    fn a_ledger_keeps_its_sum_until_it_is_marked_or_old_or_of_another_store_or_boot() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = dirs(dir.path().to_owned());
        let now = SystemTime::now();
        let open = || Ledger::open(&dirs).unwrap();
        let mut locked = lock(open(), &dirs).unwrap();
        assert_eq!(locked.read(now).unwrap().sum, None, "a new one has no sum");
        locked.write(&Record { sum: Some(u64::MAX), scanned: now }).unwrap();
        assert_eq!(locked.read(now).unwrap().sum, Some(u64::MAX));
        assert_eq!(locked.read(now + RESCAN).unwrap().sum, None, "too old");
        for (took, longer) in [(RESCAN / 4, true), (RESCAN / 40, false)] {
            locked.note_scan(took);
            assert_eq!(locked.read(now + RESCAN).unwrap().sum.is_some(), longer, "a scan takes {took:?}");
        }
        assert_eq!(locked.read(now - Duration::from_secs(5)).unwrap().sum, None, "the clock was set back");
        drop(locked);
        for other in [Ledger { store: 1, ..open() }, Ledger { boot: 1, ..open() }] {
            assert_eq!(lock(other, &dirs).unwrap().read(now).unwrap().sum, None, "of another store or boot");
        }
        let mut locked = lock(open(), &dirs).unwrap();
        assert!(locked.read(now).unwrap().sum.is_some());
        locked.mark_dirty().unwrap();
        assert_eq!(locked.read(now).unwrap().sum, None, "its writer was killed");
        std::fs::write(dir.path().join(NAME), "=nonsense").unwrap();
        assert_eq!(locked.read(now).unwrap().sum, None);
    }

    #[test]
    fn a_removed_ledger_is_created_again_but_not_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        let dirs = dirs(base.clone());
        assert!(Ledger::open(&dirs).is_err());
        std::fs::create_dir(&base).unwrap();
        let ledger = Ledger::open(&dirs).unwrap();
        std::fs::remove_file(base.join(NAME)).unwrap();
        let ledger = lock(ledger, &dirs).unwrap().unlock();
        assert!(base.join(NAME).exists());
        std::fs::remove_dir_all(&base).unwrap();
        assert!(lock(ledger, &dirs).is_err());
        assert!(!base.exists());
    }

    #[test]
    fn a_cancelled_wait_for_the_lock_ends() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = dirs(dir.path().to_owned());
        let held = lock(Ledger::open(&dirs).unwrap(), &dirs).unwrap();
        let (cancel, work) = cancellable();
        drop(cancel);
        let far = Instant::now() + LOCK_TIMEOUT * 100;
        assert!(Ledger::open(&dirs).unwrap().lock(&dirs, far, &work).unwrap().is_none());
        drop(held);
    }

    #[test]
    fn a_hard_link_to_another_file_is_refused_and_a_copy_of_links_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = dirs(dir.path().to_owned());
        let (name, other) = (dir.path().join(NAME), dir.path().join("other"));
        let locked = lock(Ledger::open(&dirs).unwrap(), &dirs).unwrap();
        locked.write(&Record { sum: Some(7), scanned: SystemTime::now() }).unwrap();
        std::fs::hard_link(&name, dir.path().join("backup")).unwrap();
        assert!(Ledger::open(&dirs).is_ok());
        locked.mark_dirty().unwrap();
        assert!(Ledger::open(&dirs).is_ok());
        for text in ["", "=", "a user's file", &"=".repeat(LEN), &"x".repeat(1000)] {
            std::fs::remove_file(&name).unwrap();
            std::fs::write(&other, text).unwrap();
            std::fs::hard_link(&other, &name).unwrap();
            let e = Ledger::open(&dirs).err().expect("not a ledger");
            assert!(e.to_string().contains("is a hard link"), "{e}");
        }
    }
}
