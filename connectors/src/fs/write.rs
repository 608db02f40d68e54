//! Writes a chunk's file under a temporary name, and renames it when it is complete.

use std::collections::hash_map::RandomState;
use std::fs::{File, Metadata, TryLockError};
use std::hash::BuildHasher;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use connector_core::{Error, Result};

use super::direct::Direct;

const PREFIX: &str = ".kvconn-";
const SUFFIX: &str = ".tmp";

/// Longest temporary name, in bytes.
pub(super) const NAME_MAX: usize = PREFIX.len() + 10 + 1 + 16 + 1 + 20 + SUFFIX.len();

/// A chunk's file that is being written. Chunks are opened for writing nowhere else.
///
/// The writer holds a lock (`flock`) on the file, which ends with its process. So [`scrub`](super::scrub) can tell
/// whether the writer is alive, also across containers, where process ids do not help.
pub(super) struct NewFile {
    file: File,
    tmp: PathBuf,
    path: PathBuf,
    is_renamed: bool,
}

impl NewFile {
    /// Makes an empty file in `dir`, to become `path`.
    pub(super) fn create(dir: &Path, path: PathBuf) -> Result<Self> {
        loop {
            let tmp = tmp_path(dir);
            let created = File::options().read(true).write(true).create_new(true).open(&tmp);
            let file = created
                .map_err(|e| Error::io(e, format_args!("create `{}` for `{}`", tmp.display(), path.display())))?;
            if lock_new(&file, &tmp) {
                return Ok(Self { file, tmp, path, is_renamed: false });
            }
        }
    }

    /// The name that the file gets.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends the header and the bytes in one system call where the system takes them all. (After a header on its own, tmpfs
    /// has smaller pages for the bytes: a put of 1 MiB then takes a tenth longer.)
    pub(super) fn write(&mut self, header: &[u8], bytes: &[u8]) -> Result<()> {
        let mut slices = &mut [IoSlice::new(header), IoSlice::new(bytes)][..];
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match self.file.write_vectored(slices) {
                Ok(0) => return Err(self.failed(io::ErrorKind::WriteZero.into(), "write")),
                Ok(n) => IoSlice::advance_slices(&mut slices, n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(e, "write")),
            }
        }
        Ok(())
    }

    /// Writes the whole file, past the page cache if possible.
    pub(super) fn write_direct(&mut self, direct: &Direct, bytes: &[u8]) -> Result<()> {
        direct.write(&self.file, bytes).map_err(|e| self.failed(e, "write"))
    }

    /// Waits until the bytes are on the disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.failed(e, "sync"))
    }

    /// Gives the file its name, in place of an older file.
    pub(super) fn rename(mut self) -> Result<()> {
        std::fs::rename(&self.tmp, &self.path).map_err(|e| {
            let is_other_disk = e.kind() == io::ErrorKind::CrossesDevices;
            let e = self.failed(e, "rename");
            if is_other_disk {
                e.with_hint("`relative_tmp_dir` is on another file system than the base path; leave it out")
            } else {
                e
            }
        })?;
        self.is_renamed = true;
        Ok(())
    }

    fn failed(&self, e: io::Error, step: &str) -> Error {
        Error::io(e, format_args!("{step} `{}` for `{}`", self.tmp.display(), self.path.display()))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_renamed {
            let _ = std::fs::remove_file(&self.tmp);
        }
    }
}

/// A path in `dir` that no other writer uses.
fn tmp_path(dir: &Path) -> PathBuf {
    /// Processes in several containers may share a process id.
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    dir.join(format!("{PREFIX}{}-{:016x}-{n}{SUFFIX}", std::process::id(), *PROCESS))
}

/// Locks a new file. `false` if a scrub locked the file first, as one that was left behind. The file is then removed,
/// because not every scrub removes the files that it finds.
fn lock_new(file: &File, tmp: &Path) -> bool {
    let is_ours = match file.try_lock() {
        Ok(()) => file.metadata().is_ok_and(|stat| stat.nlink() > 0),
        Err(TryLockError::WouldBlock) => false,
        // On a file system without locks a scrub cannot lock either, and removes nothing.
        Err(TryLockError::Error(_)) => true,
    };
    if !is_ours {
        // If this fails, the next scrub finds the file.
        let _ = remove_if_there(tmp);
    }
    is_ours
}

/// Whether this is the name of a temporary file of kvconn.
pub(super) fn is_tmp_name(name: &str) -> bool {
    let Some(middle) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX)) else { return false };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = middle.split('-').collect();
    let [process, random, n] = parts[..] else { return false };
    is_number(process) && is_number(n) && random.len() == 16 && random.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The state of a temporary file.
pub(super) enum TmpState {
    /// Its writer is alive, or wrote a short time ago.
    InUse,
    /// It was renamed or removed meanwhile.
    Gone,
    LeftBehind(LeftBehind),
    /// The file system has no locks.
    Unknown(io::Error),
}

/// A file whose writer is gone. The scrub holds its lock, so that a writer that has just created the file takes
/// another name.
pub(super) struct LeftBehind {
    path: PathBuf,
    _lock: File,
}

impl LeftBehind {
    pub(super) fn remove(self) -> io::Result<()> {
        remove_if_there(&self.path)
    }
}

/// The state of a temporary file. A file that changed within `min_age` is in use.
pub(super) fn tmp_state(path: &Path, stat: &Metadata, min_age: Duration) -> io::Result<TmpState> {
    let age = stat.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
    if age < min_age {
        return Ok(TmpState::InUse);
    }
    // Opened for writing: NFS turns `flock` into a lock of the whole file, which needs write access.
    let opened = match File::options().read(true).write(true).open(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            File::open(path)
        }
        opened => opened,
    };
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(TmpState::Gone),
        Err(e) => return Err(e),
    };
    Ok(match file.try_lock() {
        Err(TryLockError::WouldBlock) => TmpState::InUse,
        Err(TryLockError::Error(e)) => TmpState::Unknown(e),
        // The file was renamed before it was locked.
        Ok(()) if path.symlink_metadata().is_err() => TmpState::Gone,
        Ok(()) => TmpState::LeftBehind(LeftBehind { path: path.to_owned(), _lock: file }),
    })
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_is_recognized_and_within_its_limit() {
        let path = tmp_path(Path::new("/kv"));
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(is_tmp_name(name) && name.len() <= NAME_MAX, "{name}");
        let longest = format!("{PREFIX}{}-{:016x}-{}{SUFFIX}", u32::MAX, u64::MAX, u64::MAX);
        assert!(is_tmp_name(&longest) && longest.len() == NAME_MAX);
        for other in [".kvconn-1-2-3.tmp", ".kvconn-quota", "x.tmp", ".kvconn-1-0123456789abcdef-3.tmp.data"] {
            assert!(!is_tmp_name(other), "{other}");
        }
    }

    #[test]
    fn a_new_file_that_a_scrub_locked_is_given_up_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tmp = dir.path().join("new");
        let file = File::create_new(&tmp).unwrap();
        let scrub = File::open(&tmp).unwrap();
        scrub.lock().unwrap();
        assert!(!lock_new(&file, &tmp) && !tmp.exists());
        drop(scrub);
        assert!(!lock_new(&file, &tmp), "the scrub has removed it");
    }

    #[test]
    fn a_file_that_was_left_behind_is_locked_through_a_writable_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("left");
        std::fs::write(&path, [0; 9]).unwrap();
        let stat = path.metadata().unwrap();
        let Ok(TmpState::LeftBehind(left)) = tmp_state(&path, &stat, Duration::ZERO) else {
            panic!("it has no writer")
        };
        // Fails on a descriptor that can only read.
        left._lock.set_len(9).unwrap();
        left.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_locked_while_it_is_written_and_removed_if_it_is_not_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut new = NewFile::create(dir.path(), path.clone()).unwrap();
        new.write(b"", b"body").unwrap();
        let tmp = new.tmp.clone();
        assert!(matches!(File::open(&tmp).unwrap().try_lock(), Err(TryLockError::WouldBlock)));
        drop(new);
        assert!(!tmp.exists() && !path.exists());
        let mut new = NewFile::create(dir.path(), path.clone()).unwrap();
        new.write(b"bo", b"dy").unwrap();
        new.rename().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"body");
    }
}
