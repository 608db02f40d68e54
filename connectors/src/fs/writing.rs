//! A file while it is written: under a name that no other writer has and no reader looks for, renamed when it is whole.

use std::collections::hash_map::RandomState;
use std::fs::{File, Metadata, TryLockError};
use std::hash::BuildHasher;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use connector_core::{Error, Result};

use super::direct::Direct;

const PREFIX: &str = ".kvconn-";
const SUFFIX: &str = ".tmp";

/// Longest name that a writer gives to its file, in bytes.
pub(super) const NAME_MAX: usize = PREFIX.len() + 10 + 1 + 16 + 1 + 20 + SUFFIX.len();

/// Removes what it wrote when it is dropped before [`finish`](Self::finish).
///
/// The file is locked (`flock`) as long as it is written, which ends with the process however that ends: so
/// [`scrub`](super::scrub) tells the file of a live writer from one that was left behind, also across containers, where
/// process ids say nothing.
pub(super) struct Writing {
    file: File,
    mode: u32,
    tmp: PathBuf,
    path: PathBuf,
    renamed: bool,
}

impl Writing {
    /// Makes an empty file of that mode in `dir`, to become `path`.
    pub(super) fn begin(dir: &Path, path: PathBuf, mode: u32) -> Result<Self> {
        /// Tells processes apart that share a process id, as containers on one directory do.
        static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let tmp = dir.join(format!("{PREFIX}{}-{:016x}-{n}{SUFFIX}", std::process::id(), *PROCESS));
            let made = File::options().read(true).write(true).create_new(true).mode(mode).open(&tmp);
            let file = made.map_err(|e| failed(e, "create", &tmp, &path))?;
            if let Some(mode) = locked(&file, &tmp) {
                return Ok(Self { file, mode, tmp, path, renamed: false });
            }
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The mode that the file got, or 0 if that is not known.
    pub(super) fn mode(&self) -> u32 {
        self.mode
    }

    /// What the file becomes.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes both, one behind the other: by one system call in the usual case.
    pub(super) fn write(&mut self, header: &[u8], bytes: &[u8]) -> Result<()> {
        let mut write_both = || {
            if header.is_empty() {
                return self.file.write_all(bytes);
            }
            let written = loop {
                match self.file.write_vectored(&[IoSlice::new(header), IoSlice::new(bytes)]) {
                    Ok(n) => break n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            };
            let of_header = written.min(header.len());
            self.file.write_all(&header[of_header..])?;
            self.file.write_all(&bytes[written - of_header..])
        };
        write_both().map_err(|e| failed(e, "write", &self.tmp, &self.path))
    }

    /// Writes a file that has nothing else, past the page cache if that can be.
    pub(super) fn write_direct(&mut self, direct: &Direct, bytes: &[u8]) -> Result<()> {
        direct.write(&self.file, bytes).map_err(|e| failed(e, "write", &self.tmp, &self.path))
    }

    /// Waits until the bytes are on the disk.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| failed(e, "sync", &self.tmp, &self.path))
    }

    /// Gives the file its name, in place of one that had it.
    pub(super) fn finish(mut self) -> Result<()> {
        std::fs::rename(&self.tmp, &self.path).map_err(|e| {
            let other_disk = e.kind() == io::ErrorKind::CrossesDevices;
            let error = failed(e, "rename", &self.tmp, &self.path);
            if other_disk {
                error.with_hint("`relative_tmp_dir` leads to another file system than the base path's; leave it out")
            } else {
                error
            }
        })?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = std::fs::remove_file(&self.tmp);
        }
    }
}

/// Whether the file has a name that only this crate's writers give.
pub(super) fn is_name(name: &str) -> bool {
    let Some(middle) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX)) else { return false };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = middle.split('-').collect();
    let [process, random, n] = parts[..] else { return false };
    is_number(process) && is_number(n) && random.len() == 16 && random.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Who looks at the files that writers left behind finds this out about one.
pub(super) enum Writer {
    /// Or it wrote just now.
    Lives,
    /// The file has got its chunk's name, or was removed.
    Finished,
    Gone(LeftBehind),
    /// The file system cannot tell.
    Unknown(io::Error),
}

/// A file that no writer has in hand. Locked: a writer that has just made it sees that, and takes another name.
pub(super) struct LeftBehind {
    path: PathBuf,
    _lock: File,
}

impl LeftBehind {
    pub(super) fn remove(self) -> io::Result<()> {
        remove_if_there(&self.path)
    }
}

/// What became of the writer of a file that [`is_name`] knows. One that was changed within `min_age` counts as being written.
pub(super) fn writer_of(path: &Path, stat: &Metadata, min_age: Duration) -> io::Result<Writer> {
    let age = stat.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
    if age < min_age {
        return Ok(Writer::Lives);
    }
    // To write: NFS makes the lock of a whole file out of `flock`, and gives that to nobody who may only read.
    let opened = match File::options().read(true).write(true).open(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            File::open(path)
        }
        other => other,
    };
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Writer::Finished),
        Err(e) => return Err(e),
    };
    Ok(match file.try_lock() {
        Err(TryLockError::WouldBlock) => Writer::Lives,
        Err(TryLockError::Error(e)) => Writer::Unknown(e),
        // It was finished before it was locked.
        Ok(()) if path.symlink_metadata().is_err() => Writer::Finished,
        Ok(()) => Writer::Gone(LeftBehind { path: path.to_owned(), _lock: file }),
    })
}

/// Locks the new file; gives its mode, or 0. `None` if a scrub came between its making and its lock, and took it for one
/// that was left behind; then it is gone, because a scrub that only looks leaves it.
fn locked(file: &File, tmp: &Path) -> Option<u32> {
    let mode = match file.try_lock() {
        Ok(()) => file.metadata().ok().filter(|stat| stat.nlink() > 0).map(|stat| stat.mode()),
        Err(TryLockError::WouldBlock) => None,
        // A file system without locks: there a scrub cannot lock either, and removes nothing.
        Err(TryLockError::Error(_)) => Some(0),
    };
    if mode.is_none() {
        // What cannot be removed is left behind, and found by the next scrub.
        let _ = remove_if_there(tmp);
    }
    mode
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn failed(e: io::Error, step: &str, tmp: &Path, path: &Path) -> Error {
    Error::io(e, format_args!("{step} `{}` for `{}`", tmp.display(), path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writers_name_is_known_and_no_longer_than_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let writing = Writing::begin(dir.path(), dir.path().join("x"), 0o666).unwrap();
        let name = writing.tmp.file_name().unwrap().to_str().unwrap();
        assert!(is_name(name) && name.len() <= NAME_MAX, "{name}");
        let longest = format!("{PREFIX}{}-{:016x}-{}{SUFFIX}", u32::MAX, u64::MAX, u64::MAX);
        assert!(is_name(&longest) && longest.len() == NAME_MAX);
        for other in [".kvconn-1-2-3.tmp", ".kvconn-quota", "x.tmp", ".kvconn-1-0123456789abcdef-3.tmp.data"] {
            assert!(!is_name(other), "{other}");
        }
    }

    #[test]
    fn a_new_file_that_a_scrub_looks_at_is_given_up_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let tmp = dir.path().join("new");
        let file = File::create_new(&tmp).unwrap();
        let looked_at = File::open(&tmp).unwrap();
        looked_at.lock().unwrap();
        assert!(locked(&file, &tmp).is_none() && !tmp.exists());
        drop(looked_at);
        assert!(locked(&file, &tmp).is_none(), "the scrub has removed it");
    }

    #[test]
    fn the_lock_of_a_file_that_was_left_behind_is_asked_for_as_one_who_may_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("left");
        std::fs::write(&path, [0; 9]).unwrap();
        let stat = path.metadata().unwrap();
        let Ok(Writer::Gone(left)) = writer_of(&path, &stat, Duration::ZERO) else { panic!("nobody has it") };
        // Nothing is written; `set_len` to the same length shows that it could be.
        left._lock.set_len(9).unwrap();
        left.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_is_locked_while_it_is_written_and_gone_if_it_is_not_finished() {
        let dir = tempfile::tempdir().unwrap();
        let mut writing = Writing::begin(dir.path(), dir.path().join("x"), 0o666).unwrap();
        writing.write(b"head", b"body").unwrap();
        let tmp = writing.tmp.clone();
        assert!(matches!(File::open(&tmp).unwrap().try_lock(), Err(TryLockError::WouldBlock)));
        drop(writing);
        assert!(!tmp.exists() && !dir.path().join("x").exists());
    }
}
