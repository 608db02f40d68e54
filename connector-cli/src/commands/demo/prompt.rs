//! A file's bytes as the keys and values of a prompt.

use std::path::PathBuf;

use connectors::RawLayout;
use connectors::key::{ChunkHash, chain_prefix};
use connectors::{CacheEngineKey, CacheKey, Dtype, Error, LMCacheMetadata, LayerGroup, MemoryObj};

pub(super) const MODEL: &str = "facebook/opt-125m";
pub(super) const CHUNK_TOKENS: usize = 256;
/// Source: `vocab_size` in the model's `config.json`.
const VOCABULARY: u32 = 50_272;
/// The hash seed that LMCache's processes share (`PYTHONHASHSEED`).
const SEED: &str = "0";

pub(super) struct Prompt {
    pub(super) file: PathBuf,
    pub(super) file_bytes: usize,
    /// Repetitions of the file's bytes, so that even a small file fills three chunks.
    pub(super) times: usize,
    pub(super) token_bytes: usize,
    pub(super) tokens: usize,
    /// The stored bytes, without the zeros that pad the last token.
    pub(super) bytes: Vec<u8>,
    pub(super) chunks: Vec<(CacheKey, MemoryObj)>,
}

/// The metadata that an engine gives for facebook/opt-125m.
pub(super) fn metadata() -> Result<LMCacheMetadata, Error> {
    let group = LayerGroup { kv_size: 2, num_layers: 12, hidden_dim: 12 * 64, dtype: Dtype::Float16 };
    LMCacheMetadata::new(MODEL, 1, 0, CHUNK_TOKENS, &[group])
}

impl Prompt {
    pub(super) fn of_this_executable(metadata: &LMCacheMetadata) -> Result<Self, Error> {
        let file = std::env::current_exe().map_err(|e| Error::io(e, "find this command's own executable"))?;
        let bytes = std::fs::read(&file).map_err(|e| Error::io(e, format_args!("read `{}`", file.display())))?;
        Self::new(file, bytes, metadata.chunk_layout())
    }

    fn new(file: PathBuf, once: Vec<u8>, layout: &RawLayout) -> Result<Self, Error> {
        let (full, token_bytes) = (layout.full.len, layout.token_bytes);
        let file_bytes = once.len();
        // Two full chunks and the beginning of a third.
        let times = (2 * full + 1).div_ceil(file_bytes.max(1));
        let mut bytes = once.repeat(times);
        if bytes.len().next_multiple_of(token_bytes).is_multiple_of(full) {
            // Shortens the input so that the last chunk is partial.
            bytes.truncate(bytes.len() - token_bytes);
        }
        let mut padded = bytes.clone();
        padded.resize(bytes.len().next_multiple_of(token_bytes), 0);

        let tokens: Vec<u32> = padded.chunks_exact(token_bytes).map(token).collect();
        let hashes = chain_prefix(SEED, &tokens, layout.chunk_size);
        let chunk = |(hash, bytes): (ChunkHash, &[u8])| {
            let key = CacheEngineKey::new(MODEL, 1, 0, hash, Dtype::Float16)?;
            Ok((key.into(), MemoryObj::from_vec(bytes.to_vec(), layout.for_bytes(bytes.len())?)?))
        };
        let chunks = hashes.zip(padded.chunks(full)).map(chunk).collect::<Result<_, Error>>()?;
        Ok(Self { file, file_bytes, times, token_bytes, tokens: tokens.len(), bytes, chunks })
    }
}

/// A pseudo token, computed from the first bytes of its keys and values.
fn token(slice: &[u8]) -> u32 {
    slice.first_chunk().map_or(0, |first| u32::from_le_bytes(*first) % VOCABULARY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(file_bytes: usize) -> Prompt {
        let once = (0..file_bytes).map(|i| (i % 251) as u8).collect();
        let metadata = metadata().expect("the model's numbers are right");
        Prompt::new(PathBuf::from("f"), once, metadata.chunk_layout()).expect("the bytes fit")
    }

    #[test]
    fn any_file_gives_two_full_chunks_and_a_partial_one() {
        const FULL: usize = 9_437_184;
        for file_bytes in [1_000_001, FULL, 3 * FULL - 1, 3 * FULL, 2 * FULL + 1] {
            let prompt = prompt(file_bytes);
            let lens: Vec<usize> = prompt.chunks.iter().map(|(_, chunk)| chunk.len()).collect();
            assert_eq!((lens.len(), lens[0], lens[1]), (3, FULL, FULL), "{file_bytes}");
            assert!(lens[2] < FULL && lens[2].is_multiple_of(36_864) && prompt.bytes.len() > 2 * FULL, "{lens:?}");
            assert_eq!(prompt.tokens * 36_864, lens.iter().sum::<usize>());
        }
    }

    #[test]
    fn equal_files_give_equal_keys_and_different_files_different_keys() {
        let keys = |n| prompt(n).chunks.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(5_000_000), keys(5_000_000));
        assert_ne!(keys(5_000_000)[0], keys(5_000_001)[2]);
    }
}
