//! The keys of the chunks in the database.

use connector_core::{CacheKey, Result};
use futures::stream::{self, Stream, StreamExt};

use super::exchanges::Exists;
use super::layout::{KV_BYTES, key_of_kv_bytes};
use crate::resp_wire::{Wire, scan};

/// The keys whose text starts with `prefix`, each once, and only those with both halves.
pub(super) fn keys<'a>(wire: &'a Wire, prefix: &'a str) -> impl Stream<Item = Result<CacheKey>> + Send + 'a {
    let pages = scan::keys(wire, prefix, KV_BYTES, key_of_kv_bytes).then(move |page| async move {
        stream::iter(match page {
            Ok(keys) => whole(wire, keys).await,
            Err(e) => vec![Err(e)],
        })
    });
    pages.flatten()
}

async fn whole(wire: &Wire, keys: Vec<CacheKey>) -> Vec<Result<CacheKey>> {
    let exist = wire.exchange_all(keys.iter().map(|key| Exists(wire.name(key))).collect()).await;
    let answers = keys.into_iter().zip(exist).filter_map(|(key, exists)| match exists {
        Ok(exists) => exists.then_some(Ok(key)),
        Err(e) => Some(Err(e)),
    });
    answers.collect()
}
