//! Pseudo-random content. Each key and round has its own, and kvconn makes it again to verify a chunk.

/// The content of one key in one round.
#[derive(Clone, Copy)]
pub(super) struct Content(u64);

/// The increment of splitmix64's counter. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

/// splitmix64's finaliser. Inputs that differ in one bit give unrelated outputs.
pub(super) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Content {
    pub(super) fn new(run: u64, key: usize, round: usize) -> Self {
        Self(mix(run ^ mix(key as u64 ^ mix(round as u64 ^ INCREMENT))))
    }

    pub(super) fn bytes(self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (word, made) in bytes.chunks_mut(8).zip(self.words()) {
            word.copy_from_slice(&made[..word.len()]);
        }
        bytes
    }

    /// The first position, in steps of 8 bytes, at which `bytes` differ from this content of `len` bytes.
    pub(super) fn difference(self, bytes: &[u8], len: usize) -> Option<usize> {
        let same = |(word, made): &(&[u8], [u8; 8])| *word == &made[..word.len()];
        match bytes.chunks(8).zip(self.words()).position(|pair| !same(&pair)) {
            Some(word) => Some(word * 8),
            None => (bytes.len() != len).then(|| bytes.len().min(len)),
        }
    }

    fn words(self) -> impl Iterator<Item = [u8; 8]> {
        (1u64..).map(move |n| mix(self.0.wrapping_add(n.wrapping_mul(INCREMENT))).to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_differs_for_every_key_and_round_and_is_reproducible() {
        let a = Content::new(1, 2, 3);
        let bytes = a.bytes(1003);
        assert_eq!((bytes.len(), a.difference(&bytes, 1003)), (1003, None));
        for other in [Content::new(0, 2, 3), Content::new(1, 3, 2), Content::new(1, 2, 4)] {
            assert_eq!(other.difference(&bytes, 1003), Some(0));
        }
    }

    #[test]
    fn difference_finds_a_wrong_byte_and_a_wrong_length() {
        let a = Content::new(7, 0, 0);
        let mut bytes = a.bytes(100);
        assert_eq!(a.difference(&bytes[..99], 100), Some(99));
        assert_eq!(a.difference(&a.bytes(101), 100), Some(100));
        bytes[98] ^= 1;
        assert_eq!(a.difference(&bytes, 100), Some(96), "the start of the word that differs");
    }
}
