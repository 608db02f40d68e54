//! The sum of all chunk files' bytes, in a file that processes lock.

use std::fs::{File, TryLockError};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use connector_core::{Error, ErrorKind, Result};

use super::RESCAN;

/// In the first base path.
pub(in super::super) const NAME: &str = ".kvconn-quota";

/// How long a put waits for the others' changes. They take microseconds, or a look at all files: a second for a million.
const PATIENCE: Duration = Duration::from_secs(30);

/// An open ledger.
pub(super) struct Ledger {
    file: File,
    path: PathBuf,
    /// Tells stores apart that share their first base path.
    of: u64,
    /// Changes when the system is started anew: after a power cut the ledger and the directories need not agree.
    boot: u64,
    /// Whether that was looked at. Once: several systems may take turns with one ledger.
    is_met: bool,
}

/// What a ledger says.
pub(super) struct Book {
    /// Bytes of all chunk files; `None` if that has to be found out.
    pub(super) sum: Option<u64>,
    /// When all files were last looked at.
    pub(super) looked: SystemTime,
}

/// A ledger that nobody else changes.
pub(super) struct Locked(Ledger);

impl Ledger {
    /// Opens the ledger, or makes it: but not the directory that it belongs in.
    pub(super) fn open(base_paths: &[PathBuf]) -> Result<Self> {
        let first = base_paths.first().map_or(Path::new("."), PathBuf::as_path);
        let path = first.join(NAME);
        let failed = |e: io::Error| Error::io(e, format_args!("open the quota's ledger `{}`", path.display()));
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let inodes = base_paths.iter().map(|base| base.metadata().map(|stat| stat.ino()));
        let inodes: Vec<u64> = inodes.collect::<io::Result<_>>().map_err(failed)?;
        // A system without a boot id is taken for one that was never started anew.
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let (of, boot) = (hash(inodes), hash(boot));
        Ok(Self { file, path, of, boot, is_met: false })
    }

    /// Waits until nobody else has it, and opens it anew if somebody removed it.
    pub(super) fn lock(self, base_paths: &[PathBuf]) -> Result<Locked> {
        let mut ledger = self;
        let start = Instant::now();
        loop {
            match ledger.file.try_lock() {
                Ok(()) if ledger.file.metadata().is_ok_and(|stat| stat.nlink() > 0) => return Ok(Locked(ledger)),
                Ok(()) => ledger = Self::open(base_paths)?,
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                    // Not the lock that waits: a process that was stopped with it would stop all others for ever.
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        format!("another process has had the lock of `{}` for {PATIENCE:?}", ledger.path.display()),
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
        // If it fails, the file is closed with the next error, which unlocks it, too.
        let _ = self.0.file.unlock();
        self.0
    }

    /// What the ledger says, if it can be trusted and is not too old.
    pub(super) fn read(&mut self, now: SystemTime) -> Result<Book> {
        let mut text = [0; LEN];
        let nothing = Book { sum: None, looked: now };
        let is_met = std::mem::replace(&mut self.0.is_met, true);
        match self.0.file.read_exact_at(&mut text, 0) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(nothing),
            Err(e) => return Err(self.failed(e, "read")),
        }
        let Some((sum, looked, of, boot)) = std::str::from_utf8(&text).ok().and_then(parse) else { return Ok(nothing) };
        let looked = SystemTime::UNIX_EPOCH + Duration::from_secs(looked);
        let is_fresh = now.duration_since(looked).is_ok_and(|ago| ago < RESCAN);
        let is_known = of == self.0.of && (is_met || boot == self.0.boot);
        Ok(if is_fresh && is_known { Book { sum: Some(sum), looked } } else { nothing })
    }

    /// Says that the sum is wrong from here on: whoever finds it so was preceded by one that was killed.
    pub(super) fn distrust(&self) -> Result<()> {
        self.0.file.write_all_at(b"?", 0).map_err(|e| self.failed(e, "write"))
    }

    /// Says that the sum is right, if it is known.
    pub(super) fn write(&self, book: &Book) -> Result<()> {
        let Some(sum) = book.sum else { return Ok(()) };
        let looked = book.looked.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let text = text(sum, looked, self.0.of, self.0.boot);
        self.0.file.write_all_at(text.as_bytes(), 0).map_err(|e| self.failed(e, "write"))
    }

    fn failed(&self, e: io::Error, step: &str) -> Error {
        Error::io(e, format_args!("{step} the quota's ledger `{}`", self.0.path.display()))
    }
}

/// The ledger's one line: `=` or, while a file changes its name, `?`; bytes; when all files were looked at; which
/// directories', on what system.
fn text(sum: u64, looked: u64, of: u64, boot: u64) -> String {
    format!("={sum:020} {looked:020} {of:016x} {boot:016x}\n")
}

const LEN: usize = 1 + 20 + 1 + 20 + 1 + 16 + 1 + 16 + 1;

fn parse(line: &str) -> Option<(u64, u64, u64, u64)> {
    let mut words = line.strip_prefix('=')?.strip_suffix('\n')?.split(' ');
    let (sum, looked) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let mut id = || u64::from_str_radix(words.next()?, 16).ok();
    Some((sum, looked, id()?, id()?))
}

/// The same in every process of one version; with another the files are looked at once more than they had to be.
fn hash(what: impl std::hash::Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_says_what_was_written_until_it_is_distrusted_old_or_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let bases = [dir.path().to_owned()];
        let now = SystemTime::now();
        let open = || Ledger::open(&bases).unwrap();
        let mut locked = open().lock(&bases).unwrap();
        assert_eq!(locked.read(now).unwrap().sum, None, "a new one says nothing");
        locked.write(&Book { sum: Some(u64::MAX), looked: now }).unwrap();
        assert_eq!(locked.read(now).unwrap().sum, Some(u64::MAX));
        assert_eq!(locked.read(now + RESCAN).unwrap().sum, None, "too old");
        assert_eq!(locked.read(now - Duration::from_secs(5)).unwrap().sum, None, "the clock was set back");
        drop(locked);
        for other in [Ledger { of: 1, ..open() }, Ledger { boot: 1, ..open() }] {
            assert_eq!(other.lock(&bases).unwrap().read(now).unwrap().sum, None, "another store's or system's");
        }
        let mut locked = open().lock(&bases).unwrap();
        assert!(locked.read(now).unwrap().sum.is_some());
        locked.distrust().unwrap();
        assert_eq!(locked.read(now).unwrap().sum, None, "its writer was killed");
        std::fs::write(dir.path().join(NAME), "=nonsense").unwrap();
        assert_eq!(locked.read(now).unwrap().sum, None);
    }

    #[test]
    fn a_ledger_that_was_removed_is_made_anew_but_not_its_directory() {
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
