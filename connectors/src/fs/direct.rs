//! Reads and writes past the page cache.
//!
//! `O_DIRECT` needs whole blocks, and aligned offsets and memory. The alignment comes from `STATX_DIOALIGN` (Linux
//! 6.1), or else, as in LMCache, from the block size of statvfs(3). Chunks of the pool start at a page; other memory
//! goes through a bounce buffer. If the size or the file system excludes `O_DIRECT`, kvconn uses the page cache and
//! warns once a store. Systems other than Linux always use the page cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;

/// Bytes of the bounce buffer: enough for a disk's full speed, and still in the processor's cache.
const BOUNCE: usize = 1 << 20;

/// No file system needs memory to be aligned to more than a page.
#[cfg(target_os = "linux")]
const PAGE: usize = 4096;

/// The flag that [`Direct::enable`] sets.
#[cfg(target_os = "linux")]
const DIRECT: OFlags = OFlags::DIRECT;
#[cfg(not(target_os = "linux"))]
const DIRECT: OFlags = OFlags::empty();

/// The warnings that were logged.
#[derive(Debug, Default)]
pub(super) struct Direct {
    warned_of_size: AtomicBool,
    warned_of_file_system: AtomicBool,
}

/// Sizes and offsets must be multiples of `block`, addresses of `memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Align {
    memory: usize,
    block: usize,
}

impl Direct {
    /// Fills the buffer from the beginning of the file, which was opened without `O_DIRECT`.
    pub(super) fn read(&self, file: &File, buffer: &mut [u8]) -> io::Result<()> {
        let Some(align) = self.enable(file, buffer.len()) else { return file.read_exact_at(buffer, 0) };
        let rest = |slice: &mut [u8], offset: u64| {
            disable(file)?;
            file.read_exact_at(slice, offset)
        };
        let read = |slice: &mut [u8], offset| read_blocks(align, slice, offset, |s, at| file.read_at(s, at), rest);
        let done = if align.fits(buffer) {
            read(buffer, 0)
        } else {
            let mut bounce = Bounce::new(align, buffer.len());
            let mut slices = buffer.chunks_mut(bounce.len).zip((0_u64..).step_by(bounce.len));
            slices.try_for_each(|(slice, offset)| {
                let aligned = bounce.slice(slice.len());
                read(aligned, offset)?;
                slice.copy_from_slice(aligned);
                Ok(())
            })
        };
        done.or_else(|e| {
            self.fall_back(file, e)?;
            file.read_exact_at(buffer, 0)
        })
    }

    /// Writes the bytes to the beginning of the file, which was opened without `O_DIRECT`.
    pub(super) fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        let Some(align) = self.enable(file, bytes.len()) else { return file.write_all_at(bytes, 0) };
        let done = if align.fits(bytes) {
            file.write_all_at(bytes, 0)
        } else {
            let mut bounce = Bounce::new(align, bytes.len());
            let mut slices = bytes.chunks(bounce.len).zip((0_u64..).step_by(bounce.len));
            slices.try_for_each(|(slice, offset)| {
                let aligned = bounce.slice(slice.len());
                aligned.copy_from_slice(slice);
                file.write_all_at(aligned, offset)
            })
        };
        done.or_else(|e| {
            self.fall_back(file, e)?;
            file.write_all_at(bytes, 0)
        })
    }

    /// Sets `O_DIRECT`; `None` if kvconn must use the page cache.
    fn enable(&self, file: &File, bytes: usize) -> Option<Align> {
        if bytes == 0 {
            return None;
        }
        let align = match Align::of(file) {
            Ok(Some(align)) => align,
            Ok(None) => return self.refused(&"it has none for this file"),
            Err(e) => return self.refused(&e),
        };
        if !bytes.is_multiple_of(align.block) {
            if !self.warned_of_size.swap(true, Ordering::Relaxed) {
                let block = align.block;
                tracing::warn!(bytes, block, "use_odirect: a value is not of whole blocks and uses the page cache");
            }
            return None;
        }
        match rustix::fs::fcntl_getfl(file).and_then(|flags| rustix::fs::fcntl_setfl(file, flags | DIRECT)) {
            Ok(()) => Some(align),
            Err(e) => self.refused(&e),
        }
    }

    /// Clears `O_DIRECT` after an error that shows that the file system does not support it.
    fn fall_back(&self, file: &File, e: io::Error) -> io::Result<()> {
        if e.kind() != io::ErrorKind::InvalidInput {
            return Err(e);
        }
        self.refused(&e);
        disable(file)
    }

    fn refused(&self, why: &dyn std::fmt::Display) -> Option<Align> {
        if !self.warned_of_file_system.swap(true, Ordering::Relaxed) {
            tracing::warn!(%why, "use_odirect: the file system refuses direct access; using the page cache");
        }
        None
    }
}

impl Align {
    #[cfg(not(target_os = "linux"))]
    fn of(_file: &File) -> io::Result<Option<Self>> {
        Ok(None)
    }

    /// `None` if the file system has no direct access to the file.
    #[cfg(target_os = "linux")]
    fn of(file: &File) -> io::Result<Option<Self>> {
        use rustix::fs::{AtFlags, StatxFlags};
        match rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
            Ok(stat) if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN) => {
                let (memory, block) = (stat.stx_dio_mem_align as usize, stat.stx_dio_offset_align as usize);
                return Ok((memory > 0 && block > 0).then_some(Self { memory, block }));
            }
            // An old kernel, or a file system that does not give its alignment.
            _ => {}
        }
        let block = rustix::fs::fstatvfs(file)?.f_bsize as usize;
        Ok((block > 0).then(|| Self { memory: block.min(PAGE), block }))
    }

    fn fits(self, bytes: &[u8]) -> bool {
        bytes.as_ptr().addr().is_multiple_of(self.memory)
    }
}

/// Clears `O_DIRECT`.
fn disable(file: &File) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(file, flags - DIRECT)?)
}

/// Reads whole blocks with `read`. A short read within a block is the end of the file, or a network file system's
/// limit. From there, `rest` reads through the page cache.
fn read_blocks(
    align: Align,
    mut buffer: &mut [u8],
    mut offset: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
    rest: impl FnOnce(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    while !buffer.is_empty() {
        match read(buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buffer = &mut buffer[n..];
                offset += n as u64;
                if !n.is_multiple_of(align.block) {
                    return rest(buffer, offset);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Aligned memory of whole blocks.
struct Bounce {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Bounce {
    fn new(align: Align, bytes: usize) -> Self {
        let len = BOUNCE.min(bytes).next_multiple_of(align.block);
        let memory = vec![0; len + align.memory];
        let address = memory.as_ptr().addr();
        Self { start: address.next_multiple_of(align.memory) - address, memory, len }
    }

    fn slice(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_any_length_come_back_from_and_to_any_memory() {
        let content: Vec<u8> = (0..(3 << 20) + 8192_u32).map(|i| (i % 253) as u8).collect();
        // A disk, and tmpfs.
        for dir in [std::env::temp_dir(), "/dev/shm".into()] {
            let dir = tempfile::tempdir_in(dir).unwrap();
            let direct = Direct::default();
            for len in [0, 1, 512, 4095, 4096, 1 << 20, (3 << 20) + 4096] {
                for shift in [0, 1, 512] {
                    let bytes = &content[shift..shift + len];
                    let path = dir.path().join("x");
                    direct.write(&File::create(&path).unwrap(), bytes).unwrap();
                    assert!(std::fs::read(&path).unwrap() == bytes, "{len} bytes from {shift}");
                    let mut back = vec![0; len + shift];
                    direct.read(&File::open(&path).unwrap(), &mut back[shift..]).unwrap();
                    assert!(back[shift..] == *bytes, "{len} bytes to {shift}");
                }
            }
        }
    }

    #[test]
    fn a_file_that_became_shorter_is_an_unexpected_end() {
        let dir = tempfile::tempdir().unwrap();
        for len in [0, 5000, 8192] {
            let path = dir.path().join("x");
            std::fs::write(&path, vec![1; len]).unwrap();
            let mut buffer = vec![0; 1 << 20];
            let e = Direct::default().read(&File::open(&path).unwrap(), &mut buffer).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof, "{len}");
        }
    }

    #[test]
    fn a_read_that_ends_within_a_block_continues_through_the_page_cache() {
        let align = Align { memory: 1, block: 512 };
        let content: Vec<u8> = (0..4096_u32).map(|i| (i % 253) as u8).collect();
        let copy = |to: &mut [u8], offset: u64| {
            let from = &content[offset as usize..];
            to.copy_from_slice(&from[..to.len()]);
        };
        for first in [1, 511, 512, 700, 4095] {
            let mut buffer = vec![0; 4096];
            let mut reads = Vec::new();
            let read = |to: &mut [u8], offset: u64| {
                let n = if reads.is_empty() { first } else { to.len() };
                reads.push(offset);
                copy(&mut to[..n], offset);
                Ok(n)
            };
            let rest = |to: &mut [u8], offset: u64| {
                copy(to, offset);
                Ok(())
            };
            read_blocks(align, &mut buffer, 0, read, rest).unwrap();
            assert!(buffer == content && reads.iter().all(|offset| offset % 512 == 0), "{first}");
        }
    }

    #[test]
    fn a_bounce_buffer_is_aligned_and_has_whole_blocks() {
        for align in [Align { memory: 4, block: 512 }, Align { memory: 4096, block: 4096 }] {
            let mut bounce = Bounce::new(align, 5 << 20);
            assert!(bounce.slice(BOUNCE).as_ptr().addr().is_multiple_of(align.memory));
            assert!(bounce.len.is_multiple_of(align.block) && bounce.len >= BOUNCE);
        }
    }
}
