//! The keys that Python gives, and the fields of keys for `kvconn._keys`.

use std::num::NonZeroUsize;

use connectors::key::{ChunkHash, chain_object_prefix, chain_prefix_from, none_hash_of};
use connectors::{CacheEngineKey, CacheKey, Dtype, Error, ErrorKind, KeyKind, LayerCacheEngineKey, ObjectKey, Result};
use pyo3::exceptions::{PyTypeError, PyUnicodeEncodeError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::{OrRaise, invalid, refused};

/// The key of a text. Without a kind, the text decides.
///
/// # Errors
/// `InvalidError` for anything else.
pub(crate) fn key_of(text: &Bound<'_, PyAny>, kind: Option<KeyKind>) -> PyResult<CacheKey> {
    let read = |text: String| match kind {
        Some(kind) => CacheKey::parse(&text, kind),
        None => text.parse(),
    };
    text_of(text)?.and_then(read).or_raise(text.py())
}

/// `"engine"` or `"object"`.
pub(crate) fn kind_of(py: Python<'_>, name: &str) -> PyResult<KeyKind> {
    match name {
        "engine" => Ok(KeyKind::Engine),
        "object" => Ok(KeyKind::Object),
        _ => Err(invalid(py, format!("`{name}` is not a kind of key; write `engine` or `object`"))),
    }
}

/// The text of a key. The inner error is that of text with an unpaired surrogate.
///
/// # Errors
/// `InvalidError` for an object of another type.
pub(crate) fn text_of(text: &Bound<'_, PyAny>) -> PyResult<Result<String>> {
    match text.extract::<String>() {
        Ok(text) => Ok(Ok(text)),
        Err(e) if e.is_instance_of::<PyUnicodeEncodeError>(text.py()) => {
            let message = format!("{} is not a key: it has an unpaired surrogate", text.repr()?);
            Ok(
                Err(Error::new(ErrorKind::InvalidKey, message)
                    .with_hint("was the text decoded with `surrogateescape`?")),
            )
        }
        Err(_) => {
            let message = format!("a key is a str or a `kvconn.Key`, not a {}", text.get_type().name()?);
            Err(refused(text.py(), ErrorKind::InvalidKey, PyTypeError::new_err(message)))
        }
    }
}

/// Name and value of each tag.
type Tags = Vec<(String, String)>;

/// Model, world size, worker, hash, name of the dtype, tags and layer of an engine key.
type EngineFields<Name> = (String, u32, u32, String, Name, Tags, Option<u32>);

/// The text of an engine key, or of a layer's key, with the torch name of the dtype.
#[pyfunction]
#[pyo3(name = "_engine_key")]
fn engine_key(py: Python<'_>, fields: EngineFields<String>) -> PyResult<(String, &'static str)> {
    let (model, world_size, worker_id, chunk_hash, dtype, tags, layer_id) = fields;
    let make = || {
        let (hash, dtype): (ChunkHash, Dtype) = (chunk_hash.parse()?, dtype.parse()?);
        let mut key = CacheEngineKey::new(model, world_size, worker_id, hash, dtype)?;
        for (name, value) in tags {
            key = key.with_tag(name, value)?;
        }
        let text = match layer_id {
            Some(layer_id) => LayerCacheEngineKey { key, layer_id }.to_string(),
            None => key.to_string(),
        };
        // The store reads the text, so it must be a key.
        CacheKey::parse(&text, KeyKind::Engine)?;
        Ok((text, dtype.torch_name()))
    };
    make().or_raise(py)
}

/// The fields of an engine key, or of a layer's key.
#[pyfunction]
#[pyo3(name = "_engine_fields")]
fn engine_fields(py: Python<'_>, text: &Bound<'_, PyAny>) -> PyResult<EngineFields<&'static str>> {
    let read = |text: String| {
        let layer = text.parse::<LayerCacheEngineKey>();
        let (key, layer_id) = match layer {
            Ok(layer) => (layer.key, Some(layer.layer_id)),
            Err(_) => (text.parse::<CacheEngineKey>()?, None),
        };
        let tags = key.tags().ok_or_else(|| {
            let message = format!("`{text}` does not show where a tag starts, because a tag contains `@`");
            Error::new(ErrorKind::InvalidKey, message).with_hint("a store takes the text as it is")
        })?;
        let tags = tags.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let (hash, dtype) = (key.chunk_hash().as_str().to_owned(), key.dtype().torch_name());
        Ok((key.model_name().to_owned(), key.world_size(), key.worker_id(), hash, dtype, tags, layer_id))
    };
    text_of(text)?.and_then(read).or_raise(py)
}

/// The text of an object key.
#[pyfunction]
#[pyo3(name = "_object_key")]
fn object_key(
    py: Python<'_>,
    model: String,
    kv_rank: i64,
    object_group: u64,
    chunk_hash: Vec<u8>,
    salt: String,
) -> PyResult<String> {
    ObjectKey::new(model, kv_rank, object_group, chunk_hash, salt).map(|key| key.to_string()).or_raise(py)
}

/// Model, rank, group, hash and salt of an object key.
#[pyfunction]
#[pyo3(name = "_object_fields")]
fn object_fields<'py>(
    py: Python<'py>,
    text: &Bound<'_, PyAny>,
) -> PyResult<(String, i64, u64, Bound<'py, PyBytes>, String)> {
    let key: ObjectKey = text_of(text)?.and_then(|text| text.parse()).or_raise(py)?;
    let (model, salt) = (key.model_name().to_owned(), key.cache_salt().to_owned());
    Ok((model, key.kv_rank(), key.object_group_id(), PyBytes::new(py, key.chunk_hash()), salt))
}

/// LMCache's chunk hashes inside an engine, with `sha256_cbor`. `none_hash` is the hash of the empty prefix, in place of the
/// seed's. The last chunk may be partial.
#[pyfunction]
#[pyo3(name = "_engine_hashes")]
fn engine_hashes(tokens: Vec<u32>, chunk_size: NonZeroUsize, seed: &str, none_hash: Option<u64>) -> Vec<u64> {
    let none_hash = none_hash.unwrap_or_else(|| none_hash_of(seed));
    chain_prefix_from(none_hash, &tokens, chunk_size.get()).collect()
}

/// The chunk hashes of LMCache's server, of whole chunks only: with `sha256_cbor` and this seed, otherwise with `blake3`.
#[pyfunction]
#[pyo3(name = "_object_hashes")]
fn object_hashes<'py>(
    py: Python<'py>,
    tokens: Vec<u32>,
    chunk_size: NonZeroUsize,
    seed: Option<&str>,
) -> Vec<Bound<'py, PyBytes>> {
    let hashes: Vec<[u8; 32]> = match seed {
        Some(seed) => chain_object_prefix(seed, &tokens, chunk_size.get()).collect(),
        None => {
            let link = |previous: &[u8], tokens: &[u32]| {
                let mut hasher = blake3::Hasher::new();
                hasher.update(previous);
                tokens.iter().for_each(|token| _ = hasher.update(&token.to_be_bytes()));
                *hasher.finalize().as_bytes()
            };
            // The chain starts with a chunk of the token 0 after the hash 0.
            let first = link(&0_i64.to_be_bytes(), &[0]);
            let next = |previous: &mut [u8; 32], chunk| {
                *previous = link(previous, chunk);
                Some(*previous)
            };
            tokens.chunks_exact(chunk_size.get()).scan(first, next).collect()
        }
    };
    hashes.iter().map(|hash| PyBytes::new(py, hash)).collect()
}

pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(engine_key, m)?)?;
    m.add_function(wrap_pyfunction!(engine_fields, m)?)?;
    m.add_function(wrap_pyfunction!(object_key, m)?)?;
    m.add_function(wrap_pyfunction!(object_fields, m)?)?;
    m.add_function(wrap_pyfunction!(engine_hashes, m)?)?;
    m.add_function(wrap_pyfunction!(object_hashes, m)?)
}
