//! The names of SGLang's `HiCacheFile`: `<hash>[.<pool>]_<model>_<ranks>.bin`.
//!
//! The key's model is everything after the hash and the pool. It holds the model with `-` for `/`, and the ranks and
//! sizes of tensor, pipeline, context and decode context parallelism.
//!
//! Source: `sglang/srt/mem_cache/hicache_storage.py` of SGLang 0.5.23; vectors in `sglang_files.json`.

use connector_core::{Error, ErrorKind, ObjectKey, Result};

use super::{bytes_of, hex, is_hex_digit};

const EXTENSION: &str = ".bin";

/// The pools whose names contain `_`, which would otherwise end the pool's name. From `PoolName` of SGLang 0.5.23.
#[rustfmt::skip]
const POOLS: [&str; 18] = [
    "auxiliary_swa", "deepseek_v4_c1", "deepseek_v4_c1_indexer", "deepseek_v4_c1_indexer_scale", "deepseek_v4_c2",
    "deepseek_v4_c2_indexer", "deepseek_v4_c2_indexer_scale", "deepseek_v4_c4", "deepseek_v4_c4_indexer",
    "deepseek_v4_c4_indexer_scale", "deepseek_v4_c128", "deepseek_v4_c4_rope", "deepseek_v4_c128_rope",
    "deepseek_v4_c4_state", "deepseek_v4_c4_indexer_state", "deepseek_v4_c128_state", "draft_indexer", "draft_swa",
];

pub(super) fn name_of(key: &ObjectKey) -> Result<String> {
    if key.kv_rank() != 0 || key.object_group_id() != 0 {
        let why = "SGLang's file names have no place for a key's rank or group";
        return Err(Error::new(ErrorKind::InvalidKey, why).with_hint("SGLang's ranks are the end of the model's name"));
    }
    let dot = if key.cache_salt().is_empty() { "" } else { "." };
    Ok(format!("{}{dot}{}_{}{EXTENSION}", hex(key.chunk_hash()), key.cache_salt(), key.model_name()))
}

/// A key that may have this name. [`name_of`] gives the name that it has.
pub(super) fn key_of(name: &str) -> Option<ObjectKey> {
    let stem = name.strip_suffix(EXTENSION)?;
    let (hash, rest) = stem.split_at(stem.bytes().position(|b| !is_hex_digit(b))?);
    let (pool, model) = match rest.strip_prefix('.') {
        None => ("", rest.strip_prefix('_')?),
        Some(rest) => {
            let known = POOLS.iter().filter_map(|pool| Some((*pool, rest.strip_prefix(pool)?.strip_prefix('_')?)));
            known.max_by_key(|(pool, _)| pool.len()).or_else(|| rest.split_once('_'))?
        }
    };
    ObjectKey::new(model, 0, 0, bytes_of(hash)?, pool).ok()
}

/// Whether SGLang gives this name to a file that it is writing: `.<32 hex digits>.tmp`.
pub(super) fn is_unfinished(name: &str) -> bool {
    let middle = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(".tmp"));
    middle.is_some_and(|middle| middle.len() == 32 && middle.bytes().all(is_hex_digit))
}
