//! Writes a chunk's file under a temporary name, and renames it when it is complete.

use std::collections::hash_map::RandomState;
use std::fs::{File, TryLockError};
use std::hash::BuildHasher;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use connector_core::{Error, Result};
use rustix::fs::OFlags;

use super::direct::Direct;
use super::files;
use super::folder::{Folder, Stat, Wait};

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
    tmp_name: String,
    /// `None` if the file is written where it ends.
    tmp: Option<Folder>,
    name: String,
    folder: Folder,
    is_renamed: bool,
}

impl NewFile {
    /// Makes an empty file in `tmp`, or else in `folder`, to become `name` in `folder`.
    pub(super) fn create(tmp: Option<Folder>, folder: Folder, name: String) -> Result<Self> {
        loop {
            let (dir, tmp_name) = (tmp.as_ref().unwrap_or(&folder), tmp_name());
            let file = dir.create_file(&tmp_name).map_err(|e| failed(dir, &tmp_name, &folder, &name, "create", e))?;
            if lock_new(&file, dir, &tmp_name) {
                return Ok(Self { file, tmp_name, tmp, name, folder, is_renamed: false });
            }
        }
    }

    /// The state of the file.
    pub(super) fn stat(&self) -> Result<Stat> {
        Stat::of_file(&self.file).map_err(|e| self.failed(e, "look at"))
    }

    fn dir(&self) -> &Folder {
        self.tmp.as_ref().unwrap_or(&self.folder)
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

    /// The directory in which the file ends.
    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Removes the file after its [`rename`](Self::rename).
    pub(super) fn undo(self) {
        let _ = self.folder.remove(&self.name);
    }

    /// Gives the file its name, in place of an older file.
    pub(super) fn rename(&mut self) -> Result<()> {
        self.dir().rename(&self.tmp_name, &self.folder, &self.name).map_err(|e| {
            let kind = e.kind();
            let e = self.failed(e, "rename");
            match kind {
                io::ErrorKind::CrossesDevices if self.tmp.is_some() => e.with_hint(
                    "`relative_tmp_dir` and the directories of the chunks must be on the base path's file system",
                ),
                io::ErrorKind::IsADirectory => e.with_hint("a directory has the chunk's name: move it away"),
                _ => e,
            }
        })?;
        self.is_renamed = true;
        Ok(())
    }

    fn failed(&self, e: io::Error, step: &str) -> Error {
        failed(self.dir(), &self.tmp_name, &self.folder, &self.name, step, e)
    }
}

fn failed(dir: &Folder, tmp: &str, folder: &Folder, name: &str, step: &str, e: io::Error) -> Error {
    let (tmp, path) = (dir.path().join(tmp), folder.path().join(name));
    files::failed(e, format_args!("{step} `{}` for `{}`", tmp.display(), path.display()))
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_renamed {
            let _ = self.dir().remove(&self.tmp_name);
        }
    }
}

/// A name that no other writer uses.
fn tmp_name() -> String {
    /// Processes in several containers may share a process id.
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{:016x}-{n}{SUFFIX}", std::process::id(), *PROCESS)
}

/// Locks a new file. `false` if a scrub locked the file first, as one that was left behind. The file is then removed,
/// because not every scrub removes the files that it finds.
fn lock_new(file: &File, dir: &Folder, name: &str) -> bool {
    let is_ours = match file.try_lock() {
        Ok(()) => file.metadata().is_ok_and(|stat| stat.nlink() > 0),
        Err(TryLockError::WouldBlock) => false,
        // On a file system without locks a scrub cannot lock either, and removes nothing.
        Err(TryLockError::Error(_)) => true,
    };
    if !is_ours {
        // If this fails, the next scrub finds the file.
        let _ = dir.remove(name);
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
    _lock: File,
}

impl LeftBehind {
    /// Removes the file, whose name in the directory is `name`.
    pub(super) fn remove(self, dir: &Folder, name: &str) -> io::Result<()> {
        match dir.remove(name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// The state of a temporary file. A file that changed within `min_age` is in use.
pub(super) fn tmp_state(dir: &Folder, name: &str, stat: &Stat, min_age: Duration) -> io::Result<TmpState> {
    let now = SystemTime::now();
    // A time far after now shows that a clock was set back, not that the writer is alive.
    let age = now.duration_since(stat.modified).unwrap_or_else(|ahead| ahead.duration());
    if age < min_age {
        return Ok(TmpState::InUse);
    }
    // Opened for writing: NFS turns `flock` into a lock of the whole file, which needs write access.
    let opened = match dir.open_file(name, OFlags::RDWR, Wait::Yes) {
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            dir.open_file(name, OFlags::RDONLY, Wait::Yes)
        }
        opened => opened,
    };
    let Some((file, _)) = opened? else { return Ok(TmpState::Gone) };
    Ok(match file.try_lock() {
        Err(TryLockError::WouldBlock) => TmpState::InUse,
        Err(TryLockError::Error(e)) => TmpState::Unknown(e),
        // The file was renamed before it was locked.
        Ok(()) if dir.stat(name)?.is_none() => TmpState::Gone,
        Ok(()) => TmpState::LeftBehind(LeftBehind { _lock: file }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_is_recognized_and_within_its_limit() {
        let name = tmp_name();
        assert!(is_tmp_name(&name) && name.len() <= NAME_MAX, "{name}");
        let longest = format!("{PREFIX}{}-{:016x}-{}{SUFFIX}", u32::MAX, u64::MAX, u64::MAX);
        assert!(is_tmp_name(&longest) && longest.len() == NAME_MAX);
        for other in [".kvconn-1-2-3.tmp", ".kvconn-quota", "x.tmp", ".kvconn-1-0123456789abcdef-3.tmp.data"] {
            assert!(!is_tmp_name(other), "{other}");
        }
    }

    fn folder(dir: &tempfile::TempDir) -> Folder {
        Folder::open(dir.path().into(), Wait::Yes).unwrap()
    }

    #[test]
    fn a_new_file_that_a_scrub_locked_is_given_up_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tmp = dir.path().join("new");
        let file = File::create_new(&tmp).unwrap();
        let scrub = File::open(&tmp).unwrap();
        scrub.lock().unwrap();
        assert!(!lock_new(&file, &folder(&dir), "new") && !tmp.exists());
        drop(scrub);
        assert!(!lock_new(&file, &folder(&dir), "new"), "the scrub has removed it");
    }

    #[test]
    fn a_file_that_was_left_behind_is_locked_through_a_writable_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("left");
        std::fs::write(&path, [0; 9]).unwrap();
        let folder = folder(&dir);
        let stat = folder.stat("left").unwrap().unwrap();
        let Ok(TmpState::LeftBehind(left)) = tmp_state(&folder, "left", &stat, Duration::ZERO) else {
            panic!("it has no writer")
        };
        // Fails on a descriptor that can only read.
        left._lock.set_len(9).unwrap();
        left.remove(&folder, "left").unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_time_far_in_the_future_is_not_a_sign_of_life() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("left")).unwrap();
        let folder = folder(&dir);
        for (ahead, is_in_use) in [(30, true), (3600, false)] {
            file.set_modified(SystemTime::now() + Duration::from_secs(ahead)).unwrap();
            let stat = folder.stat("left").unwrap().unwrap();
            let state = tmp_state(&folder, "left", &stat, Duration::from_secs(60)).unwrap();
            assert_eq!(matches!(state, TmpState::InUse), is_in_use, "{ahead} seconds ahead");
        }
    }

    #[test]
    fn a_file_is_locked_while_it_is_written_and_removed_if_it_is_not_renamed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let new = || NewFile::create(None, folder(&dir), "x".to_owned()).unwrap();
        let mut dropped = new();
        dropped.write(b"", b"body").unwrap();
        let tmp = dir.path().join(&dropped.tmp_name);
        assert!(matches!(File::open(&tmp).unwrap().try_lock(), Err(TryLockError::WouldBlock)));
        drop(dropped);
        assert!(!tmp.exists() && !path.exists());
        let mut renamed = new();
        renamed.write(b"bo", b"dy").unwrap();
        renamed.rename().unwrap();
        drop(renamed);
        assert_eq!(std::fs::read(&path).unwrap(), b"body");
    }
}
