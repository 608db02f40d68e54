//! The names of a chunk's two values, as LMCache makes them.
//!
//! | name | value |
//! |---|---|
//! | the key's text and `metadata` | the chunk header ([`ChunkHeader`](connector_core::ChunkHeader)); its length says how many groups |
//! | the key's text and `kv_bytes` | the chunk's bytes |
//!
//! Source: `redis_connector.py` of LMCache 0.5.6; vectors in `storage_names.json` and `remote_metadata.json`.

use connector_core::CacheKey;

/// The suffix of the header.
pub const METADATA: &str = "metadata";
/// The suffix of the bytes.
pub const KV_BYTES: &str = "kv_bytes";

/// The name of the chunk's header.
pub fn metadata_name(key: &CacheKey) -> String {
    format!("{key}{METADATA}")
}

/// The name of the chunk's bytes.
pub fn kv_bytes_name(key: &CacheKey) -> String {
    format!("{key}{KV_BYTES}")
}

/// The key of a name that [`kv_bytes_name`] gave.
pub fn key_of_kv_bytes(name: &[u8]) -> Option<CacheKey> {
    str::from_utf8(name).ok()?.strip_suffix(KV_BYTES)?.parse().ok()
}
