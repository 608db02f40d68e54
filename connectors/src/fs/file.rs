//! One chunk's file: written under a name of its own and renamed, read in place. What takes [`Wait::Yes`] or no [`Wait`] at
//! all may block.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use connector_core::metadata::raw_layout;
use connector_core::{
    CacheKey, ChunkHeader, ChunkLayout, Error, ErrorKind, KeyKind, LMCacheMetadata, MemoryObj, MemoryObjMut, Result,
};

use super::cached::Cache;
use super::commit::Work;
use super::writing::Writing;
use super::{cached, layout};

/// Holds the key of a file whose name another key could have, too.
const KEY_ATTRIBUTE: &str = "user.kvconn.key";

/// What the files of a store have in common.
pub(super) struct Files {
    pub(super) base_paths: Vec<PathBuf>,
    pub(super) tmp_dir: Option<PathBuf>,
    /// Whether an in-process key's file starts with a header.
    pub(super) with_header: bool,
    pub(super) metadata: Option<std::sync::Arc<LMCacheMetadata>>,
    /// How many bytes the kernel is asked to read ahead.
    pub(super) read_ahead_size: Option<u64>,
    /// How the page cache can be asked on the spot: found out by [`prepare`](Self::prepare).
    pub(super) cache: Cache,
    /// Whether all directories were there at some time.
    pub(super) made: AtomicBool,
    /// Whoever renames or removes holds the one of the key's hash.
    pub(super) turns: [Mutex<()>; 16],
}

/// Whether the disk may be waited for: only on a blocking thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Yes,
    No,
}

/// What a look for a chunk finds.
pub(super) enum Look {
    Miss,
    Found(Found),
    /// Only with [`Wait::No`].
    WouldBlock,
}

/// A file that is open and understood, to be read into memory.
pub(super) struct Found {
    file: File,
    path: PathBuf,
    offset: u64,
    pub(super) layout: ChunkLayout,
}

impl Files {
    /// Looks whether the directories are there, or could be made, and what they lie on. They are made by the first put: a
    /// look into a store that is not there should not leave one behind.
    pub(super) fn prepare(mut self) -> Result<Self> {
        let mut caches = Vec::new();
        let mut all_there = true;
        for base in &self.base_paths {
            let there = nearest_existing(base);
            all_there &= there == base && self.tmp_dir.as_ref().is_none_or(|tmp| base.join(tmp).is_dir());
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
            caches.push(Cache::of(there));
        }
        let first = caches.first().copied().unwrap_or(Cache::Never);
        self.cache = if caches.iter().all(|other| *other == first) { first } else { Cache::Never };
        self.made = AtomicBool::new(all_there);
        Ok(self)
    }

    /// Makes the directories, once: one that was there and is gone (an unmounted disk) is not made again in its place.
    fn make(&self) -> Result<()> {
        if self.made.load(Ordering::Acquire) {
            return Ok(());
        }
        for base in &self.base_paths {
            let dir = self.tmp_dir.as_ref().map_or_else(|| base.clone(), |tmp| base.join(tmp));
            std::fs::create_dir_all(&dir).map_err(|e| Error::io(e, format_args!("create `{}`", dir.display())))?;
        }
        self.made.store(true, Ordering::Release);
        Ok(())
    }

    fn base(&self, key: &CacheKey) -> &Path {
        match &self.base_paths[..] {
            [one] => one,
            several => &several[key.hash_modulo(several.len())],
        }
    }

    fn path(&self, key: &CacheKey) -> Result<PathBuf> {
        Ok(self.base(key).join(layout::file_name(key)?))
    }

    fn is_raw(&self, key: &CacheKey) -> bool {
        !self.with_header || key.kind() == KeyKind::Object
    }

    /// Whether the key's file is there and holds what can be a chunk; `None` if only waiting can tell.
    pub(super) fn exists(&self, key: &CacheKey, wait: Wait) -> Result<Option<bool>> {
        match self.find(key, wait) {
            Ok(Look::Found(_)) => Ok(Some(true)),
            Ok(Look::Miss) => Ok(Some(false)),
            Ok(Look::WouldBlock) => Ok(None),
            // A prefix ends before it.
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok(Some(false)),
            Err(e) => Err(e),
        }
    }

    /// Opens the key's file and finds out what it holds.
    pub(super) fn find(&self, key: &CacheKey, wait: Wait) -> Result<Look> {
        let path = self.path(key)?;
        let opened = match wait {
            Wait::Yes => open(&path).and_then(|file| {
                let stat = file.metadata()?;
                Ok((file, stat.is_file(), stat.len()))
            }),
            Wait::No => cached::open(&path).and_then(|file| {
                let (is_file, len) = cached::stat(&file)?;
                Ok((file, is_file, len))
            }),
        };
        let (file, is_file, len) = match opened {
            Ok(opened) => opened,
            Err(e) if is_absent(&e) => return Ok(Look::Miss),
            Err(_) if wait == Wait::No => return Ok(Look::WouldBlock),
            Err(e) => return Err(Error::io(e, format_args!("open `{}`", path.display()))),
        };
        if let (Some(bytes), Wait::Yes) = (self.read_ahead_size, wait) {
            // Only a hint.
            let _ = rustix::fs::fadvise(&file, 0, NonZeroU64::new(bytes), rustix::fs::Advice::WillNeed);
        }
        if !is_file || self.is_others(key, || attribute_of_file(&file)) {
            return Ok(Look::Miss);
        }
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let (header_len, layout) = if self.is_raw(key) {
            (0, raw_layout(self.metadata.as_deref(), bytes).map_err(|e| in_file(e, &path))?)
        } else {
            match read_header(bytes, |buffer| self.read_start(&file, buffer, wait)) {
                Ok((_, layout)) if !is_consistent(&layout) => {
                    let why = format!("its header speaks of `{layout}`, which does not agree with itself");
                    return Err(corrupt(&path, &why));
                }
                Ok(header) => header,
                Err(_) if wait == Wait::No => return Ok(Look::WouldBlock),
                Err(e) => return Err(in_file(e, &path)),
            }
        };
        Ok(Look::Found(Found { file, path, offset: header_len as u64, layout }))
    }

    /// Refuses a chunk that a get could not give back, and makes its header.
    pub(super) fn check(&self, key: &CacheKey, chunk: &ChunkLayout) -> Result<Option<ChunkHeader>> {
        layout::file_name(key)?;
        if self.is_raw(key) {
            return match raw_layout(self.metadata.as_deref(), chunk.len) {
                Ok(_) => Ok(None),
                Err(e) => Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("a raw file could not give it back: {}", e.message()),
                )),
            };
        }
        let header = ChunkHeader::new(chunk)?;
        let back = ChunkHeader::read(header.as_bytes())?;
        if !is_consistent(chunk) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("`{chunk}` does not agree with itself: shapes and dtypes do not make that length"),
            ));
        }
        if back != *chunk {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the chunk header would give `{chunk}` back as `{back}`"),
            )
            .with_hint("a binary chunk has the shape [bytes, 0, 0, 0], any other no dimension of 0 at its end"));
        }
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
        writing.write(header.map_or(&[], ChunkHeader::as_bytes), chunk)?;
        self.record(key, &writing);
        let _renaming = self.turn(key);
        if work.commit() { writing.finish() } else { Ok(()) }
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
        self.record(key, &writing);
        let _renaming = self.turn(key);
        writing.finish()
    }

    /// One at a time changes what a name stands for: work that was just past its last look at a dropped future must not
    /// undo what came after it.
    fn turn(&self, key: &CacheKey) -> MutexGuard<'_, ()> {
        self.turns[key.hash_modulo(self.turns.len())].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, key: &CacheKey) -> Result<Writing> {
        self.make()?;
        let base = self.base(key);
        let dir = self.tmp_dir.as_ref().map_or_else(|| base.to_owned(), |tmp| base.join(tmp));
        Writing::begin(&dir, self.path(key)?)
    }

    /// Records the key of a file whose name another key could have, too.
    fn record(&self, key: &CacheKey, writing: &Writing) {
        if layout::shares_its_name(key) {
            // Best effort: not every file system has extended attributes.
            let flags = rustix::fs::XattrFlags::empty();
            let _ = rustix::fs::fsetxattr(writing.file(), KEY_ATTRIBUTE, key.as_str().as_bytes(), flags);
        }
    }

    pub(super) fn remove(&self, key: &CacheKey, work: &Work) -> Result<bool> {
        let path = self.path(key)?;
        let _removing = self.turn(key);
        if !work.commit() {
            return Ok(false);
        }
        if self.is_others(key, || attribute_of_path(&path)) {
            return Ok(false);
        }
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if is_absent(&e) => Ok(false),
            Err(e) => Err(Error::io(e, format_args!("remove `{}`", path.display()))),
        }
    }

    /// Gives every key to `each`, until it says `false`.
    pub(super) fn list(&self, prefix: &str, mut each: impl FnMut(Result<CacheKey>) -> bool) {
        for base in &self.base_paths {
            let failed = |e| Error::io(e, format_args!("list `{}`", base.display()));
            let entries = match std::fs::read_dir(base) {
                Ok(entries) => entries,
                // Nothing was put yet.
                Err(e) if is_absent(&e) && !self.made.load(Ordering::Acquire) => continue,
                Err(e) => {
                    each(Err(failed(e)));
                    return;
                }
            };
            for entry in entries {
                let goes_on = match entry {
                    Err(e) => each(Err(failed(e))),
                    Ok(entry) => match entry.file_name().to_str().and_then(|name| key_of_entry(name, &entry.path())) {
                        Some(key) if key.as_str().starts_with(prefix) => each(Ok(key)),
                        _ => true,
                    },
                };
                if !goes_on {
                    return;
                }
            }
        }
    }

    pub(super) fn ping(&self) -> Result<()> {
        self.base_paths.iter().try_for_each(|base| {
            let unreachable = |e| Error::io(e, format_args!("reach the base path `{}`", base.display()));
            std::fs::read_dir(base).map(drop).map_err(unreachable)
        })
    }

    /// Fills the buffer from the file's beginning.
    fn read_start(&self, file: &File, buffer: &mut [u8], wait: Wait) -> io::Result<()> {
        match wait {
            Wait::Yes => file.read_exact_at(buffer, 0),
            Wait::No => cached::read_exact_at(self.cache, file, buffer, 0),
        }
    }

    /// Whether the file's record names another key.
    fn is_others(&self, key: &CacheKey, recorded: impl FnOnce() -> Option<Vec<u8>>) -> bool {
        layout::shares_its_name(key) && recorded().is_some_and(|other| other != key.as_str().as_bytes())
    }
}

impl Found {
    /// Reads the chunk if the page cache has all of it, and lets other tasks run in between. `memory` already has its
    /// layout; after `false` its bytes are unspecified.
    pub(super) async fn read_cached(&self, cache: Cache, memory: &mut MemoryObjMut) -> bool {
        let mut offset = self.offset;
        for (n, slice) in memory.chunks_mut(cached::SLICE).enumerate() {
            if n > 0 {
                tokio::task::yield_now().await;
            }
            if cached::read_exact_at(cache, &self.file, slice, offset).is_err() {
                return false;
            }
            offset += slice.len() as u64;
        }
        true
    }

    /// Reads the chunk; `memory` already has its layout.
    pub(super) fn read(&self, memory: &mut MemoryObjMut) -> Result<()> {
        self.file.read_exact_at(memory, self.offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => corrupt(&self.path, "it became shorter while it was read"),
            _ => Error::io(e, format_args!("read `{}`", self.path.display())),
        })
    }
}

/// Opens a file to read. Not blocking, because a pipe of that name would wait for a writer; a file does not care.
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(path)
}

/// Whether shapes and dtypes say the length, too. LMCache reads as many bytes as they say, so a file where they do not was
/// torn, or never one of its.
fn is_consistent(layout: &ChunkLayout) -> bool {
    ChunkLayout::from_groups(layout.format, &layout.groups).is_ok_and(|by_groups| by_groups.len == layout.len)
}

/// The header's length and what it says. The number of groups follows from the file's length and the chunk's.
fn read_header(bytes: usize, read_exact: impl Fn(&mut [u8]) -> io::Result<()>) -> Result<(usize, ChunkLayout)> {
    let short = || Error::new(ErrorKind::Corrupt, format!("{bytes} bytes are too few for a chunk header"));
    let io =
        |e: io::Error| if e.kind() == io::ErrorKind::UnexpectedEof { short() } else { Error::io(e, "read the header") };
    const ONE_GROUP: usize = ChunkHeader::len_for(1);
    let mut first = [0; ONE_GROUP];
    if bytes < ONE_GROUP {
        return Err(short());
    }
    read_exact(&mut first).map_err(io)?;
    let chunk = i32::from_le_bytes([first[0], first[1], first[2], first[3]]);
    let header = usize::try_from(chunk).ok().and_then(|chunk| bytes.checked_sub(chunk));
    match header.filter(|len| ChunkHeader::groups_for(*len).is_some()) {
        Some(ONE_GROUP) => Ok((ONE_GROUP, ChunkHeader::read(&first)?)),
        Some(len) => {
            let mut all = vec![0; len];
            read_exact(&mut all).map_err(io)?;
            Ok((len, ChunkHeader::read(&all)?))
        }
        None => Err(Error::new(
            ErrorKind::Corrupt,
            format!("the file has {bytes} bytes, but its header speaks of a chunk of {chunk} bytes"),
        )
        .with_hint("a file without a header is read with `save_chunk_meta=false`")),
    }
}

fn corrupt(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("file `{}`: {why}", path.display()))
}

fn in_file(e: Error, path: &Path) -> Error {
    e.at(format_args!("file `{}`", path.display()))
}

/// The path itself, or what there is of it.
fn nearest_existing(path: &Path) -> &Path {
    let there = path.ancestors().find(|p| !p.as_os_str().is_empty() && p.symlink_metadata().is_ok());
    there.unwrap_or(Path::new("."))
}

fn is_absent(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound
}

fn key_of_entry(name: &str, path: &Path) -> Option<CacheKey> {
    let key = layout::key_of_file(name)?;
    if !layout::shares_its_name(&key) {
        return Some(key);
    }
    let recorded = attribute_of_path(path).and_then(|bytes| CacheKey::parse(std::str::from_utf8(&bytes).ok()?).ok());
    Some(recorded.filter(|r| layout::file_name(r).is_ok_and(|n| n == name)).unwrap_or(key))
}

fn attribute_of_file(file: &File) -> Option<Vec<u8>> {
    let mut buffer = vec![0; KEY_MAX];
    let len = rustix::fs::fgetxattr(file, KEY_ATTRIBUTE, &mut buffer[..]).ok()?;
    buffer.truncate(len);
    Some(buffer)
}

fn attribute_of_path(path: &Path) -> Option<Vec<u8>> {
    let mut buffer = vec![0; KEY_MAX];
    let len = rustix::fs::getxattr(path, KEY_ATTRIBUTE, &mut buffer[..]).ok()?;
    buffer.truncate(len);
    Some(buffer)
}

/// No key that has a file is longer.
const KEY_MAX: usize = layout::NAME_MAX;
