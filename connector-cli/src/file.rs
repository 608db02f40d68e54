//! Writes the file that the user named with `-o`.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use connectors::Error;
use tempfile::NamedTempFile;

use crate::exit::Failure;
use crate::interrupt::Interrupt;
use crate::output::users;

/// Bytes between two checks of the interrupt.
const SLICE: usize = 8 << 20;

/// Writes the bytes to `path`.
///
/// A new file, and the user's own plain file, get their name when they are complete. Anything else is kept, and written
/// in place: a device, a pipe, the target of a link, a mount point, a file with more names or another owner. The same
/// holds for a file in a directory that takes no new files.
pub(crate) fn write(path: &Path, bytes: &[u8], interrupt: &Interrupt) -> Result<(), Failure> {
    let failed = |e| Error::io(e, format_args!("write `{}`", users(&path.to_string_lossy())));
    let Some(old) = existing(path).map_err(failed)? else {
        let new = fill(temporary(path, None).map_err(failed)?, bytes, interrupt, failed)?;
        return Ok(new.persist(path).map(drop).map_err(|e| failed(e.error))?);
    };
    if let Some(new) = replacement(path, &old).map_err(failed)?
        && fill(new, bytes, interrupt, failed)?.persist(path).is_ok()
    {
        return Ok(());
    }
    match interrupt.blocking(|| write_through(path, bytes)) {
        // The reader of a pipe has all that it wanted.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written.map_err(failed)?),
    }
}

/// A file that takes the name `path` when it is complete. `None` if the bytes must go [`through`] what has that name.
pub(crate) fn whole(path: &Path) -> io::Result<Option<NamedTempFile>> {
    match existing(path)? {
        Some(old) => replacement(path, &old),
        None => temporary(path, None).map(Some),
    }
}

/// The file that a link leads to. Any other path, and a link without such a file, stay as they are.
pub(crate) fn behind_link(path: &Path) -> PathBuf {
    let target = path.is_symlink().then(|| path.canonicalize().ok()).flatten();
    target.filter(|target| target.is_file()).unwrap_or_else(|| path.to_owned())
}

fn existing(path: &Path) -> io::Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Ok(old) => Ok(Some(old)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// A temporary file that may take the place of the old one. `None` if bytes must go through the old one.
fn replacement(path: &Path, old: &Metadata) -> io::Result<Option<NamedTempFile>> {
    if !old.is_file() || has_more_names(old) {
        return Ok(None);
    }
    may_write(path)?;
    let new = match temporary(path, Some(old)) {
        Ok(new) => new,
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    Ok(have_one_owner(old, &new.as_file().metadata()?).then_some(new))
}

/// A temporary file beside `path`, with the permissions of the old file or of any new one. Dropping it removes it.
fn temporary(path: &Path, old: Option<&Metadata>) -> io::Result<NamedTempFile> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".kvconn-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Less the umask. `tempfile` would use 0o600.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    std::fs::metadata(dir)?;
    // Its own error shows the temporary name, which the user did not write.
    let new = builder.tempfile_in(dir).map_err(|e| io::Error::from(e.kind()))?;
    if let Some(old) = old {
        new.as_file().set_permissions(old.permissions())?;
    }
    Ok(new)
}

/// Writes the bytes. An interrupt removes the file.
fn fill(
    mut new: NamedTempFile,
    bytes: &[u8],
    interrupt: &Interrupt,
    failed: impl Fn(io::Error) -> Error,
) -> Result<NamedTempFile, Failure> {
    for slice in bytes.chunks(SLICE) {
        if interrupt.is_set() {
            return Err(Failure::Interrupted);
        }
        new.write_all(slice).map_err(&failed)?;
    }
    Ok(new)
}

fn write_through(path: &Path, bytes: &[u8]) -> io::Result<()> {
    through(path)?.write_all(bytes)
}

/// Opens the file, device or pipe of this name, or the target of a link, to write it. The open of a pipe waits for its reader.
pub(crate) fn through(path: &Path) -> io::Result<File> {
    // A link may lead to a file that does not exist. For other files in `/tmp`, the kernel may refuse `O_CREAT`.
    OpenOptions::new().write(true).truncate(true).create(path.is_symlink()).open(path)
}

/// A file that the user may not write must not be replaced either.
#[cfg(unix)]
fn may_write(path: &Path) -> io::Result<()> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    Ok(accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?)
}

#[cfg(not(unix))]
fn may_write(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn has_more_names(file: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(file) > 1
}

#[cfg(unix)]
fn have_one_owner(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.uid(), a.gid()) == (b.uid(), b.gid())
}

#[cfg(not(unix))]
fn has_more_names(_: &Metadata) -> bool {
    false
}

#[cfg(not(unix))]
fn have_one_owner(_: &Metadata, _: &Metadata) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_leaves_the_old_file_and_no_temporary_file() {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let path = dir.path().join("chunk");
        std::fs::write(&path, "old").expect("the file can be written");
        for path in [&path, &dir.path().join("new")] {
            assert!(matches!(write(path, b"new", &Interrupt::already_set()), Err(Failure::Interrupted)));
        }
        assert_eq!(std::fs::read(&path).expect("the file is there"), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).expect("the directory is there").count(), 1);
    }
}
