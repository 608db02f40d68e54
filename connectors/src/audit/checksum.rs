//! Checksums of chunks, calculated without keeping an executor's thread for long. [`seen`](super::seen) has those of chunks
//! that are read in pieces.

use std::fmt;

use connector_core::{Error, ErrorKind, MemoryObj, Result};
use tokio::runtime::Handle;
use tokio::task::yield_now;

use super::ChecksumKind;

/// From this size on, a chunk that is put is hashed on a thread of its own, while it is written.
const LARGE: usize = 256 << 10;

/// What is hashed between two chances for other work: 30 to 80 µs.
const SLICE: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Blake3([u8; 32]),
    Xxh3(u128),
}

/// The first eight hex digits: what is logged.
impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blake3(bytes) => bytes[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Self::Xxh3(number) => write!(f, "{:08x}", number >> 96),
        }
    }
}

enum Hasher {
    Blake3(Box<blake3::Hasher>),
    Xxh3(Box<xxhash_rust::xxh3::Xxh3>),
}

impl Hasher {
    fn new(kind: ChecksumKind) -> Self {
        match kind {
            ChecksumKind::Blake3 => Self::Blake3(Box::default()),
            ChecksumKind::Xxh3 => Self::Xxh3(Box::default()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Self::Xxh3(hasher) => hasher.update(bytes),
        }
    }

    fn end(self) -> Checksum {
        match self {
            Self::Blake3(hasher) => Checksum::Blake3(*hasher.finalize().as_bytes()),
            Self::Xxh3(hasher) => Checksum::Xxh3(hasher.digest128()),
        }
    }
}

impl Checksum {
    fn of(kind: ChecksumKind, bytes: &[u8]) -> Self {
        match kind {
            ChecksumKind::Blake3 => Self::Blake3(*blake3::hash(bytes).as_bytes()),
            ChecksumKind::Xxh3 => Self::Xxh3(xxhash_rust::xxh3::xxh3_128(bytes)),
        }
    }

    /// Of bytes that were read: on this thread, where they are in its cache, a slice at a time.
    pub(super) async fn of_read(kind: ChecksumKind, bytes: &[u8]) -> Self {
        if bytes.len() <= SLICE {
            return Self::of(kind, bytes);
        }
        let mut hasher = Hasher::new(kind);
        for slice in bytes.chunks(SLICE) {
            hasher.update(slice);
            yield_now().await;
        }
        hasher.end()
    }

    /// Of chunks that are put: on a blocking thread, if they are large. Goes on if this future is dropped, and tells `known`
    /// all the same.
    pub(super) async fn of_put(
        handle: &Handle,
        kind: ChecksumKind,
        chunks: Vec<MemoryObj>,
        known: impl Fn(usize, Self) + Send + 'static,
    ) -> Result<()> {
        let large = chunks.iter().map(|chunk| chunk.len()).sum::<usize>() >= LARGE;
        let hash = move || {
            for (n, chunk) in chunks.into_iter().enumerate() {
                known(n, Self::of(kind, &chunk));
            }
        };
        if !large {
            hash();
            return Ok(());
        }
        let hashed = handle.spawn_blocking(hash).await;
        hashed.map_err(|_| Error::new(ErrorKind::Closed, "the tokio runtime is shutting down"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slices_make_no_difference() {
        let bytes: Vec<u8> = (0..3 * SLICE + 17).map(|i| (i % 251) as u8).collect();
        for kind in [ChecksumKind::Blake3, ChecksumKind::Xxh3] {
            for len in [0, 1, SLICE, SLICE + 1, bytes.len()] {
                assert_eq!(Checksum::of_read(kind, &bytes[..len]).await, Checksum::of(kind, &bytes[..len]));
            }
        }
    }

    #[test]
    fn the_first_digits_are_those_that_the_tools_print() {
        // b3sum and xxh128sum of the empty file.
        assert_eq!(Checksum::of(ChecksumKind::Blake3, b"").to_string(), "af1349b9");
        assert_eq!(Checksum::of(ChecksumKind::Xxh3, b"").to_string(), "99aa06d3");
    }
}
