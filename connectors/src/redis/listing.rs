//! The chunks in the database.

use connector_core::{CacheKey, ListEntry, Result};
use futures::stream::{self, Stream, StreamExt};

use super::apart;
use super::exchanges::Size;
use super::layout::{KV_BYTES, key_of_kv_bytes};
use crate::resp_wire::{Wire, scan};

/// The chunks whose keys' texts start with `prefix`. A chunk that lacks a half is left out. A page of names and a pipeline
/// of their sizes take one round trip each. The next page arrives during the pipeline.
pub(super) fn entries<'a>(wire: &'a Wire, prefix: &'a str) -> impl Stream<Item = Result<ListEntry>> + Send + 'a {
    let pages = scan::keys(wire, prefix, KV_BYTES, key_of_kv_bytes).map(move |page| async move {
        stream::iter(match page {
            Ok(keys) => whole(wire, keys).await,
            Err(e) => vec![Err(e)],
        })
    });
    pages.buffered(2).flatten()
}

/// The bytes of the header and the bytes of each chunk. `None` unless `get` can read the chunk.
pub(super) async fn sizes(wire: &Wire, keys: &[CacheKey]) -> Vec<Result<Option<u64>>> {
    let names = keys.iter().map(|key| wire.name(key));
    match wire.is_cluster() {
        true => apart::sizes(wire, &names.collect::<Vec<_>>()).await,
        false => wire.exchange_all(names.map(Size).collect()).await,
    }
}

async fn whole(wire: &Wire, keys: Vec<CacheKey>) -> Vec<Result<ListEntry>> {
    let sizes = sizes(wire, &keys).await;
    let entries = keys.into_iter().zip(sizes).filter_map(|(key, size)| match size {
        Ok(size) => size.map(|bytes| Ok(ListEntry::new(key).with_size(bytes))),
        Err(e) => Some(Err(e)),
    });
    entries.collect()
}
