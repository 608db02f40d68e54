//! Finds a chunk's file, understands it, reads it. What takes [`Wait::Yes`] or no [`Wait`] at all may block.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use connector_core::metadata::raw_layout;
use connector_core::{CacheKey, ChunkHeader, ChunkLayout, Error, ErrorKind, MemoryObjMut, Result};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::cached::{self, Cache};
use super::file::Files;
use super::{quota, record};

/// Whether the disk may be waited for: only on a blocking thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Yes,
    No,
}

/// What a file is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// A get, which is a use of the chunk.
    Get,
    /// A look at its header, which is none: the kernel must not take it for one, because an eviction would believe it.
    Look,
}

impl For {
    /// Opens a file by the flags that it should have.
    pub(super) fn open(self, mut open: impl FnMut(OFlags) -> rustix::io::Result<File>) -> rustix::io::Result<File> {
        // Not blocking, because a pipe of that name would wait for a writer; a file does not care.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        if self == Self::Look {
            match open(flags | OFlags::NOATIME) {
                // Only a file's owner may say so.
                Err(Errno::PERM) => {}
                opened => return opened,
            }
        }
        open(flags)
    }
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
    /// Whether its use is to be noted.
    pub(super) is_stale: bool,
}

impl Files {
    /// Whether the key's file is there and holds what can be a chunk; `None` if only waiting can tell.
    pub(super) fn exists(&self, key: &CacheKey, wait: Wait) -> Result<Option<bool>> {
        // Elsewhere a `stat` may be answered by what a client remembers, where an `open` asks the server.
        if wait == Wait::Yes && self.cache != Cache::Never && self.is_raw(key) {
            return self.raw_exists(key).map(Some);
        }
        match self.find(key, wait, For::Look) {
            Ok(Look::Found(_)) => Ok(Some(true)),
            Ok(Look::Miss) => Ok(Some(false)),
            Ok(Look::WouldBlock) => Ok(None),
            // A prefix ends before it.
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok(Some(false)),
            Err(e) => Err(e),
        }
    }

    /// What a raw file holds shows in its length: it need not be opened.
    fn raw_exists(&self, key: &CacheKey) -> Result<bool> {
        let path = self.path(key)?;
        let readable = |stat: std::fs::Metadata| {
            // Without a look if everyone may read it.
            if stat.mode() & 0o444 != 0o444 {
                rustix::fs::accessat(CWD, &path, Access::READ_OK, AtFlags::EACCESS)?;
            }
            Ok(stat)
        };
        match std::fs::metadata(&path).and_then(readable) {
            Ok(stat) => {
                let bytes = usize::try_from(stat.len()).unwrap_or(usize::MAX);
                let is_chunk = stat.is_file() && raw_layout(self.metadata.as_deref(), bytes).is_ok();
                Ok(is_chunk && !record::is_others_path(key, &path, stat.mode()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io(e, format_args!("look at `{}`", path.display()))),
        }
    }

    /// Opens the key's file and finds out what it holds.
    pub(super) fn find(&self, key: &CacheKey, wait: Wait, read_for: For) -> Result<Look> {
        let path = self.path(key)?;
        let opened = match wait {
            Wait::Yes => open(&path, read_for).and_then(|file| Ok((self.stat(&file)?, file))),
            Wait::No => cached::open(&path, read_for).and_then(|file| Ok((cached::stat(&file)?, file))),
        };
        let (stat, file) = match opened {
            Ok(opened) => opened,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Look::Miss),
            Err(_) if wait == Wait::No => return Ok(Look::WouldBlock),
            Err(e) => return Err(Error::io(e, format_args!("open `{}`", path.display()))),
        };
        if !stat.is_file || record::is_others_file(key, &file, stat.mode) {
            return Ok(Look::Miss);
        }
        let bytes = usize::try_from(stat.len).unwrap_or(usize::MAX);
        let (header_len, layout) = if self.is_raw(key) {
            (0, raw_layout(self.metadata.as_deref(), bytes).map_err(|e| in_file(e, &path))?)
        } else {
            match read_header(bytes, |buffer| self.read_start(&file, buffer, wait)) {
                // LMCache reads as many bytes as shapes and dtypes say: the file was torn, or never one of its.
                Ok((_, layout)) if !layout.is_consistent() => {
                    let why = format!("its header speaks of `{layout}`, which does not agree with itself");
                    return Err(corrupt(&path, &why));
                }
                Ok(header) => header,
                Err(_) if wait == Wait::No => return Ok(Look::WouldBlock),
                Err(e) => return Err(in_file(e, &path)),
            }
        };
        let is_stale = self.quota.is_some() && quota::is_stale(stat.used);
        Ok(Look::Found(Found { file, path, offset: header_len as u64, layout, is_stale }))
    }

    fn stat(&self, file: &File) -> io::Result<cached::Stat> {
        // Where a server may have to be asked, it is.
        let at_once = (self.cache != Cache::Never).then(|| cached::stat(file).ok()).flatten();
        at_once.map_or_else(|| cached::Stat::of(&file.metadata()?), Ok)
    }

    /// Fills the buffer from the file's beginning.
    fn read_start(&self, file: &File, buffer: &mut [u8], wait: Wait) -> io::Result<()> {
        match wait {
            Wait::Yes => file.read_exact_at(buffer, 0),
            Wait::No => cached::read_exact_at(self.cache, file, buffer, 0),
        }
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
    pub(super) fn read(&self, files: &Files, memory: &mut MemoryObjMut) -> Result<()> {
        let read = match &files.direct {
            // No file has a header then.
            Some(direct) => direct.read(&self.file, memory),
            None => {
                // A header was a read of its own already.
                let first = if self.offset == 0 { files.read_ahead_size.unwrap_or(0) } else { 0 };
                in_two(memory, first, |buffer, offset| self.file.read_exact_at(buffer, self.offset + offset))
            }
        };
        read.map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => corrupt(&self.path, "it became shorter while it was read"),
            _ => Error::io(e, format_args!("read `{}`", self.path.display())),
        })?;
        if self.is_stale {
            self.note_use();
        }
        Ok(())
    }

    /// Notes that the file was used: may wait for the disk.
    pub(super) fn note_use(&self) {
        quota::note_use(&self.file);
    }
}

/// Reads the first bytes, then the others, as LMCache does: a file system with a read-ahead of its own then begins with it.
fn in_two(buffer: &mut [u8], first: u64, mut read: impl FnMut(&mut [u8], u64) -> io::Result<()>) -> io::Result<()> {
    let first = usize::try_from(first).unwrap_or(usize::MAX).min(buffer.len());
    let (head, rest) = buffer.split_at_mut(first);
    if !head.is_empty() {
        read(head, 0)?;
    }
    if rest.is_empty() { Ok(()) } else { read(rest, first as u64) }
}

/// Opens a file to read.
fn open(path: &Path, read_for: For) -> io::Result<File> {
    read_for
        .open(|flags| {
            loop {
                match rustix::fs::open(path, flags, Mode::empty()) {
                    Err(Errno::INTR) => {}
                    opened => return opened.map(File::from),
                }
            }
        })
        .map_err(io::Error::from)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_are_a_read_of_their_own_if_so_many_are_asked_for() {
        for (first, expected) in [
            (0, &[(0, 10)][..]),
            (1, &[(0, 1), (1, 9)]),
            (9, &[(0, 9), (9, 1)]),
            (10, &[(0, 10)]),
            (u64::MAX, &[(0, 10)]),
        ] {
            let mut reads = Vec::new();
            in_two(&mut [0; 10], first, |buffer, offset| {
                reads.push((offset, buffer.len()));
                Ok(())
            })
            .unwrap();
            assert_eq!(reads, expected, "{first}");
        }
    }
}
