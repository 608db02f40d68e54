//! The directories of a store: where they are, and how they are made.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use connector_core::{Error, ErrorKind, Namespace, Result};
use rustix::io::Errno;

use super::files::Place;
use super::folder::{Folder, Wait};
use super::read::Cache;
use super::{layout, write};

/// The directories that one call has opened. Without it, a batch would open them for each chunk.
pub(super) struct Opened<'a> {
    dirs: &'a Dirs,
    /// Apart from the others, because most calls need one directory, and a list is an allocation.
    first: Option<(usize, Folder)>,
    others: Vec<(usize, Folder)>,
}

impl Opened<'_> {
    /// The directory of a base path's chunks.
    pub(super) fn folder(&mut self, base: usize, wait: Wait) -> io::Result<Folder> {
        if let Some((_, folder)) = self.first.iter().chain(&self.others).find(|(opened, _)| *opened == base) {
            return Ok(folder.clone());
        }
        let folder = self.dirs.folder(base, wait)?;
        match &mut self.first {
            None => self.first = Some((base, folder.clone())),
            Some(_) => self.others.push((base, folder.clone())),
        }
        Ok(folder)
    }

    /// The directory of a chunk's file, and the file's name in it.
    pub(super) fn folder_of<'a>(&mut self, place: &'a Place, wait: Wait) -> io::Result<(Folder, &'a str)> {
        self.folder(place.base, wait)?.parent_of(&place.path, wait)
    }
}

/// The directories of a store.
pub(super) struct Dirs {
    bases: Vec<Base>,
    /// The directory of the chunks in each base path, which must not be a symlink: the chunks are in the base path
    /// itself unless set.
    namespace: Option<Namespace>,
    /// Below the directory of the chunks.
    tmp: Option<PathBuf>,
}

struct Base {
    path: Arc<Path>,
    /// The directory of the chunks.
    chunks: PathBuf,
    /// Whether its directories existed at some time.
    is_made: AtomicBool,
    /// Whether the directories' own names are on the disk, or do not have to be.
    is_synced: AtomicBool,
}

impl Base {
    fn is_ready(&self) -> bool {
        self.is_made.load(Ordering::Acquire) && self.is_synced.load(Ordering::Acquire)
    }
}

impl Dirs {
    /// `sync` says whether the first put waits until the names of the directories are on the disk.
    pub(super) fn new(
        base_paths: Vec<PathBuf>,
        namespace: Option<Namespace>,
        tmp: Option<PathBuf>,
        sync: bool,
    ) -> Self {
        let base = |path: PathBuf| Base {
            chunks: namespace.as_ref().map_or_else(|| path.clone(), |namespace| path.join(namespace.as_str())),
            path: path.into(),
            is_made: AtomicBool::new(false),
            is_synced: AtomicBool::new(!sync),
        };
        let bases = base_paths.into_iter().map(base).collect();
        let tmp = tmp.filter(|tmp| tmp.components().any(|part| matches!(part, Component::Normal(_))));
        Self { bases, namespace, tmp }
    }

    /// No open directories yet, for one call.
    pub(super) fn opened(&self) -> Opened<'_> {
        Opened { dirs: self, first: None, others: Vec::new() }
    }

    /// The number of base paths.
    pub(super) fn count(&self) -> usize {
        self.bases.len()
    }

    /// The path of the directory of a base path's chunks, for messages.
    pub(super) fn path(&self, base: usize) -> &Path {
        &self.bases[base].chunks
    }

    /// The directory of a base path's chunks.
    pub(super) fn folder(&self, base: usize, wait: Wait) -> io::Result<Folder> {
        let folder = Folder::open(self.bases[base].path.clone(), wait)?;
        match &self.namespace {
            Some(namespace) => folder.subfolder(namespace.as_str(), wait),
            None => Ok(folder),
        }
    }

    /// The first base path with the same path, as in `/a,/a`, so that its files are visited once.
    pub(super) fn first(&self, base: usize) -> usize {
        let path = &self.bases[base].path;
        self.bases.iter().position(|first| first.path == *path).unwrap_or(base)
    }

    /// The base paths to visit, each directory once.
    pub(super) fn distinct(&self) -> impl Iterator<Item = usize> {
        (0..self.count()).filter(|base| self.first(*base) == *base)
    }

    /// The directory of a chunk's file, and the file's name in it.
    pub(super) fn folder_of<'a>(&self, place: &'a Place, wait: Wait) -> io::Result<(Folder, &'a str)> {
        self.folder(place.base, wait)?.parent_of(&place.path, wait)
    }

    /// The directory in which a base path's chunks are written, below `folder`; `None` if that is `folder` itself.
    pub(super) fn tmp_folder(&self, folder: &Folder) -> io::Result<Option<Folder>> {
        self.tmp.as_ref().map(|tmp| folder.below(tmp)).transpose()
    }

    /// Whether a directory of this name, beside the chunks, leads to [`tmp_folder`](Self::tmp_folder).
    pub(super) fn is_tmp(&self, name: &str) -> bool {
        self.tmp.as_ref().is_some_and(|tmp| tmp.starts_with(name) || tmp.starts_with(format!("./{name}")))
    }

    /// Whether the base path may be missing, because no put has made it yet.
    pub(super) fn may_be_missing(&self, base: usize, e: &io::Error) -> bool {
        e.kind() == io::ErrorKind::NotFound && !self.bases[base].is_made.load(Ordering::Acquire)
    }

    /// Checks that the directories exist or can be made, and examines their file systems: which calls the page cache
    /// answers, and the longest name of a file. The first put makes the directories, so that a get from a new store
    /// does not make any.
    pub(super) fn examine(&self) -> Result<(Cache, usize)> {
        let (mut caches, mut longest) = (Vec::new(), layout::NAME_MAX);
        for (n, base) in self.bases.iter().enumerate() {
            let existing = existing_or_creatable(&base.chunks)?;
            caches.push(Cache::of(existing));
            longest = longest.min(name_max(existing)?);
            if let Some(tmp) = &self.tmp {
                same_file_system(&base.chunks, &base.chunks.join(tmp))?;
            }
            match self.folder(n, Wait::Yes).and_then(|folder| self.tmp_folder(&folder)) {
                Ok(_) => base.is_made.store(true, Ordering::Release),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(e, format_args!("open the directory `{}`", base.chunks.display()))),
            }
        }
        let cache = match caches[..] {
            [first, ref others @ ..] if others.iter().all(|other| *other == first) => first,
            _ => Cache::Never,
        };
        Ok((cache, longest))
    }

    /// Checks that the base paths can be listed or, before the first put, can be made.
    pub(super) fn ping(&self) -> Result<()> {
        (0..self.count()).try_for_each(|n| match self.folder(n, Wait::Yes).and_then(|folder| folder.entries()) {
            Ok(_) => Ok(()),
            Err(e) if self.may_be_missing(n, &e) => existing_or_creatable(self.path(n)).map(drop),
            Err(e) => Err(Error::io(e, format_args!("reach the base path `{}`", self.path(n).display()))),
        })
    }

    /// Makes the directories, once. A directory that is missing later is not made again: its disk may be unmounted. An
    /// error counts for base path `base`, or for all.
    pub(super) fn make(&self, base: usize, all: bool) -> Result<()> {
        if self.bases[base].is_ready() && !all {
            return Ok(());
        }
        self.bases.iter().enumerate().try_for_each(|(n, other)| match self.make_base(other) {
            Err(_) if n != base && !all => Ok(()),
            done => done,
        })
    }

    fn make_base(&self, base: &Base) -> Result<()> {
        if base.is_ready() {
            return Ok(());
        }
        let made = base.is_made.load(Ordering::Acquire);
        let dir = self.tmp.as_ref().map_or_else(|| base.chunks.clone(), |tmp| base.chunks.join(tmp));
        let existing = nearest_existing(&dir).to_owned();
        if !made {
            self.make_dirs(&base.path).map_err(|e| Error::io(e, format_args!("create `{}`", dir.display())))?;
        }
        if !base.is_synced.load(Ordering::Acquire) {
            sync_parents(&dir, &existing, |above| {
                let synced = Folder::open(above.into(), Wait::Yes).and_then(|folder| folder.sync());
                synced.map_err(|e| Error::io(e, format_args!("sync the directory `{}`", above.display())))
            })?;
        }
        base.is_made.store(true, Ordering::Release);
        base.is_synced.store(true, Ordering::Release);
        Ok(())
    }

    fn make_dirs(&self, base: &Path) -> io::Result<()> {
        std::fs::create_dir_all(base)?;
        let mut folder = Folder::open(base.into(), Wait::Yes)?;
        if let Some(namespace) = &self.namespace {
            folder.make(Path::new(namespace.as_str()))?;
            folder = folder.subfolder(namespace.as_str(), Wait::Yes)?;
        }
        for component in self.tmp.iter().flat_map(|tmp| tmp.components()) {
            if let Component::Normal(name) = component {
                folder.make(Path::new(name))?;
                folder = folder.below(Path::new(name))?;
            }
        }
        Ok(())
    }
}

/// The path itself, or the directory above in which it can be made.
fn existing_or_creatable(base: &Path) -> Result<&Path> {
    let existing = nearest_existing(base);
    let failed = |e: io::Error| {
        Error::io(e, format_args!("create the base path `{}` below `{}`", base.display(), existing.display()))
    };
    if !existing.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    if existing != base {
        let writable = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(existing, writable).map_err(|e| failed(e.into()))?;
    }
    Ok(existing)
}

/// The path itself, or the nearest directory above that exists.
pub(super) fn nearest_existing(path: &Path) -> &Path {
    let existing = path.ancestors().find(|p| !p.as_os_str().is_empty() && p.symlink_metadata().is_ok());
    existing.unwrap_or(Path::new("."))
}

/// Longest file name below the path, in bytes: 143 on eCryptfs, for one.
fn name_max(path: &Path) -> Result<usize> {
    let failed = |e: Errno| Error::io(e.into(), format_args!("examine `{}`", path.display()));
    let max = rustix::fs::statvfs(path).map_err(failed)?.f_namemax;
    // Some FUSE file systems do not know it and say 0.
    let max = if max == 0 { layout::NAME_MAX } else { usize::try_from(max).unwrap_or(layout::NAME_MAX) };
    if max < write::NAME_MAX {
        let (path, needed) = (path.display(), write::NAME_MAX);
        let why = format!("file names below `{path}` have at most {max} bytes, and a store needs {needed}");
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    Ok(max)
}

/// Refuses a directory for temporary files from which no file can be renamed into the base path.
fn same_file_system(base: &Path, tmp: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let (Ok(base_stat), Ok(tmp_stat)) = (base.metadata(), tmp.metadata()) else { return Ok(()) };
    if base_stat.dev() == tmp_stat.dev() {
        return Ok(());
    }
    let (base, tmp) = (base.display(), tmp.display());
    let why = format!("option `relative_tmp_dir`: `{tmp}` is on another file system than `{base}`");
    Err(Error::new(ErrorKind::InvalidOption, why)
        .with_hint("a file cannot be renamed from there; leave the option out"))
}

/// Syncs every directory above `dir`, because each holds the name of the next. An error counts only if kvconn made
/// `dir`, and only from `existing` on down: kvconn may not be allowed to read the directories above.
fn sync_parents(dir: &Path, existing: &Path, mut sync: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    dir.ancestors().skip(1).try_for_each(|above| match sync(above) {
        Err(_) if !above.starts_with(existing) || dir == existing => Ok(()),
        done => done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_directories_above_are_synced_and_an_error_counts_for_those_that_were_made() {
        let dir = Path::new("/a/b/c/d");
        for existing in ["/a/b", "/a/b/c/d"] {
            let mut synced = Vec::new();
            sync_parents(dir, Path::new(existing), |above| {
                synced.push(above.to_owned());
                Ok(())
            })
            .unwrap();
            assert_eq!(synced, ["/a/b/c", "/a/b", "/a", "/"].map(PathBuf::from), "{existing}");
        }
        let fails = |at: &str, existing: &str| {
            sync_parents(dir, Path::new(existing), |above| match above == Path::new(at) {
                true => Err(Error::new(ErrorKind::Denied, "not this one")),
                false => Ok(()),
            })
            .is_err()
        };
        assert!(fails("/a/b/c", "/a/b") && fails("/a/b", "/a/b"), "kvconn made a name there");
        assert!(!fails("/a", "/a/b") && !fails("/a/b/c", "/a/b/c/d"), "kvconn made no name there");
    }
}
