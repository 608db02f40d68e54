//! The files of a store: where they are, how chunks are stored and removed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connector_core::raw_layout;
use connector_core::{
    CacheKey, ChunkHeader, ChunkLayout, ConnectorContext, Error, ErrorKind, KeyKind, LMCacheMetadata, MemoryObj, Result,
};

use super::cancel::Work;
use super::direct::Direct;
use super::quota::Quota;
use super::read::{self, Cache};
use super::write::{self, NewFile};
use super::{FsOptions, Fsync, layout};

/// The directories of a store, and the options of its files.
pub(super) struct Files {
    pub(super) base_paths: Vec<PathBuf>,
    pub(super) tmp_dir: Option<PathBuf>,
    /// Whether an in-process key's file starts with a header.
    pub(super) with_header: bool,
    pub(super) metadata: Option<Arc<LMCacheMetadata>>,
    /// How many bytes of a raw file are read first.
    pub(super) read_ahead_size: Option<u64>,
    /// With `use_odirect`.
    pub(super) direct: Option<Direct>,
    pub(super) fsync: Fsync,
    pub(super) quota: Option<Quota>,
    /// Set by [`prepare`](Self::prepare).
    pub(super) cache: Cache,
    /// Longest file name, in bytes. Set by [`prepare`](Self::prepare).
    pub(super) name_max: usize,
    /// Whether all directories existed at some time.
    pub(super) are_dirs_made: AtomicBool,
    /// Whether the directories' own names are on the disk, or do not have to be.
    pub(super) are_dirs_synced: AtomicBool,
    /// Held while a name changes; the last digit of the key's hash selects one.
    pub(super) name_locks: [Mutex<()>; 16],
}

impl Files {
    /// The files that the URL and its options name. Does not touch the disk.
    pub(super) fn of(ctx: &ConnectorContext) -> Result<Self> {
        let options: FsOptions = ctx.options()?;
        options.check(ctx)?;
        let (base_paths, tmp_dir) = (options.base_paths(ctx)?, options.tmp_dir()?);
        Ok(Self {
            with_header: options.with_header(ctx),
            metadata: ctx.metadata().cloned(),
            read_ahead_size: options.read_ahead_size,
            direct: options.use_odirect.then(Direct::default),
            fsync: options.fsync,
            quota: options.capacity.map(|bytes| Quota::new(bytes, base_paths.clone(), tmp_dir.as_deref())),
            cache: Cache::Never,
            name_max: layout::NAME_MAX,
            are_dirs_made: AtomicBool::new(false),
            are_dirs_synced: AtomicBool::new(options.fsync != Fsync::Full),
            name_locks: Default::default(),
            base_paths,
            tmp_dir,
        })
    }

    /// Checks that the directories exist or can be made, and examines their file system. The first put makes them, so
    /// that a get from a new store does not make any.
    pub(super) fn prepare(mut self) -> Result<Self> {
        let mut caches = Vec::new();
        let mut all_exist = true;
        for base in &self.base_paths {
            let existing = existing_or_creatable(base)?;
            all_exist &= existing == base && self.tmp_dir.as_ref().is_none_or(|tmp| base.join(tmp).is_dir());
            caches.push(Cache::of(existing));
            self.name_max = self.name_max.min(name_max(existing)?);
            if let Some(tmp) = &self.tmp_dir {
                same_file_system(base, &base.join(tmp))?;
            }
        }
        // With `use_odirect` a read does not try the page cache first.
        self.cache = match caches[..] {
            [first, ref others @ ..] if self.direct.is_none() && others.iter().all(|other| *other == first) => first,
            _ => Cache::Never,
        };
        self.are_dirs_made = AtomicBool::new(all_exist);
        Ok(self)
    }

    /// Makes the directories, once. A directory that is missing later is not made again: its disk may be unmounted.
    fn make_dirs(&self) -> Result<()> {
        let (made, synced) = (self.are_dirs_made.load(Ordering::Acquire), self.are_dirs_synced.load(Ordering::Acquire));
        if made && synced {
            return Ok(());
        }
        for base in &self.base_paths {
            let dir = self.tmp_dir(base);
            let existing = nearest_existing(&dir).to_owned();
            if !made {
                std::fs::create_dir_all(&dir).map_err(|e| Error::io(e, format_args!("create `{}`", dir.display())))?;
            }
            if !synced {
                sync_parents(&dir, &existing, sync_dir)?;
            }
        }
        self.are_dirs_made.store(true, Ordering::Release);
        self.are_dirs_synced.store(true, Ordering::Release);
        Ok(())
    }

    /// The directory in which the files of a base path are written.
    fn tmp_dir(&self, base: &Path) -> PathBuf {
        self.tmp_dir.as_ref().map_or_else(|| base.to_owned(), |tmp| base.join(tmp))
    }

    fn base(&self, key: &CacheKey) -> &Path {
        match &self.base_paths[..] {
            [one] => one,
            several => &several[key.hash_modulo(several.len())],
        }
    }

    /// The path of the key's file.
    ///
    /// # Errors
    /// `InvalidKey` if the store cannot name the key.
    pub(super) fn path(&self, key: &CacheKey) -> Result<PathBuf> {
        Ok(self.base(key).join(layout::reversible_name(key, self.name_max)?))
    }

    pub(super) fn is_raw(&self, key: &CacheKey) -> bool {
        !self.with_header || key.kind() == KeyKind::Object
    }

    /// Makes the chunk's header, and refuses a chunk that a get could not give back.
    pub(super) fn header(&self, key: &CacheKey, chunk: &ChunkLayout) -> Result<Option<ChunkHeader>> {
        let header = if self.is_raw(key) {
            raw_layout(self.metadata.as_deref(), chunk.len).map_err(|e| {
                let why = format!("a raw file could not give it back: {}", e.message());
                Error::new(ErrorKind::InvalidInput, why)
            })?;
            None
        } else {
            Some(ChunkHeader::faithful(chunk)?)
        };
        if let Some(quota) = &self.quota {
            let bytes = header.as_ref().map_or(0, |header| header.as_bytes().len()) + chunk.len;
            quota.check(bytes as u64)?;
        }
        Ok(header)
    }

    /// Stores a chunk, unless the work is cancelled before the file has its name.
    pub(super) fn put(
        &self,
        key: &CacheKey,
        header: Option<&ChunkHeader>,
        chunk: &MemoryObj,
        work: &Work,
    ) -> Result<()> {
        if work.is_cancelled() {
            return Ok(());
        }
        let mut file = self.create(key)?;
        let header = header.map_or(&[][..], ChunkHeader::as_bytes);
        match &self.direct {
            // `O_DIRECT` excludes headers.
            Some(direct) => file.write_direct(direct, chunk)?,
            None => file.write(header, chunk)?,
        }
        if self.fsync != Fsync::Never {
            file.sync()?;
        }
        let _lock = self.lock_name(key);
        let Some(quota) = &self.quota else {
            return if work.commit() { self.rename(file) } else { Ok(()) };
        };
        let (path, bytes) = (file.path().to_owned(), (header.len() + chunk.len()) as u64);
        quota.replace(&path, bytes, work, || self.rename(file))
    }

    /// Whether a put never waits, so that [`put_on_executor`](Self::put_on_executor) can do it.
    pub(super) fn puts_without_waiting(&self) -> bool {
        self.cache == Cache::Memory && self.quota.is_none() && self.fsync == Fsync::Never
    }

    /// Like [`put`](Self::put), without a blocking thread. Yields between slices; if the future is dropped there, the file is
    /// removed.
    pub(super) async fn put_on_executor(
        &self,
        key: &CacheKey,
        header: Option<&ChunkHeader>,
        chunk: &MemoryObj,
    ) -> Result<()> {
        let mut file = self.create(key)?;
        let mut header = header.map_or(&[][..], ChunkHeader::as_bytes);
        for slice in chunk.chunks(read::SLICE) {
            file.write(std::mem::take(&mut header), slice)?;
            tokio::task::yield_now().await;
        }
        // A chunk without bytes has no slice.
        file.write(header, &[])?;
        let _lock = self.lock_name(key);
        file.rename()
    }

    /// Orders the changes of a name: a put that was dropped just after its commit must not undo a later put.
    fn lock_name(&self, key: &CacheKey) -> MutexGuard<'_, ()> {
        self.name_locks[key.hash_modulo(self.name_locks.len())].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, key: &CacheKey) -> Result<NewFile> {
        let path = self.path(key)?;
        self.make_dirs()?;
        NewFile::create(&self.tmp_dir(self.base(key)), path)
    }

    fn rename(&self, file: NewFile) -> Result<()> {
        let path = file.path().to_owned();
        file.rename()?;
        if let Err(e) = self.sync_name(&path) {
            // A put that failed leaves the old chunk or none.
            let _ = std::fs::remove_file(&path);
            return Err(e);
        }
        Ok(())
    }

    /// With `fsync=full`, waits until the name or its removal is on the disk.
    fn sync_name(&self, path: &Path) -> Result<()> {
        match path.parent() {
            Some(dir) if self.fsync == Fsync::Full => sync_dir(dir),
            _ => Ok(()),
        }
    }

    pub(super) fn remove(&self, key: &CacheKey, work: &Work) -> Result<bool> {
        let path = self.path(key)?;
        let _lock = self.lock_name(key);
        let remove = || {
            if !work.commit() {
                return Ok(false);
            }
            match std::fs::remove_file(&path) {
                Ok(()) => self.sync_name(&path).map(|()| true),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(e) => Err(Error::io(e, format_args!("remove `{}`", path.display()))),
            }
        };
        match &self.quota {
            Some(quota) => quota.remove(&path, remove),
            None => remove(),
        }
    }

    /// Checks that the base paths can be listed or, before the first put, can be made.
    pub(super) fn ping(&self) -> Result<()> {
        self.base_paths.iter().try_for_each(|base| match std::fs::read_dir(base) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !self.are_dirs_made.load(Ordering::Acquire) => {
                existing_or_creatable(base).map(drop)
            }
            Err(e) => Err(Error::io(e, format_args!("reach the base path `{}`", base.display()))),
        })
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
fn nearest_existing(path: &Path) -> &Path {
    let existing = path.ancestors().find(|p| !p.as_os_str().is_empty() && p.symlink_metadata().is_ok());
    existing.unwrap_or(Path::new("."))
}

/// Longest file name below the path, in bytes: 143 on eCryptfs, for one.
fn name_max(path: &Path) -> Result<usize> {
    let failed = |e: rustix::io::Errno| Error::io(e.into(), format_args!("examine `{}`", path.display()));
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

/// Syncs every directory above `dir`, because each holds the name of the next. An error counts only if kvconn made `dir`, and
/// only from `existing` on down: kvconn may not be allowed to read the directories above.
fn sync_parents(dir: &Path, existing: &Path, mut sync: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    dir.ancestors().skip(1).try_for_each(|above| match sync(above) {
        Err(_) if !above.starts_with(existing) || dir == existing => Ok(()),
        done => done,
    })
}

/// Waits until the directory's names are on the disk.
fn sync_dir(dir: &Path) -> Result<()> {
    let synced = std::fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| Error::io(e, format_args!("sync the directory `{}`", dir.display())))
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
