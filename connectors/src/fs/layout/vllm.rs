//! The paths of vLLM's `fs` tier: `<model>_<digest>_r<rank>/<hhh>/<hh>_g<group>/<hash>.bin`.
//!
//! Source: `vllm/v1/kv_offload/file_mapper.py` and `tiering/fs/io.py` of vLLM 0.32.0; vectors in `vllm_files.json`.

use connector_core::{Error, ErrorKind, ObjectKey, Result};

use super::{bytes_of, hex, is_hex_digit};

const EXTENSION: &str = ".bin";

pub(super) fn path_of(key: &ObjectKey) -> Result<String> {
    let refused = |why: &'static str| Err(Error::new(ErrorKind::InvalidKey, why));
    if !key.cache_salt().is_empty() {
        return refused("vLLM's file names have no place for a salt, because vLLM's hashes include the salt");
    }
    if key.kv_rank() < 0 {
        return refused("vLLM's file names have no place for a negative rank");
    }
    let (model, rank, group, hash) = (key.model_name(), key.kv_rank(), key.object_group_id(), hex(key.chunk_hash()));
    let digits = |from: usize, to: usize| &hash[from.min(hash.len())..to.min(hash.len())];
    Ok(format!("{model}_r{rank}/{}/{}_g{group}/{hash}{EXTENSION}", digits(0, 3), digits(3, 5)))
}

/// A key that may have this path. [`path_of`] gives the path that it has.
pub(super) fn key_of(path: &str) -> Option<ObjectKey> {
    let parts: Vec<&str> = path.split('/').collect();
    let [model, _, leaf, name] = parts[..] else { return None };
    let (model, rank) = model.rsplit_once("_r")?;
    let (_, group) = leaf.rsplit_once("_g")?;
    let hash = bytes_of(name.strip_suffix(EXTENSION)?)?;
    ObjectKey::new(model, rank.parse().ok()?, group.parse().ok()?, hash, "").ok()
}

/// Whether vLLM may have made a directory of this path for chunks. The directory with `config.json` is not one.
pub(super) fn is_folder(path: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_hex = |text: &str, most: usize| text.len() <= most && text.bytes().all(is_hex_digit);
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        [model] => model.rsplit_once("_r").is_some_and(|(model, rank)| !model.is_empty() && is_number(rank)),
        [_, first] => is_hex(first, 3),
        [_, _, leaf] => leaf.rsplit_once("_g").is_some_and(|(digits, group)| is_hex(digits, 2) && is_number(group)),
        _ => false,
    }
}

/// The path that the file has when it is complete: vLLM writes `<path>_<number>.tmp`.
pub(super) fn unfinished(path: &str) -> Option<&str> {
    let (path, number) = path.strip_suffix(".tmp")?.rsplit_once('_')?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(path)
}
