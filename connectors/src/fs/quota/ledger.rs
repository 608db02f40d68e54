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
    /// Whether this process has written the ledger. After that it no longer compares `boot`: several systems may share
    /// one ledger.
    is_boot_checked: bool,
    /// The age at which this process no longer trusts a sum.
    rescan: Duration,
}

/// The ledger's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// Bytes of all chunk files, or more; `None` if that is not known. After a power cut it may be less until the next scan.
    pub(super) sum: Option<u64>,
    /// Whether the files should be scanned: the sum is not known, too old, or of a writer that was killed.
    pub(super) is_due: bool,
    /// When the last scan began.
    pub(super) scanned: SystemTime,
    pub(super) changes: Changes,
}

/// The bytes that all processes have added and removed since the count began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Changes {
    /// Differs between counts.
    id: u64,
    pub(super) added: u64,
    pub(super) removed: u64,
}

impl Changes {
    /// The bytes added and removed since `earlier`; `None` if that is another count.
    pub(super) fn since(&self, earlier: &Self) -> Option<(u64, u64)> {
        let since = || (self.added.wrapping_sub(earlier.added), self.removed.wrapping_sub(earlier.removed));
        (self.id == earlier.id).then(since)
    }
}

impl Record {
    /// The mark after a change that does not end a scan. A mark that a killed process left stays.
    pub(super) fn mark(&self) -> Mark {
        if self.is_due { Mark::Changing } else { Mark::Unchanged }
    }
}

/// Whether a writer is changing the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// If the writer is killed now, the sum may be larger than the files.
    Changing,
    Unchanged,
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

/// Whether the file holds a ledger.
fn is_ledger(file: &File) -> io::Result<bool> {
    let mut text = [0; LEN + 1];
    let len = file.read_at(&mut text, 0)?;
    Ok(len == LEN && std::str::from_utf8(&text[..LEN]).is_ok_and(|text| Line::parse(text).is_some()))
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

    /// The ledger's content. Without a sum if the ledger is damaged, or belongs to another store. The sum of another boot
    /// counts until the next scan.
    pub(super) fn read(&mut self, now: SystemTime) -> Result<Record> {
        let mut text = [0; LEN];
        let line = match self.0.file.read_exact_at(&mut text, 0) {
            Ok(()) => std::str::from_utf8(&text).ok().and_then(Line::parse),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(e) => return Err(self.failed(e, "read")),
        };
        let line = line.filter(|line| line.store == self.0.store);
        // A damaged time may be after the last one that the system knows.
        let scanned = |line: &Line| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(line.scanned));
        let Some((scanned, line)) = line.and_then(|line| Some((scanned(&line)?, line))) else {
            let changes = Changes { id: hash((now, std::process::id(), self.0.store)), added: 0, removed: 0 };
            return Ok(Record { sum: None, is_due: true, scanned: now, changes });
        };
        let is_fresh = now.duration_since(scanned).is_ok_and(|ago| ago < self.0.rescan);
        let is_of_boot = self.0.is_boot_checked || line.boot == self.0.boot;
        let is_due = line.sum.is_none() || !is_of_boot || !is_fresh || line.mark == Mark::Changing;
        Ok(Record { sum: line.sum, is_due, scanned, changes: line.changes })
    }

    /// Records the time that a scan took. The next scan comes later after a longer one.
    pub(super) fn note_scan(&mut self, took: Duration) {
        self.0.rescan = RESCAN.max(took * SCAN_SHARE);
    }

    /// Writes the record.
    pub(super) fn write(&mut self, record: &Record, mark: Mark) -> Result<()> {
        let scanned = record.scanned.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let Record { sum, changes, .. } = *record;
        let line = Line { mark, sum, scanned, store: self.0.store, boot: self.0.boot, changes };
        self.0.file.write_all_at(line.text().as_bytes(), 0).map_err(|e| self.failed(e, "write"))?;
        self.0.is_boot_checked = true;
        Ok(())
    }

    fn failed(&self, e: io::Error, step: &str) -> Error {
        Error::io(e, format_args!("{step} the quota's ledger `{}`", self.0.path.display()))
    }
}

/// The ledger's line: `=`, or `?` with a mark, or `!` without a sum; the sum in bytes; the time of the last scan; the ids of
/// store, boot and count; the bytes added and removed.
struct Line {
    mark: Mark,
    sum: Option<u64>,
    scanned: u64,
    store: u64,
    boot: u64,
    changes: Changes,
}

const LEN: usize = 1 + 20 + 1 + 20 + 5 * (1 + 16) + 1;

impl Line {
    fn text(&self) -> String {
        let Self { mark, sum, scanned, store, boot, changes: Changes { id, added, removed } } = *self;
        let state = match (sum, mark) {
            (None, _) => '!',
            (Some(_), Mark::Changing) => '?',
            (Some(_), Mark::Unchanged) => '=',
        };
        let sum = sum.unwrap_or(0);
        format!("{state}{sum:020} {scanned:020} {store:016x} {boot:016x} {id:016x} {added:016x} {removed:016x}\n")
    }

    fn parse(line: &str) -> Option<Self> {
        let (mark, is_known) = match line.get(..1)? {
            "=" => (Mark::Unchanged, true),
            "?" => (Mark::Changing, true),
            "!" => (Mark::Unchanged, false),
            _ => return None,
        };
        let mut words = line[1..].strip_suffix('\n')?.split(' ');
        let (sum, scanned) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let mut hex = || u64::from_str_radix(words.next()?, 16).ok();
        let (store, boot) = (hex()?, hex()?);
        let changes = Changes { id: hex()?, added: hex()?, removed: hex()? };
        Some(Self { mark, sum: is_known.then_some(sum), scanned, store, boot, changes })
    }
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
    fn a_ledger_keeps_its_record_until_it_is_of_another_store_or_boot() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = dirs(dir.path().to_owned());
        // In whole seconds, as in the file.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33);
        let open = || Ledger::open(&dirs).unwrap();
        let mut locked = lock(open(), &dirs).unwrap();
        let new = locked.read(now).unwrap();
        assert!(new.sum.is_none() && new.is_due, "a new one has no sum");
        let changes = Changes { added: u64::MAX, removed: 3, ..new.changes };
        for sum in [None, Some(0), Some(u64::MAX)] {
            let record = Record { sum, is_due: sum.is_none(), scanned: now, changes };
            locked.write(&record, Mark::Unchanged).unwrap();
            assert_eq!(locked.read(now).unwrap(), record);
        }
        let is_due = |locked: &mut Locked, at| locked.read(at).unwrap().is_due;
        assert!(is_due(&mut locked, now + RESCAN), "too old");
        for (took, longer) in [(RESCAN / 4, true), (RESCAN / 40, false)] {
            locked.note_scan(took);
            assert_eq!(!is_due(&mut locked, now + RESCAN), longer, "a scan takes {took:?}");
        }
        assert!(is_due(&mut locked, now - Duration::from_secs(5)), "the clock was set back");
        drop(locked);
        let other_boot = Ledger { boot: 1, ..open() };
        let mut locked = lock(other_boot, &dirs).unwrap();
        for _ in 0..2 {
            let record = locked.read(now).unwrap();
            assert_eq!((record.sum, record.is_due), (Some(u64::MAX), true), "of another boot, until this one writes");
        }
        locked.write(&Record { sum: Some(5), is_due: false, scanned: now, changes }, Mark::Unchanged).unwrap();
        let record = locked.read(now).unwrap();
        assert_eq!((record.sum, record.is_due), (Some(5), false));
        drop(locked);
        let other = lock(Ledger { store: 1, ..open() }, &dirs).unwrap().read(now).unwrap();
        assert!(other.sum.is_none() && other.changes.since(&changes).is_none(), "of another store");
        let mut locked = lock(open(), &dirs).unwrap();
        let record = Record { sum: Some(7), is_due: true, scanned: now, changes };
        locked.write(&record, Mark::Changing).unwrap();
        assert_eq!(locked.read(now).unwrap(), record, "its writer was killed: the sum is a bound");
        let whole = std::fs::read_to_string(dir.path().join(NAME)).unwrap();
        let never = whole.replacen(&format!("{:020}", 1_u64 << 33), &u64::MAX.to_string(), 1);
        for damaged in [&*never, "=nonsense"] {
            std::fs::write(dir.path().join(NAME), damaged).unwrap();
            let record = locked.read(now).unwrap();
            assert!(record.sum.is_none() && record.is_due, "{damaged}");
        }
    }

    #[test]
    fn changes_are_counted_over_the_end_of_the_numbers() {
        let earlier = Changes { id: 4, added: u64::MAX - 1, removed: 5 };
        assert_eq!(Changes { id: 4, added: 2, removed: 5 }.since(&earlier), Some((4, 0)));
        assert_eq!(Changes { id: 5, added: 2, removed: 5 }.since(&earlier), None);
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
        let mut locked = lock(Ledger::open(&dirs).unwrap(), &dirs).unwrap();
        let mut record = locked.read(SystemTime::now()).unwrap();
        record.sum = Some(7);
        locked.write(&record, Mark::Unchanged).unwrap();
        std::fs::hard_link(&name, dir.path().join("backup")).unwrap();
        assert!(Ledger::open(&dirs).is_ok());
        for (sum, mark) in [(Some(7), Mark::Changing), (None, Mark::Unchanged)] {
            locked.write(&Record { sum, ..record }, mark).unwrap();
            assert!(Ledger::open(&dirs).is_ok());
        }
        for text in ["", "=", "a user's file", &"=".repeat(LEN), &"x".repeat(1000)] {
            std::fs::remove_file(&name).unwrap();
            std::fs::write(&other, text).unwrap();
            std::fs::hard_link(&other, &name).unwrap();
            let e = Ledger::open(&dirs).err().expect("not a ledger");
            assert!(e.to_string().contains("is a hard link"), "{e}");
        }
    }
}
