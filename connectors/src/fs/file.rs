//! The files of a store: where they are, and how they are written and removed.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use connector_core::metadata::raw_layout;
use connector_core::{
    CacheKey, ChunkHeader, ChunkLayout, ConnectorContext, Error, ErrorKind, KeyKind, LMCacheMetadata, MemoryObj, Result,
};

use super::cached::{self, Cache};
use super::commit::Work;
use super::direct::Direct;
use super::quota::Quota;
use super::writing::{self, Link, Writing};
use super::{FsOptions, Fsync, layout, record};

/// What the files of a store have in common.
pub(super) struct Files {
    pub(super) base_paths: Vec<PathBuf>,
    pub(super) tmp_dir: Option<PathBuf>,
    /// Whether an in-process key's file starts with a header.
    pub(super) with_header: bool,
    pub(super) metadata: Option<Arc<LMCacheMetadata>>,
    /// How many bytes of a raw file are read first.
    pub(super) read_ahead_size: Option<u64>,
    /// If values pass the page cache by.
    pub(super) direct: Option<Direct>,
    pub(super) fsync: Fsync,
    pub(super) quota: Option<Quota>,
    /// How the page cache can be asked on the spot: found out by [`prepare`](Self::prepare).
    pub(super) cache: Cache,
    /// How a file without a name gets one, if it can: found out by the first put.
    pub(super) link: OnceLock<Option<Link>>,
    /// Longest file name: found out by [`prepare`](Self::prepare).
    pub(super) name_max: usize,
    /// Whether all directories were there at some time.
    pub(super) made: AtomicBool,
    /// Whether the directories' own names are on the disk, or need not be.
    pub(super) named: AtomicBool,
    /// Whoever renames or removes holds the one of the last digit of the key's hash.
    pub(super) turns: [Mutex<()>; 16],
}

impl Files {
    /// Files with headers, and without anything that is an option.
    pub(super) fn new(base_paths: Vec<PathBuf>) -> Self {
        Self {
            base_paths,
            tmp_dir: None,
            with_header: true,
            metadata: None,
            read_ahead_size: None,
            direct: None,
            fsync: Fsync::Never,
            quota: None,
            cache: Cache::Never,
            link: OnceLock::new(),
            name_max: layout::NAME_MAX,
            made: AtomicBool::new(false),
            named: AtomicBool::new(true),
            turns: Default::default(),
        }
    }

    /// The files that a URL and its options speak of. Touches no disk yet.
    pub(super) fn of(ctx: &ConnectorContext) -> Result<Self> {
        let options: FsOptions = ctx.options()?;
        options.check(ctx)?;
        let (base_paths, tmp_dir) = (options.base_paths(ctx)?, options.tmp_dir()?);
        Ok(Self {
            named: AtomicBool::new(options.fsync != Fsync::Full),
            with_header: options.with_header(ctx),
            metadata: ctx.metadata().cloned(),
            read_ahead_size: options.read_ahead_size,
            direct: options.use_odirect.then(Direct::default),
            fsync: options.fsync,
            quota: options.capacity.map(|bytes| Quota::new(bytes, base_paths.clone(), tmp_dir.as_deref())),
            tmp_dir,
            ..Self::new(base_paths)
        })
    }

    /// Looks whether the directories are there, or could be made, and what they lie on. They are made by the first put: a
    /// look into a store that is not there should not leave one behind.
    pub(super) fn prepare(mut self) -> Result<Self> {
        let mut caches = Vec::new();
        let mut all_there = true;
        for base in &self.base_paths {
            let there = there_or_above(base)?;
            all_there &= there == base && self.tmp_dir.as_ref().is_none_or(|tmp| base.join(tmp).is_dir());
            caches.push(Cache::of(there));
            self.name_max = self.name_max.min(name_max(there)?);
            if let Some(tmp) = &self.tmp_dir {
                same_file_system(base, &base.join(tmp))?;
            }
        }
        let first = caches.first().copied().unwrap_or(Cache::Never);
        // What should pass the page cache by is not asked of it.
        let may_ask = self.direct.is_none() && caches.iter().all(|other| *other == first);
        self.cache = if may_ask { first } else { Cache::Never };
        self.made = AtomicBool::new(all_there);
        Ok(self)
    }

    /// Makes the directories, once: one that was there and is gone (an unmounted disk) is not made again in its place.
    fn make(&self) -> Result<()> {
        let (made, named) = (self.made.load(Ordering::Acquire), self.named.load(Ordering::Acquire));
        if made && named {
            return Ok(());
        }
        for base in &self.base_paths {
            let dir = self.tmp_dir.as_ref().map_or_else(|| base.clone(), |tmp| base.join(tmp));
            let there = nearest_existing(&dir).to_owned();
            if !made {
                std::fs::create_dir_all(&dir).map_err(|e| Error::io(e, format_args!("create `{}`", dir.display())))?;
            }
            if !named {
                sync_names(&dir, &there, sync_dir)?;
            }
        }
        self.made.store(true, Ordering::Release);
        self.named.store(true, Ordering::Release);
        Ok(())
    }

    fn base(&self, key: &CacheKey) -> &Path {
        match &self.base_paths[..] {
            [one] => one,
            several => &several[key.hash_modulo(several.len())],
        }
    }

    pub(super) fn path(&self, key: &CacheKey) -> Result<PathBuf> {
        layout::path(self.base(key), key, self.name_max)
    }

    pub(super) fn is_raw(&self, key: &CacheKey) -> bool {
        !self.with_header || key.kind() == KeyKind::Object
    }

    /// Refuses a chunk that a get could not give back, and makes its header.
    pub(super) fn check(&self, key: &CacheKey, chunk: &ChunkLayout) -> Result<Option<ChunkHeader>> {
        layout::check(key, self.name_max)?;
        if self.is_raw(key) {
            self.quota.as_ref().map_or(Ok(()), |quota| quota.check(chunk.len as u64))?;
            return match raw_layout(self.metadata.as_deref(), chunk.len) {
                Ok(_) => Ok(None),
                Err(e) => Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("a raw file could not give it back: {}", e.message()),
                )),
            };
        }
        let header = ChunkHeader::faithful(chunk)?;
        let bytes = header.as_bytes().len() + chunk.len;
        self.quota.as_ref().map_or(Ok(()), |quota| quota.check(bytes as u64))?;
        Ok(Some(header))
    }

    /// Writes the chunk under a name of its own, and renames it unless the work was cancelled.
    pub(super) fn write(
        &self,
        key: &CacheKey,
        header: Option<&ChunkHeader>,
        chunk: &MemoryObj,
        work: &Work,
    ) -> Result<()> {
        if work.is_cancelled() {
            return Ok(());
        }
        let mut writing = self.begin(key)?;
        let header = header.map_or(&[][..], ChunkHeader::as_bytes);
        match &self.direct {
            // No file has a header then.
            Some(direct) => writing.write_direct(direct, chunk)?,
            None => writing.write(header, chunk)?,
        }
        record::record(key, writing.file(), writing.mode());
        if self.fsync != Fsync::Never {
            writing.sync()?;
        }
        let _renaming = self.turn(key);
        let Some(quota) = &self.quota else {
            return if work.commit() { self.finish(writing) } else { Ok(()) };
        };
        let (path, bytes) = (writing.path().to_owned(), (header.len() + chunk.len()) as u64);
        quota.replace(&path, bytes, work, || self.finish(writing))
    }

    /// Whether a put waits for nothing but memory, so that [`write_cached`](Self::write_cached) has it.
    pub(super) fn writes_on_the_spot(&self) -> bool {
        self.cache == Cache::Memory && self.quota.is_none() && self.fsync == Fsync::Never
    }

    /// As [`write`](Self::write), on the spot: for a file system that is memory. Lets other tasks run in between; if the
    /// future is dropped there, nothing was renamed.
    pub(super) async fn write_cached(
        &self,
        key: &CacheKey,
        header: Option<&ChunkHeader>,
        chunk: &MemoryObj,
    ) -> Result<()> {
        let mut writing = self.begin(key)?;
        let mut header = header.map_or(&[][..], ChunkHeader::as_bytes);
        for slice in chunk.chunks(cached::SLICE) {
            writing.write(std::mem::take(&mut header), slice)?;
            tokio::task::yield_now().await;
        }
        writing.write(header, &[])?;
        record::record(key, writing.file(), writing.mode());
        let _renaming = self.turn(key);
        writing.finish()
    }

    /// One at a time changes what a name stands for: work that was just past its last look at a dropped future must not
    /// undo what came after it.
    fn turn(&self, key: &CacheKey) -> MutexGuard<'_, ()> {
        let last = key.chunk_hash_hex().chars().next_back().and_then(|digit| digit.to_digit(16)).unwrap_or(0);
        self.turns[last as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, key: &CacheKey) -> Result<Writing<'_>> {
        self.make()?;
        let base = self.base(key);
        let dir = self.tmp_dir.as_ref().map_or(Cow::Borrowed(base), |tmp| base.join(tmp).into());
        // Of other file systems it is not known what they make of it; and btrfs forgets the sync of a file without a name.
        let may_be_nameless = self.cache != Cache::Never && self.fsync == Fsync::Never;
        let link = if may_be_nameless { *self.link.get_or_init(|| Link::of(&dir)) } else { None };
        Writing::begin(dir, self.path(key)?, record::mode_of_new_file(key), link)
    }

    fn finish(&self, writing: Writing<'_>) -> Result<()> {
        if self.fsync != Fsync::Full {
            return writing.finish();
        }
        let path = writing.path().to_owned();
        writing.finish()?;
        if let Some(dir) = path.parent()
            && let Err(e) = sync_dir(dir)
        {
            // A put that failed leaves the old chunk or none.
            let _ = std::fs::remove_file(&path);
            return Err(e);
        }
        Ok(())
    }

    pub(super) fn remove(&self, key: &CacheKey, work: &Work) -> Result<bool> {
        let path = self.path(key)?;
        let _removing = self.turn(key);
        let remove = || {
            if !work.commit() || record::is_others_at(key, &path) {
                return Ok(false);
            }
            match std::fs::remove_file(&path) {
                Ok(()) if self.fsync == Fsync::Full => path.parent().map_or(Ok(()), sync_dir).map(|()| true),
                Ok(()) => Ok(true),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(e) => Err(Error::io(e, format_args!("remove `{}`", path.display()))),
            }
        };
        match &self.quota {
            Some(quota) => quota.remove(&path, remove),
            None => remove(),
        }
    }

    /// Whether the base paths can be listed or, before the first put, could be made.
    pub(super) fn ping(&self) -> Result<()> {
        self.base_paths.iter().try_for_each(|base| match std::fs::read_dir(base) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound && !self.made.load(Ordering::Acquire) => {
                there_or_above(base).map(drop)
            }
            Err(e) => Err(Error::io(e, format_args!("reach the base path `{}`", base.display()))),
        })
    }
}

/// The path itself, or the directory above in which it can be made.
fn there_or_above(base: &Path) -> Result<&Path> {
    let there = nearest_existing(base);
    let cannot = |e: io::Error| {
        Error::io(e, format_args!("create the base path `{}` below `{}`", base.display(), there.display()))
    };
    if !there.is_dir() {
        return Err(cannot(io::ErrorKind::NotADirectory.into()));
    }
    if there != base {
        let writable = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
        rustix::fs::access(there, writable).map_err(|e| cannot(e.into()))?;
    }
    Ok(there)
}

/// The path itself, or what there is of it.
fn nearest_existing(path: &Path) -> &Path {
    let there = path.ancestors().find(|p| !p.as_os_str().is_empty() && p.symlink_metadata().is_ok());
    there.unwrap_or(Path::new("."))
}

/// Longest file name below the path, in bytes: 143 on eCryptfs, for one.
fn name_max(path: &Path) -> Result<usize> {
    let failed = |e: rustix::io::Errno| Error::io(e.into(), format_args!("ask about `{}`", path.display()));
    let max = rustix::fs::statvfs(path).map_err(failed)?.f_namemax;
    // Some file systems of user space say 0, because they do not know.
    let max = if max == 0 { layout::NAME_MAX } else { usize::try_from(max).unwrap_or(layout::NAME_MAX) };
    if max < writing::NAME_MAX {
        let (path, needed) = (path.display(), writing::NAME_MAX);
        let why = format!("file names below `{path}` have at most {max} bytes, and a store needs {needed}");
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    Ok(max)
}

/// Refuses a directory for temporary files from which nothing can be renamed into the base path.
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

/// Syncs every directory above `dir`, each of which has the name of the one below. Those above `there` were not made here,
/// but maybe by another process a moment ago: of them, one that cannot be synced (it may not be read) is nobody's error.
fn sync_names(dir: &Path, there: &Path, mut sync: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    dir.ancestors().skip(1).try_for_each(|above| match sync(above) {
        Err(_) if !above.starts_with(there) || dir == there => Ok(()),
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
    use connector_core::ErrorKind;

    use super::*;

    #[test]
    fn the_names_of_all_directories_above_are_synced_and_those_that_were_made_must_be() {
        let dir = Path::new("/a/b/c/d");
        for there in ["/a/b", "/a/b/c/d"] {
            let mut synced = Vec::new();
            sync_names(dir, Path::new(there), |above| {
                synced.push(above.to_owned());
                Ok(())
            })
            .unwrap();
            assert_eq!(synced, ["/a/b/c", "/a/b", "/a", "/"].map(PathBuf::from), "{there}");
        }
        let fails = |at: &'static str, there: &'static str| {
            sync_names(dir, Path::new(there), |above| match above == Path::new(at) {
                true => Err(Error::new(ErrorKind::Denied, "not this one")),
                false => Ok(()),
            })
            .is_err()
        };
        assert!(fails("/a/b/c", "/a/b") && fails("/a/b", "/a/b"), "a new name that is not on the disk");
        assert!(!fails("/a", "/a/b") && !fails("/a/b/c", "/a/b/c/d"), "somebody else's");
    }
}
