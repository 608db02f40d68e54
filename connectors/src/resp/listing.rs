//! Keys of the database.

use std::collections::HashSet;

use connector_core::{CacheKey, Result};
use futures::stream::{self, Stream, StreamExt};

use crate::resp_wire::{Scan, Wire};

/// The keys of chunks whose text starts with `prefix`, each once.
pub(super) fn keys<'a>(wire: &'a Wire, prefix: &'a str) -> impl Stream<Item = Result<CacheKey>> + Send + 'a {
    // A scan may give a name more than once.
    let begin = (Scan::new(wire, prefix, ""), HashSet::new());
    let pages = stream::unfold(begin, |(mut scan, mut seen)| async move {
        let page: Vec<Result<CacheKey>> = match scan.page().await? {
            Ok(names) => {
                // Other programs may use this database, too.
                let keys = names.iter().filter_map(|name| CacheKey::parse(str::from_utf8(name).ok()?).ok());
                keys.filter(|key: &CacheKey| seen.insert(key.clone())).map(Ok).collect()
            }
            Err(e) => vec![Err(e)],
        };
        Some((stream::iter(page), (scan, seen)))
    });
    pages.flatten()
}
