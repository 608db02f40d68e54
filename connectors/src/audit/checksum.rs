//! Checksums of chunks, calculated without keeping an executor's thread for long.

use std::fmt;

use tokio::task::yield_now;

use super::ChecksumKind;

/// Bytes hashed between two yields to the executor: 30 to 80 µs.
const SLICE: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Blake3([u8; 32]),
    Xxh3(u128),
}

/// The first eight hex digits, as the log shows them.
impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blake3(bytes) => bytes[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Self::Xxh3(number) => write!(f, "{:08x}", number >> 96),
        }
    }
}

impl Checksum {
    /// Hashes the bytes on this thread.
    pub(super) async fn of(kind: ChecksumKind, bytes: &[u8]) -> Self {
        // Boxed, because a hasher of 2 KiB would make every future that contains it as large.
        match kind {
            ChecksumKind::Blake3 => {
                let mut hasher = Box::<blake3::Hasher>::default();
                in_slices(bytes, |slice| _ = hasher.update(slice)).await;
                Self::Blake3(*hasher.finalize().as_bytes())
            }
            ChecksumKind::Xxh3 => {
                let mut hasher = Box::<xxhash_rust::xxh3::Xxh3>::default();
                in_slices(bytes, |slice| hasher.update(slice)).await;
                Self::Xxh3(hasher.digest128())
            }
        }
    }
}

async fn in_slices(bytes: &[u8], mut update: impl FnMut(&[u8])) {
    for (n, slice) in bytes.chunks(SLICE).enumerate() {
        if n > 0 {
            yield_now().await;
        }
        update(slice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slices_give_the_checksum_of_the_whole() {
        let bytes: Vec<u8> = (0..3 * SLICE + 17).map(|i| (i % 251) as u8).collect();
        for len in [0, 1, SLICE, SLICE + 1, bytes.len()] {
            let bytes = &bytes[..len];
            let blake3 = Checksum::Blake3(*blake3::hash(bytes).as_bytes());
            assert_eq!(Checksum::of(ChecksumKind::Blake3, bytes).await, blake3);
            let xxh3 = Checksum::Xxh3(xxhash_rust::xxh3::xxh3_128(bytes));
            assert_eq!(Checksum::of(ChecksumKind::Xxh3, bytes).await, xxh3);
        }
    }

    #[tokio::test]
    async fn the_first_digits_are_those_that_the_tools_print() {
        // b3sum and xxh128sum of the empty file.
        assert_eq!(Checksum::of(ChecksumKind::Blake3, b"").await.to_string(), "af1349b9");
        assert_eq!(Checksum::of(ChecksumKind::Xxh3, b"").await.to_string(), "99aa06d3");
    }
}
