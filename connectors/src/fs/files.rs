//! The files of a store: how chunks are stored and removed.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connector_core::raw_layout;
use connector_core::{
    CacheKey, ChunkHeader, ChunkLayout, ConnectorContext, Error, ErrorKind, KeyKind, LMCacheMetadata, MemoryObj,
    MemoryObjMut, Result,
};

use super::cancel::Work;
use super::direct::Direct;
use super::dirs::{Dirs, Opened};
use super::folder::{Folder, Wait};
use super::quota::{Made, Quota, Search, Turn};
use super::read::{self, Cache, ChunkFile};
use super::write::NewFile;
use super::{FsOptions, Fsync, Layout, layout};

/// The directories of a store, and the options of its files.
pub(super) struct Files {
    pub(super) dirs: Dirs,
    pub(super) layout: Layout,
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
    /// Held while a name changes; the last digit of the key's hash selects one.
    pub(super) name_locks: [Mutex<()>; 16],
}

/// A key's file: the index of its base path, and its path below the directory of the chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) base: usize,
    pub(super) path: String,
}

impl Files {
    /// The files that the URL and its options name. Does not touch the disk.
    pub(super) fn of(ctx: &ConnectorContext) -> Result<Self> {
        let options: FsOptions = ctx.options()?;
        options.check(ctx)?;
        let (base_paths, tmp) = (options.base_paths(ctx)?, options.tmp_dir()?);
        let dirs = Dirs::new(base_paths, options.namespace.clone(), tmp, options.fsync == Fsync::Full);
        Ok(Self {
            dirs,
            layout: options.layout,
            with_header: options.with_header(ctx),
            // Another engine's values are not LMCache's chunks.
            metadata: ctx.metadata().filter(|_| options.layout == Layout::Lmcache).cloned(),
            read_ahead_size: options.read_ahead_size,
            direct: options.use_odirect.then(Direct::default),
            fsync: options.fsync,
            quota: options.capacity.map(|capacity| Quota::new(capacity, options.layout)),
            cache: Cache::Never,
            name_max: layout::NAME_MAX,
            name_locks: Default::default(),
        })
    }

    /// Checks the directories and examines their file systems.
    pub(super) fn prepare(mut self) -> Result<Self> {
        let (cache, name_max) = self.dirs.examine()?;
        // With `use_odirect` a read does not try the page cache first.
        self.cache = if self.direct.is_none() { cache } else { Cache::Never };
        self.name_max = name_max;
        Ok(self)
    }

    /// Fails if a base path does not exist or cannot be listed.
    pub(super) fn check_existing(self) -> Result<Self> {
        for base in 0..self.dirs.count() {
            let path = self.dirs.path(base).display();
            let listed = self.dirs.folder(base, Wait::Yes).and_then(|folder| folder.entries());
            listed.map_err(|e| {
                let is_missing = e.kind() == std::io::ErrorKind::NotFound;
                let e = Error::io(e, format_args!("open the store `{path}`"));
                if is_missing { e.with_hint("check the path; the first put makes the directory") } else { e }
            })?;
        }
        Ok(self)
    }

    /// Where the key's file is.
    ///
    /// # Errors
    /// `InvalidKey` if the store cannot name the key.
    pub(super) fn place(&self, key: &CacheKey) -> Result<Place> {
        let base = match self.dirs.count() {
            1 => 0,
            several => self.dirs.first(key.hash_modulo(several)),
        };
        Ok(Place { base, path: self.layout.path_within(key, self.name_max)? })
    }

    /// Whether the memory is for this chunk. Another engine's file of another length is from another model or
    /// configuration, so it is not the chunk that the engine asks for.
    pub(super) fn fills(&self, file: &ChunkFile, memory: &MemoryObjMut) -> bool {
        self.layout == Layout::Lmcache || file.layout.len == memory.len()
    }

    /// The file's path, for messages.
    pub(super) fn path(&self, place: &Place) -> PathBuf {
        self.dirs.path(place.base).join(&place.path)
    }

    /// The error of a step with the key's file.
    pub(super) fn failed(&self, place: &Place, step: &str, e: io::Error) -> Error {
        failed(e, format_args!("{step} `{}`", self.path(place).display()))
    }

    pub(super) fn is_raw(&self, key: &CacheKey) -> bool {
        !self.with_header || key.kind() == KeyKind::Object
    }

    /// Makes the chunk's header, and refuses a chunk that a get could not give back.
    pub(super) fn header(&self, key: &CacheKey, chunk: &ChunkLayout) -> Result<Option<ChunkHeader>> {
        let header = if self.is_raw(key) {
            raw_layout(self.metadata.as_deref(), chunk.len).map_err(|e| {
                let why = format!("a raw value could not give it back: {}", e.message());
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

    /// Writes a chunk's file under a temporary name; `None` if the work was cancelled.
    pub(super) fn write(
        &self,
        opened: &mut Opened<'_>,
        key: &CacheKey,
        header: Option<&ChunkHeader>,
        chunk: &MemoryObj,
        work: &Work,
    ) -> Result<Option<NewFile>> {
        if work.is_cancelled() {
            return Ok(None);
        }
        let mut file = self.create(opened, key)?;
        let header = header.map_or(&[][..], ChunkHeader::as_bytes);
        match &self.direct {
            // `O_DIRECT` excludes headers.
            Some(direct) => file.write_direct(direct, chunk)?,
            None => file.write(header, chunk)?,
        }
        if self.fsync != Fsync::Never {
            file.sync()?;
        }
        Ok(Some(file))
    }

    /// Stores a chunk in a store without a quota, unless the work is cancelled before the file has its name.
    pub(super) fn put(
        &self,
        opened: &mut Opened<'_>,
        key: &CacheKey,
        header: Option<&ChunkHeader>,
        chunk: &MemoryObj,
        work: &Work,
    ) -> Result<()> {
        let Some(file) = self.write(opened, key, header, chunk, work)? else { return Ok(()) };
        let _lock = self.lock_name(key);
        if work.commit() { self.rename(file) } else { Ok(()) }
    }

    /// Makes room for the file and gives it its name, unless the work is cancelled before. Gives the file back if the search for
    /// room must go on.
    pub(super) fn put_within(
        &self,
        (quota, turn): (&Quota, Turn),
        key: &CacheKey,
        file: NewFile,
        search: &mut Search,
        work: &Work,
    ) -> Result<Option<NewFile>> {
        let new = (&self.place(key)?, file.stat()?);
        let mut file = Some(file);
        let made = quota.replace(turn, &self.dirs, new, search, work, || {
            let _lock = self.lock_name(key);
            file.take().map_or(Ok(()), |file| self.rename(file))
        })?;
        Ok(file.filter(|_| made == Made::Part))
    }

    /// Makes room for the key's file on its full disk. Only for a store with a quota.
    pub(super) fn make_room(
        &self,
        turn: Turn,
        key: &CacheKey,
        bytes: u64,
        search: &mut Search,
        work: &Work,
    ) -> Result<Made> {
        let want = (&self.place(key)?, bytes);
        self.quota.as_ref().map_or(Ok(Made::Nothing), |quota| quota.make_room(turn, &self.dirs, want, search, work))
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
        let mut file = self.create(&mut self.dirs.opened(), key)?;
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

    fn create(&self, opened: &mut Opened<'_>, key: &CacheKey) -> Result<NewFile> {
        let place = self.place(key)?;
        // The sum of a quota covers all base paths.
        self.dirs.make(place.base, self.quota.is_some())?;
        let mut open = || {
            let folder = opened.folder(place.base, Wait::Yes)?;
            let mut tmp = self.dirs.tmp_folder(&folder)?;
            if tmp.is_none() && !self.layout.is_flat() {
                // One directory for all temporary files, so that a scan finds them.
                tmp = Some(folder.clone());
            }
            let (folder, name) = folder.make_parent_of(&place.path, self.fsync == Fsync::Full)?;
            Ok((tmp, folder, name.to_owned()))
        };
        let (tmp, folder, name) = open().map_err(|e: io::Error| {
            let is_link = e.kind() == io::ErrorKind::NotADirectory && !self.layout.is_flat();
            let e = self.failed(&place, "open the directory of", e);
            if is_link {
                e.with_hint("kvconn follows no link below the base path: move the file or link away")
            } else {
                e
            }
        })?;
        NewFile::create(tmp, folder, name)
    }

    fn rename(&self, mut file: NewFile) -> Result<()> {
        file.rename()?;
        // A put that failed leaves the old chunk or none.
        self.sync_name(file.folder()).inspect_err(|_| file.undo())
    }

    /// With `fsync=full`, waits until a name or its removal is on the disk.
    fn sync_name(&self, folder: &Folder) -> Result<()> {
        if self.fsync != Fsync::Full {
            return Ok(());
        }
        folder.sync().map_err(|e| Error::io(e, format_args!("sync the directory `{}`", folder.path().display())))
    }

    /// Whether there is a file to remove.
    pub(super) fn has_file(&self, key: &CacheKey) -> Result<bool> {
        let place = self.place(key)?;
        let stat = self.dirs.folder_of(&place, Wait::Yes).and_then(|(folder, name)| folder.stat_file(name));
        match stat {
            Ok(stat) => Ok(stat.is_some()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.failed(&place, "look at", e)),
        }
    }

    /// Removes the chunk, unless the work is cancelled before. `turn` is for a store with a quota.
    pub(super) fn remove(&self, key: &CacheKey, turn: Option<Result<Turn>>, work: &Work) -> Result<bool> {
        let place = self.place(key)?;
        let remove = || {
            let _lock = self.lock_name(key);
            if !work.commit() {
                return Ok(false);
            }
            let removed = || {
                let (folder, name) = self.dirs.folder_of(&place, Wait::Yes)?;
                // Anything else under the name is not a chunk.
                if folder.stat_file(name)?.is_none() {
                    return Ok(None);
                }
                folder.remove(name).map(|()| Some(folder))
            };
            match removed() {
                Ok(Some(folder)) => self.sync_name(&folder).map(|()| true),
                Ok(None) => Ok(false),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(e) => Err(self.failed(&place, "remove", e)),
            }
        };
        match (&self.quota, turn) {
            (Some(quota), Some(turn)) => quota.remove(turn, &self.dirs, &place, work, remove),
            _ => remove(),
        }
    }
}

/// The error of a step with a key's file.
pub(super) fn failed(e: io::Error, step: impl std::fmt::Display) -> Error {
    // The store's own limit is the one that the file system states.
    if e.kind() == io::ErrorKind::InvalidFilename {
        return Error::new(ErrorKind::InvalidKey, format!("cannot {step}: {e}"))
            .with_hint("the file system takes shorter names than it states: use a shorter model name")
            .with_source(e);
    }
    Error::io(e, step)
}
