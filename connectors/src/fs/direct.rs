//! Reads and writes past the page cache.
//!
//! `O_DIRECT` takes whole blocks, at offsets and from memory that are multiples of what the file system says
//! (`STATX_DIOALIGN`, Linux 6.1; else, as LMCache has it, the block size that statvfs(3) gives). Chunks of a pool start at
//! a page; memory of others that does not start where it should goes through a bounce buffer. Everything that cannot go
//! direct goes through the page cache, which is slower or faster but never wrong, and is said once a store.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, OFlags, StatxFlags};

/// Bytes of the bounce buffer: large enough for a disk's full speed, small enough for the processor's cache.
const BOUNCE: usize = 1 << 20;

/// Memory never has to be aligned to more than a page.
const PAGE: usize = 4096;

/// Passes the page cache by where that can be.
#[derive(Debug, Default)]
pub(super) struct Direct {
    said_no_block: AtomicBool,
    said_no_direct: AtomicBool,
}

/// What a file asks of direct reads and writes: sizes, offsets and addresses are multiples of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Align {
    memory: usize,
    block: usize,
}

impl Direct {
    /// Fills the buffer from the beginning of the file, which was opened without `O_DIRECT`.
    pub(super) fn read(&self, file: &File, buffer: &mut [u8]) -> io::Result<()> {
        let Some(align) = self.turn_on(file, buffer.len()) else { return file.read_exact_at(buffer, 0) };
        let rest = |slice: &mut [u8], offset: u64| {
            page_cache_only(file)?;
            file.read_exact_at(slice, offset)
        };
        let read = if buffer.as_ptr().addr().is_multiple_of(align.memory) {
            read_blocks(align, buffer, 0, |slice, offset| file.read_at(slice, offset), rest)
        } else {
            let mut bounce = Bounce::new(align, buffer.len());
            let mut slices = buffer.chunks_mut(bounce.len).zip((0_u64..).step_by(bounce.len));
            slices.try_for_each(|(slice, offset)| {
                let aligned = bounce.slice(slice.len());
                read_blocks(align, aligned, offset, |slice, offset| file.read_at(slice, offset), rest)?;
                slice.copy_from_slice(aligned);
                Ok(())
            })
        };
        read.or_else(|e| {
            self.turn_off(file, e)?;
            file.read_exact_at(buffer, 0)
        })
    }

    /// Writes the bytes to the beginning of the file, which was opened without `O_DIRECT`.
    pub(super) fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        let Some(align) = self.turn_on(file, bytes.len()) else { return file.write_all_at(bytes, 0) };
        let written = if bytes.as_ptr().addr().is_multiple_of(align.memory) {
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
        written.or_else(|e| {
            self.turn_off(file, e)?;
            file.write_all_at(bytes, 0)
        })
    }

    /// From here on the file takes whole blocks; `None` if the page cache has to do.
    fn turn_on(&self, file: &File, bytes: usize) -> Option<Align> {
        if bytes == 0 {
            return None;
        }
        let align = match Align::of(file) {
            Ok(Some(align)) => align,
            Ok(None) => return self.no_direct(&"it has none for this file"),
            Err(e) => return self.no_direct(&e),
        };
        if !bytes.is_multiple_of(align.block) {
            if !self.said_no_block.swap(true, Ordering::Relaxed) {
                let block = align.block;
                tracing::warn!(bytes, block, "use_odirect: a value that is not of whole blocks takes the page cache");
            }
            return None;
        }
        match rustix::fs::fcntl_getfl(file).and_then(|flags| rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT)) {
            Ok(()) => Some(align),
            Err(e) => self.no_direct(&e),
        }
    }

    /// After an error: back to the page cache, if the file system turned out to have nothing else.
    fn turn_off(&self, file: &File, e: io::Error) -> io::Result<()> {
        if e.kind() != io::ErrorKind::InvalidInput {
            return Err(e);
        }
        self.no_direct(&e);
        page_cache_only(file)
    }

    fn no_direct(&self, why: &dyn std::fmt::Display) -> Option<Align> {
        if !self.said_no_direct.swap(true, Ordering::Relaxed) {
            tracing::warn!(%why, "use_odirect: the file system refuses direct access, so the page cache has to do");
        }
        None
    }
}

impl Align {
    /// `None` if the file can only go through the page cache.
    fn of(file: &File) -> io::Result<Option<Self>> {
        match rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
            Ok(stat) if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN) => {
                let (memory, block) = (stat.stx_dio_mem_align as usize, stat.stx_dio_offset_align as usize);
                return Ok((memory > 0 && block > 0).then_some(Self { memory, block }));
            }
            // An old kernel, or a file system that does not say.
            _ => {}
        }
        let block = rustix::fs::fstatvfs(file)?.f_bsize as usize;
        Ok((block > 0).then(|| Self { memory: block.min(PAGE), block }))
    }
}

/// From here on the file takes any number of bytes.
fn page_cache_only(file: &File) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(rustix::fs::fcntl_setfl(file, flags - OFlags::DIRECT)?)
}

/// Reads whole blocks by `read`. One that ends within a block has met the end of the file, or a file system of the network
/// that gave what it had: `rest` reads on from there, where no block begins, and tells which.
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

/// Memory that starts where the file wants it.
struct Bounce {
    memory: Vec<u8>,
    start: usize,
    /// Whole blocks.
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
    fn values_come_back_wherever_their_memory_starts_and_however_long_they_are() {
        let content: Vec<u8> = (0..(3 << 20) + 8192_u32).map(|i| (i % 253) as u8).collect();
        // The directory for temporary files, and a file system that is memory.
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
    fn a_file_that_became_shorter_is_the_end_of_the_file() {
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
    fn a_read_that_ends_within_a_block_goes_on_from_there() {
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
    fn a_bounce_buffer_starts_where_it_should_and_has_whole_blocks() {
        for align in [Align { memory: 4, block: 512 }, Align { memory: 4096, block: 4096 }] {
            let mut bounce = Bounce::new(align, 5 << 20);
            assert!(bounce.slice(BOUNCE).as_ptr().addr().is_multiple_of(align.memory));
            assert!(bounce.len.is_multiple_of(align.block) && bounce.len >= BOUNCE);
        }
    }
}
