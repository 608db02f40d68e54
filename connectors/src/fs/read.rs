//! Opens a chunk's file, finds its layout, reads it.
//!
//! A visit to a blocking thread wakes two threads, which costs more than a small read. So the calling thread reads
//! bytes that are in the page cache. `openat2` with `RESOLVE_CACHED` and `preadv2` with `RWF_NOWAIT` fail where they
//! would wait for a disk. Only then does a blocking thread read. Systems other than Linux have no such calls, so there a
//! blocking thread does all reads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use connector_core::raw_layout;
use connector_core::{CacheKey, ChunkHeader, ChunkLayout, Error, ErrorKind, MemoryObjMut, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::dirs::Opened;
use super::files::{Files, Place};
use super::folder::{Folder, Stat, Wait};
use super::quota;

/// Leaves the access time as it is.
#[cfg(target_os = "linux")]
const NOATIME: OFlags = OFlags::NOATIME;
/// Other systems have no such flag.
#[cfg(not(target_os = "linux"))]
const NOATIME: OFlags = OFlags::empty();

/// Bytes read between two yields to the executor: about 100 µs of copying.
pub(super) const SLICE: usize = 1 << 20;

/// The calls that a file system answers from its page cache without waiting.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux has such calls"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cache {
    /// None: kvconn does not know the file system, or its `open` may wait for a server in spite of the flags.
    Never,
    /// All: a call fails where it would wait.
    NoWait,
    /// All: the files are in memory.
    Memory,
}

impl Cache {
    /// The cache of the file system below `path`; magic numbers as in statfs(2).
    #[cfg(target_os = "linux")]
    pub(super) fn of(path: &Path) -> Self {
        const TMPFS: i128 = 0x0102_1994;
        // ext4, xfs, btrfs, f2fs.
        const LOCAL: [i128; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010];
        match rustix::fs::statfs(path).map(|fs| i128::from(fs.f_type)) {
            Ok(TMPFS) => Self::Memory,
            Ok(kind) if LOCAL.contains(&kind) => Self::NoWait,
            _ => Self::Never,
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn of(_path: &Path) -> Self {
        Self::Never
    }

    /// Fills the buffer if the page cache has all of it.
    #[cfg(not(target_os = "linux"))]
    fn read_exact_at(self, _file: &File, _buffer: &mut [u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Fills the buffer if the page cache has all of it.
    #[cfg(target_os = "linux")]
    fn read_exact_at(self, file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        use rustix::io::{ReadWriteFlags, preadv2};
        // tmpfs does not know `RWF_NOWAIT`.
        let flags = if self == Self::Memory { ReadWriteFlags::empty() } else { ReadWriteFlags::NOWAIT };
        while !buffer.is_empty() {
            match preadv2(file, &mut [io::IoSliceMut::new(buffer)], offset, flags) {
                // The end of the file, or of its cached part.
                Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
                Ok(n) => {
                    buffer = &mut buffer[n..];
                    offset += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// The reason to open a chunk's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To read the chunk.
    Get,
    /// To read only the header. Opened with `O_NOATIME` so that it does not refresh the LRU.
    Inspect,
}

/// The result of opening a key's file.
pub(super) enum Lookup {
    Miss,
    Found(ChunkFile),
    /// Only a call that waits can find out. [`Wait::Yes`] never gives this.
    WouldWait,
}

/// An open file, and the layout of its chunk.
pub(super) struct ChunkFile {
    file: File,
    place: Place,
    /// Length of the header.
    offset: u64,
    pub(super) layout: ChunkLayout,
    /// Whether a get has to refresh the file's access time.
    pub(super) is_stale: bool,
}

/// Opens a chunk's file. Chunks are opened for reading nowhere else.
fn open(folder: &Folder, name: &str, purpose: Purpose, wait: Wait) -> io::Result<Option<(File, Stat)>> {
    if purpose == Purpose::Inspect {
        match folder.open_file(name, OFlags::RDONLY | NOATIME, wait) {
            // Only a file's owner may open it with `O_NOATIME`.
            Err(e) if e.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {}
            opened => return opened,
        }
    }
    folder.open_file(name, OFlags::RDONLY, wait)
}

impl Files {
    /// How a call below the base path may wait. On a file system in memory no call waits, and [`Wait::No`] takes three
    /// times as many system calls.
    pub(super) fn wait_below(&self, wait: Wait) -> Wait {
        if self.cache == Cache::Memory { Wait::Yes } else { wait }
    }

    /// Opens the key's file and finds its layout.
    pub(super) fn find(&self, opened: &mut Opened<'_>, key: &CacheKey, purpose: Purpose, wait: Wait) -> Result<Lookup> {
        if wait == Wait::No && self.cache == Cache::Never {
            return Ok(Lookup::WouldWait);
        }
        let place = self.place(key)?;
        let folder = opened.folder_of(&place, wait);
        let below = self.wait_below(wait);
        let (file, stat) = match folder.and_then(|(folder, name)| open(&folder, name, purpose, below)) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ok(Lookup::Miss),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Lookup::Miss),
            // The call that may wait reports any other error: an old kernel does not know `openat2`.
            Err(_) if wait == Wait::No => return Ok(Lookup::WouldWait),
            Err(e) => return Err(self.failed(&place, "open", e)),
        };
        let read_start = |buffer: &mut [u8]| match wait {
            Wait::Yes => file.read_exact_at(buffer, 0),
            Wait::No => self.cache.read_exact_at(&file, buffer, 0),
        };
        let header = if self.is_raw(key) {
            raw_layout(self.metadata.as_deref(), len(&stat)).map(|layout| (0, layout))
        } else {
            read_header(len(&stat), read_start)
        };
        let (header_len, layout) = match header {
            Ok(header) => header,
            Err(_) if wait == Wait::No => return Ok(Lookup::WouldWait),
            Err(e) => return Err(e.at(format_args!("file `{}`", self.path(&place).display()))),
        };
        let is_stale = self.quota.is_some() && quota::is_stale(&stat, SystemTime::now());
        Ok(Lookup::Found(ChunkFile { file, place, offset: header_len as u64, layout, is_stale }))
    }
}

impl ChunkFile {
    /// Reads the chunk if the page cache has all of it, and lets other tasks run in between. `memory` already has its
    /// layout; after `false` its bytes are unspecified.
    pub(super) async fn read_cached(&self, cache: Cache, memory: &mut MemoryObjMut) -> bool {
        let mut offset = self.offset;
        for (n, slice) in memory.chunks_mut(SLICE).enumerate() {
            if n > 0 {
                tokio::task::yield_now().await;
            }
            if cache.read_exact_at(&self.file, slice, offset).is_err() {
                return false;
            }
            offset += slice.len() as u64;
        }
        true
    }

    /// Reads a small chunk if that does not wait. `memory` already has its layout; after `false` its bytes are
    /// unspecified.
    pub(super) fn read_now(&self, cache: Cache, memory: &mut MemoryObjMut) -> bool {
        // A refresh of the access time may wait for a disk.
        if memory.len() > SLICE || (self.is_stale && cache != Cache::Memory) {
            return false;
        }
        let is_read = cache.read_exact_at(&self.file, memory, self.offset).is_ok();
        if is_read && self.is_stale {
            self.note_use();
        }
        is_read
    }

    /// Reads the chunk; `memory` already has its layout.
    pub(super) fn read(&self, files: &Files, memory: &mut MemoryObjMut) -> Result<()> {
        let read = match &files.direct {
            // `O_DIRECT` excludes headers.
            Some(direct) => direct.read(&self.file, memory),
            None => {
                // As in LMCache, a separate read of a raw file's first bytes makes the kernel read ahead.
                let first = if self.offset == 0 { files.read_ahead_size.unwrap_or(0) } else { 0 };
                let at = usize::try_from(first).map_or(memory.len(), |first| first.min(memory.len()));
                let (first, rest) = memory.split_at_mut(at);
                let rest_at = self.offset + at as u64;
                self.file.read_exact_at(first, self.offset).and_then(|()| self.file.read_exact_at(rest, rest_at))
            }
        };
        read.map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                let why = format!("file `{}`: it became shorter while it was read", files.path(&self.place).display());
                Error::new(ErrorKind::Corrupt, why)
            }
            _ => files.failed(&self.place, "read", e),
        })?;
        if self.is_stale {
            self.note_use();
        }
        Ok(())
    }

    /// Refreshes the access time. May wait for the disk.
    pub(super) fn note_use(&self) {
        quota::note_use(&self.file);
    }
}

pub(super) fn len(stat: &Stat) -> usize {
    usize::try_from(stat.bytes).unwrap_or(usize::MAX)
}

/// The header's length and its layout. The number of groups follows from the lengths of the file and the chunk.
fn read_header(bytes: usize, read_start: impl Fn(&mut [u8]) -> io::Result<()>) -> Result<(usize, ChunkLayout)> {
    const ONE_GROUP: usize = ChunkHeader::len_for(1);
    let corrupt = |why: String| Error::new(ErrorKind::Corrupt, why);
    let short = || corrupt(format!("{bytes} bytes are too few for a chunk header"));
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => short(),
        _ => Error::io(e, "read the header"),
    };
    if bytes < ONE_GROUP {
        return Err(short());
    }
    let mut header = vec![0; ONE_GROUP];
    read_start(&mut header).map_err(failed)?;
    let chunk = i32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let len = usize::try_from(chunk).ok().and_then(|chunk| bytes.checked_sub(chunk));
    let Some(len) = len.filter(|len| ChunkHeader::groups_for(*len).is_some()) else {
        return Err(corrupt(format!("the file has {bytes} bytes, but its header describes a chunk of {chunk} bytes"))
            .with_hint("a file without a header is read with `save_chunk_meta=false`"));
    };
    if len > ONE_GROUP {
        header.resize(len, 0);
        read_start(&mut header).map_err(failed)?;
    }
    let layout = ChunkHeader::read(&header)?;
    // LMCache gives a chunk the length that follows from shapes and dtypes, so it cannot have written such a header.
    if !layout.is_consistent() {
        return Err(corrupt(format!("its header says `{layout}`, which contradicts itself")));
    }
    Ok((len, layout))
}
