//! The values of a check.

use crate::ChunkLayout;

/// The bytes of a chunk. They show which value they belong to, and their position in it. kvconn makes and compares them
/// in blocks, so that 64 MiB take milliseconds.
#[derive(Debug, Clone)]
pub(super) struct Value {
    pub(super) seed: u64,
    pub(super) layout: ChunkLayout,
}

const BLOCK: usize = 4096;

impl Value {
    pub(super) fn fill(&self, bytes: &mut [u8]) {
        let block = self.block(bytes.len());
        for (i, part) in bytes.chunks_mut(BLOCK).enumerate() {
            part.copy_from_slice(&block[..part.len()]);
            mark(part, i);
        }
    }

    pub(super) fn compare(&self, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() != self.layout.len {
            return Err(format!("{} bytes come back", bytes.len()));
        }
        let mut block = self.block(bytes.len());
        for (i, part) in bytes.chunks(BLOCK).enumerate() {
            let block = &mut block[..part.len()];
            mark(block, i);
            if block != part {
                let at = block.iter().zip(part).position(|(a, b)| a != b).unwrap_or(0);
                return Err(format!("byte {} comes back as {}, not {}", i * BLOCK + at, part[at], block[at]));
            }
            mark(block, i);
        }
        Ok(())
    }

    /// The bytes that repeat.
    fn block(&self, len: usize) -> Vec<u8> {
        // Splitmix64: adjacent seeds give different bytes.
        let mut state = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)).to_le_bytes()
        };
        (0..len.min(BLOCK).div_ceil(8)).flat_map(|_| next()).take(len.min(BLOCK)).collect()
    }
}

/// Adds the block's number, or removes it again, so that blocks in a wrong order differ.
fn mark(block: &mut [u8], number: usize) {
    for (byte, mark) in block.iter_mut().zip(number.to_le_bytes()) {
        *byte ^= mark;
    }
}
