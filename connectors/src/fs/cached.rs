//! What the page cache has: opened and read on the spot, without ever waiting for a disk.
//!
//! A visit to a blocking thread wakes two threads, which costs more than a small read, and on a virtual machine whose idle
//! processors halt as much as a large one. `openat2` with `RESOLVE_CACHED` and `preadv2` with `RWF_NOWAIT` answer at once, or
//! say that they would have to wait; then a blocking thread does the work. (One thing has no such flag: the record of a
//! name that two keys share, where it is too long for the file's inode.)

use std::fs::{File, Metadata};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Mode, ResolveFlags, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::found::For;

/// Read at a time between two yields to the executor: about 100 µs of copying.
pub(super) const SLICE: usize = 1 << 20;

/// How the page cache of a file system can be asked on the spot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cache {
    /// Not at all: nothing is known of this file system, or its `open` may wait for a server, whatever the flags say.
    Never,
    /// Reads say if they would have to wait.
    NoWait,
    /// The files are the page cache.
    Memory,
}

impl Cache {
    /// What is known of the file system below `path`; magic numbers as in statfs(2).
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
}

/// Opens the file to read, if that takes no waiting.
pub(super) fn open(path: &Path, read_for: For) -> io::Result<File> {
    let open = |flags| rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).map(File::from);
    read_for.open(open).map_err(or_would_block)
}

/// What is asked of a file before it is read.
pub(super) struct Stat {
    pub(super) is_file: bool,
    /// As stat(2) has it.
    pub(super) mode: u32,
    pub(super) len: u64,
    /// When it was last read or written, whichever is later.
    pub(super) used: SystemTime,
}

impl Stat {
    pub(super) fn of(metadata: &Metadata) -> io::Result<Self> {
        let used = metadata.accessed()?.max(metadata.modified()?);
        Ok(Self { is_file: metadata.is_file(), mode: metadata.mode(), len: metadata.len(), used })
    }
}

/// As [`Stat::of`], without asking a server.
pub(super) fn stat(file: &File) -> io::Result<Stat> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let wanted = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::SIZE | StatxFlags::ATIME | StatxFlags::MTIME;
    let stat = rustix::fs::statx(file, "", flags, wanted).map_err(or_would_block)?;
    let mode = u32::from(stat.stx_mode);
    let kind = rustix::fs::FileType::from_raw_mode(mode);
    let seconds = u64::try_from(stat.stx_atime.tv_sec.max(stat.stx_mtime.tv_sec)).unwrap_or(0);
    let used = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    Ok(Stat { is_file: kind.is_file(), mode, len: stat.stx_size, used })
}

/// Fills the buffer, if all of it is in the page cache.
pub(super) fn read_exact_at(cache: Cache, file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    // tmpfs knows no `RWF_NOWAIT`, and needs none.
    let flags = if cache == Cache::Memory { ReadWriteFlags::empty() } else { ReadWriteFlags::NOWAIT };
    while !buffer.is_empty() {
        let slices = &mut [IoSliceMut::new(buffer)];
        match rustix::io::preadv2(file, slices, offset, flags) {
            // The end of the file, or of what is cached: a read that may wait tells which.
            Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
            Ok(n) => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(or_would_block(e)),
        }
    }
    Ok(())
}

/// Only "no such file" is an answer. With anything else (an old kernel, a file system that cannot tell) the work is done
/// again where it may wait, and reports what is wrong there.
fn or_would_block(e: Errno) -> io::Error {
    if e == Errno::NOENT { e.into() } else { io::ErrorKind::WouldBlock.into() }
}
