//! Chunk hashes of a token sequence. They form a chain, so that each hash names its whole prefix.

use sha2::{Digest, Sha256};

use super::ChunkHash;

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
    chain_prefix_from(none_hash_of(seed), tokens, chunk_size).map(ChunkHash::from)
}

/// As [`chain_prefix`], from a hash of the empty prefix. LMCache logs its own as `NONE_HASH`.
pub fn chain_prefix_from(none_hash: u64, tokens: &[u32], chunk_size: usize) -> impl Iterator<Item = u64> {
    tokens.chunks(chunk_size).scan(none_hash, |hash, chunk| {
        let mut previous = Vec::with_capacity(9);
        head(&mut previous, 0, *hash);
        *hash = first_eight(link(&previous, chunk, EMPTY_TUPLE));
        Some(*hash)
    })
}

/// The hash of the empty prefix, for a seed that all processes share.
pub fn none_hash_of(seed: &str) -> u64 {
    first_eight(Sha256::digest(text(seed)).into())
}

/// The hashes of all whole chunks, as LMCache's server computes them with `--hash-algorithm sha256_cbor`: the SHA-256 of the
/// canonical CBOR of `(previous hash, tokens, None)`. `chunk_size` must not be 0.
pub fn chain_object_prefix<'a>(
    seed: &str,
    tokens: &'a [u32],
    chunk_size: usize,
) -> impl Iterator<Item = [u8; 32]> + use<'a> {
    let none_hash: [u8; 32] = Sha256::digest(text(seed)).into();
    tokens.chunks_exact(chunk_size).scan(none_hash, |hash, chunk| {
        let mut previous = Vec::with_capacity(34);
        head(&mut previous, 2, 32);
        previous.extend_from_slice(&*hash);
        *hash = link(&previous, chunk, NONE);
        Some(*hash)
    })
}

/// CBOR of `()` and of `None`.
const EMPTY_TUPLE: u8 = 0x80;
const NONE: u8 = 0xf6;

/// The SHA-256 of Python's `(previous, (token, ..), last)` in canonical CBOR. `previous` and `last` are CBOR already.
fn link(previous: &[u8], tokens: &[u32], last: u8) -> [u8; 32] {
    let mut cbor = Vec::with_capacity(16 + previous.len() + tokens.len() * 5);
    head(&mut cbor, 4, 3);
    cbor.extend_from_slice(previous);
    head(&mut cbor, 4, tokens.len() as u64);
    for &token in tokens {
        head(&mut cbor, 0, u64::from(token));
    }
    cbor.push(last);
    Sha256::digest(&cbor).into()
}

fn text(seed: &str) -> Vec<u8> {
    let mut cbor = Vec::with_capacity(seed.len() + 9);
    head(&mut cbor, 3, seed.len() as u64);
    cbor.extend_from_slice(seed.as_bytes());
    cbor
}

fn first_eight(digest: [u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
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
        assert_eq!(none_hash_of("0"), NONE_HASH);
        let tokens: Vec<u32> = (0..600).map(|i| i * 7919 % 151_936).collect();
        let all: Vec<ChunkHash> = chain_prefix("0", &tokens, 256).collect();
        assert_eq!(all, CHAIN.map(ChunkHash::from));
        assert_eq!(chain_prefix_from(CHAIN[1], &tokens[512..], 256).collect::<Vec<_>>(), CHAIN[2..]);
    }

    const NONE_HASH: u64 = 0x4e11_95df_020d_e59e;
    const CHAIN: [u64; 3] = [0xb51e_d086_0367_582a, 0x5b90_f8bb_df6f_3e68, 0x83c2_8182_b2be_c401];
}
