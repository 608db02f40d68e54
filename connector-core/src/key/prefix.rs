//! Chunk hashes of a token sequence. They form a chain, so that each hash names its whole prefix.

use sha2::{Digest, Sha256};

use super::ChunkHash;

/// Hash of all tokens up to the end of a chunk.
#[derive(Clone, Copy)]
struct PrefixHash(u64);

impl PrefixHash {
    /// The hash of the empty prefix, for a seed that all processes share (LMCache: `PYTHONHASHSEED`).
    fn root(seed: &str) -> Self {
        let mut cbor = Vec::with_capacity(seed.len() + 9);
        head(&mut cbor, 3, seed.len() as u64);
        cbor.extend_from_slice(seed.as_bytes());
        Self::of(&cbor)
    }

    /// The hash of this prefix with one more chunk of tokens.
    fn extend(self, tokens: &[u32]) -> Self {
        // Canonical CBOR of Python's `(prefix, (token, ..), ())`.
        let mut cbor = Vec::with_capacity(16 + tokens.len() * 5);
        head(&mut cbor, 4, 3);
        head(&mut cbor, 0, self.0);
        head(&mut cbor, 4, tokens.len() as u64);
        for &token in tokens {
            head(&mut cbor, 0, u64::from(token));
        }
        head(&mut cbor, 4, 0);
        Self::of(&cbor)
    }

    fn of(cbor: &[u8]) -> Self {
        let digest = Sha256::digest(cbor);
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(first))
    }
}

/// The hashes of all chunks of `chunk_size` tokens, in order. All processes that share a store need the same `seed`
/// (LMCache: `PYTHONHASHSEED`). The last chunk may be partial. `chunk_size` must not be
/// 0.
///
/// LMCache computes the same hashes with `pre_caching_hash_algorithm: sha256_cbor`. Each is the first eight bytes,
/// big-endian, of the SHA-256 of the canonical CBOR of `(previous hash, tokens, ())`.
///
/// ```
/// use connector_core::key::chain_prefix;
/// let all: Vec<_> = chain_prefix("0", &[1, 2, 3, 4, 5], 2).collect();
/// assert_eq!(all.len(), 3);
/// assert_eq!(all[..1], chain_prefix("0", &[1, 2], 2).collect::<Vec<_>>());
/// ```
pub fn chain_prefix<'a>(seed: &str, tokens: &'a [u32], chunk_size: usize) -> impl Iterator<Item = ChunkHash> + use<'a> {
    tokens.chunks(chunk_size).scan(PrefixHash::root(seed), |prefix, chunk| {
        *prefix = prefix.extend(chunk);
        Some(prefix.0.into())
    })
}

/// Writes a CBOR item's head (RFC 8949, section 3): the major type and the shortest form of the argument.
fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    match argument {
        0..24 => out.push(major | argument as u8),
        24..=0xff => out.extend([major | 24, argument as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend((argument as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend((argument as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend(argument.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The constants come from Python's cbor2 6.3 (`dumps(.., canonical=True)`) and hashlib.
    #[test]
    fn hashes_equal_pythons() {
        let root = PrefixHash::root("0");
        assert_eq!(root.0, ROOT);
        let tokens: Vec<u32> = (0..600).map(|i| i * 7919 % 151_936).collect();
        let all: Vec<ChunkHash> = chain_prefix("0", &tokens, 256).collect();
        assert_eq!(all, CHAIN.map(ChunkHash::from));
    }

    const ROOT: u64 = 0x4e11_95df_020d_e59e;
    const CHAIN: [u64; 3] = [0xb51e_d086_0367_582a, 0x5b90_f8bb_df6f_3e68, 0x83c2_8182_b2be_c401];
}
