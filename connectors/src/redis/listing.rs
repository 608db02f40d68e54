//! Keys of the chunks in the database.

use std::collections::HashSet;

use connector_core::{CacheKey, Result};
use futures::stream::{self, Stream, StreamExt};

use super::exchanges::Exists;
use super::layout::{KV_BYTES, key_of_kv_bytes};
use crate::resp_wire::{Scan, Wire};

/// The keys of chunks whose text starts with `prefix`, each once, and only if both halves are there.
pub(super) fn keys<'a>(wire: &'a Wire, prefix: &'a str) -> impl Stream<Item = Result<CacheKey>> + Send + 'a {
    // A scan may give a name more than once.
    let begin = (Scan::new(wire, prefix, KV_BYTES), HashSet::new());
    let pages = stream::unfold(begin, move |(mut scan, mut seen)| async move {
        let page = match scan.page().await? {
            Ok(names) => {
                // Other programs may use this database, too.
                let keys = names.iter().filter_map(|name| key_of_kv_bytes(name));
                // The end of the prefix and the start of the suffix may be the same letters of a name.
                let keys = keys.filter(|key| key.as_str().starts_with(prefix));
                whole(wire, keys.filter(|key| seen.insert(key.clone())).collect()).await
            }
            Err(e) => vec![Err(e)],
        };
        Some((stream::iter(page), (scan, seen)))
    });
    pages.flatten()
}

/// The keys whose halves are both there.
async fn whole(wire: &Wire, keys: Vec<CacheKey>) -> Vec<Result<CacheKey>> {
    let there = wire.exchange_all(keys.iter().map(Exists).collect()).await;
    let answers = keys.into_iter().zip(there).filter_map(|(key, there)| match there {
        Ok(there) => there.then_some(Ok(key)),
        Err(e) => Some(Err(e)),
    });
    answers.collect()
}
