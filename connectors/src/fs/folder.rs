//! A directory, and the files in it.
//!
//! A chunk's name may belong to anything: a symlink to `/etc/shadow`, a pipe, a device. So a file is named by the
//! descriptor of its directory and one component, which is never followed. Only regular files are opened: even opening
//! is an event for a device, and for the writer of a pipe. The path of the directory itself may contain symlinks.
//! Directories between it and a file are opened one by one in the same way.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RawMode};
use rustix::io::Errno;

/// Opens a directory only as a place.
#[cfg(target_os = "linux")]
const PATH: OFlags = OFlags::PATH;
/// Other systems open it for reading.
#[cfg(not(target_os = "linux"))]
const PATH: OFlags = OFlags::RDONLY;

/// Whether a call may wait for a disk. Only blocking threads may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Yes,
    No,
}

/// An open directory. Opened anew for each call, so that kvconn neither keeps a file system mounted nor uses a
/// directory that was replaced. Clones share one descriptor.
#[derive(Clone)]
pub(super) struct Folder {
    fd: Arc<OwnedFd>,
    /// For messages.
    path: Arc<Path>,
}

/// The state of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stat {
    pub(super) kind: FileType,
    pub(super) mode: RawMode,
    pub(super) bytes: u64,
    pub(super) accessed: SystemTime,
    pub(super) modified: SystemTime,
}

impl Folder {
    /// Opens a directory by its path, which may contain symlinks.
    pub(super) fn open(path: Arc<Path>, wait: Wait) -> io::Result<Self> {
        Self::open_at(CWD, &path.clone(), path, OFlags::empty(), wait)
    }

    /// Opens a directory in this one that is not a symlink.
    pub(super) fn subfolder(&self, name: &str, wait: Wait) -> io::Result<Self> {
        Self::open_at(&self.fd, Path::new(name), self.path.join(name).into(), OFlags::NOFOLLOW, wait)
    }

    /// Opens a directory below this one; the path may contain symlinks.
    pub(super) fn below(&self, path: &Path) -> io::Result<Self> {
        Self::open_at(&self.fd, path, self.path.join(path).into(), OFlags::empty(), Wait::Yes)
    }

    /// The directory that holds the last component of `path`, and that component. Below this directory, kvconn follows
    /// no symlink: a file behind one is not found.
    pub(super) fn parent_of(self, path: &str, wait: Wait) -> io::Result<(Self, &str)> {
        self.descend(path, |folder, name| folder.subfolder(name, wait)).map_err(|e| match e.kind() {
            io::ErrorKind::NotADirectory => io::ErrorKind::NotFound.into(),
            _ => e,
        })
    }

    /// Like [`parent_of`](Self::parent_of), and makes missing directories. With `sync`, waits until their names are on
    /// the disk.
    pub(super) fn make_parent_of(self, path: &str, sync: bool) -> io::Result<(Self, &str)> {
        self.descend(path, |folder, name| {
            let found = match folder.subfolder(name, Wait::Yes) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    folder.make(Path::new(name))?;
                    folder.subfolder(name, Wait::Yes)?
                }
                found => found?,
            };
            // Another process may have made the directory just before, and its name is not on the disk yet.
            if sync {
                folder.sync()?;
            }
            Ok(found)
        })
    }

    fn descend(self, path: &str, open: impl Fn(&Self, &str) -> io::Result<Self>) -> io::Result<(Self, &str)> {
        let (mut folder, mut rest) = (self, path);
        while let Some((name, below)) = rest.split_once('/') {
            (folder, rest) = (open(&folder, name)?, below);
        }
        Ok((folder, rest))
    }

    fn open_at(dir: impl AsFd, name: &Path, path: Arc<Path>, flags: OFlags, wait: Wait) -> io::Result<Self> {
        let fd = openat(dir, name, PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | flags, wait)?;
        Ok(Self { fd: fd.into(), path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a directory in this one, unless it exists.
    pub(super) fn make(&self, name: &Path) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o777)) {
            Err(Errno::EXIST) | Ok(()) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The state of anything with this name, `None` if there is nothing.
    pub(super) fn stat(&self, name: impl rustix::path::Arg) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Stat::of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The state of anything with this name, `None` if there is nothing. With [`Wait::No`] it fails where it would wait:
    /// `statx` has no flag for this, but `openat2` has, and a descriptor with `O_PATH` opens no device or pipe.
    pub(super) fn state(&self, name: &str, wait: Wait) -> io::Result<Option<Stat>> {
        if wait == Wait::Yes {
            return self.stat(name);
        }
        match openat(&self.fd, Path::new(name), PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, wait) {
            Ok(opened) => Ok(Some(Stat::of(&rustix::fs::fstat(&opened)?))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The state of a regular file. `None` if the name is free, or belongs to anything else.
    pub(super) fn stat_file(&self, name: &str) -> io::Result<Option<Stat>> {
        Ok(self.stat(name)?.filter(Stat::is_file))
    }

    /// Opens a regular file. `None` if the name is free, or belongs to anything else.
    pub(super) fn open_file(&self, name: &str, flags: OFlags, wait: Wait) -> io::Result<Option<(File, Stat)>> {
        let is_openable = match self.state(name, wait)? {
            Some(stat) => stat.is_file(),
            // A network file system may answer from memory that nothing is there, where `open` asks the server.
            None => wait == Wait::Yes,
        };
        if !is_openable {
            return Ok(None);
        }
        // Something else may have this name by now.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match openat(&self.fd, Path::new(name), flags, wait) {
            Ok(file) => File::from(file),
            // Nothing, a symlink, a socket, a device without a driver, a directory.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NODEV | Errno::ISDIR) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let stat = Stat::of(&rustix::fs::fstat(&file)?);
        Ok(stat.is_file().then_some((file, stat)))
    }

    /// Whether this process may read the file.
    pub(super) fn is_readable(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::accessat(&self.fd, name, rustix::fs::Access::READ_OK, AtFlags::EACCESS)?)
    }

    /// Makes a file that does not exist yet.
    pub(super) fn create_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(openat(&self.fd, Path::new(name), flags, Wait::Yes)?.into())
    }

    /// Removes anything but a directory.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    /// Gives a file of this directory another name, in place of an older file.
    pub(super) fn rename(&self, name: &str, to: &Self, new: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.fd, name, &to.fd, new)?)
    }

    /// All names in the directory, except `.` and `..`.
    pub(super) fn entries(&self) -> io::Result<Entries> {
        Ok(Entries(Dir::new(self.reopened()?)?))
    }

    /// Waits until the names are on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        match rustix::fs::fsync(self.reopened()?) {
            // The file system cannot sync a directory, so kvconn can do no more for its names.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                tracing::debug!(directory = %self.path.display(), "fsync: the file system does not sync directories");
                Ok(())
            }
            done => Ok(done?),
        }
    }

    /// The index node, which tells directories of a file system apart.
    pub(super) fn inode(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_ino)
    }

    /// The directory with a descriptor that can read.
    fn reopened(&self) -> rustix::io::Result<OwnedFd> {
        openat(&self.fd, Path::new("."), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Wait::Yes)
    }
}

fn openat(dir: impl AsFd, name: &Path, flags: OFlags, wait: Wait) -> rustix::io::Result<OwnedFd> {
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
    match wait {
        Wait::Yes => rustix::io::retry_on_intr(|| rustix::fs::openat(&dir, name, flags, mode)),
        #[cfg(target_os = "linux")]
        Wait::No => rustix::fs::openat2(dir, name, flags, mode, rustix::fs::ResolveFlags::CACHED),
        // Other systems cannot say whether `open` would wait.
        #[cfg(not(target_os = "linux"))]
        Wait::No => Err(Errno::AGAIN),
    }
}

impl Stat {
    fn of(stat: &rustix::fs::Stat) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode,
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            accessed: time(stat.st_atime, stat.st_atime_nsec),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
        }
    }

    pub(super) fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::of(&rustix::fs::fstat(file)?))
    }

    pub(super) fn is_file(&self) -> bool {
        self.kind.is_file()
    }
}

/// May be before 1970. The type of the nanoseconds differs between systems.
fn time(seconds: i64, nanoseconds: impl TryInto<u64>) -> SystemTime {
    let nanoseconds = nanoseconds.try_into().unwrap_or(0);
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let second =
        if seconds < 0 { SystemTime::UNIX_EPOCH.checked_sub(whole) } else { SystemTime::UNIX_EPOCH.checked_add(whole) };
    second.and_then(|second| second.checked_add(Duration::from_nanos(nanoseconds))).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Reads a directory. Holds a descriptor, but no thread.
pub(super) struct Entries(Dir);

/// A name in a directory.
pub(super) struct Entry(rustix::fs::DirEntry);

impl Entry {
    pub(super) fn name(&self) -> &CStr {
        self.0.file_name()
    }

    /// The name, if it is UTF-8: every chunk's name is.
    pub(super) fn text(&self) -> Option<&str> {
        self.name().to_str().ok()
    }

    pub(super) fn path_in(&self, folder: &Folder) -> PathBuf {
        folder.path.join(OsStr::from_bytes(self.name().to_bytes()))
    }

    /// The kind, `Unknown` if the file system does not say.
    pub(super) fn kind(&self) -> FileType {
        self.0.file_type()
    }
}

impl Iterator for Entries {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.read()? {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(entry) => return Some(Ok(Entry(entry))),
                Err(e) => return Some(Err(e.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_syncs_no_directories_is_passed_over() {
        let proc = Folder::open(Path::new("/proc").into(), Wait::Yes).unwrap();
        assert_eq!(rustix::fs::fsync(proc.reopened().unwrap()), Err(Errno::INVAL));
        proc.sync().unwrap();
    }

    #[test]
    fn times_before_1970_and_after_are_right() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("x")).unwrap();
        let nanosecond = Duration::from_nanos(1_500_000_001);
        for at in [SystemTime::UNIX_EPOCH - nanosecond, SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + nanosecond] {
            file.set_modified(at).unwrap();
            assert_eq!(Stat::of_file(&file).unwrap().modified, at);
        }
    }
}
