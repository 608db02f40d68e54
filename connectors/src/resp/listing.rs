//! Keys of the database, by SCAN.

use std::collections::HashSet;

use connector_core::{CacheKey, Error, ErrorKind, Result};
use futures::stream::{self, Stream, StreamExt};

use crate::resp_wire::{Reply, Wire};

/// Keys that the server looks at in one go: a few milliseconds of its time at most.
const LOOKED_AT: u64 = 1000;

struct Scan<'a> {
    wire: &'a Wire,
    pattern: Vec<u8>,
    /// Where to go on; `None` at the end.
    cursor: Option<Vec<u8>>,
    /// A key may come more than once, while the server grows its table.
    seen: HashSet<CacheKey>,
}

/// The keys of chunks whose text starts with `prefix`, each once.
pub(super) fn keys<'a>(wire: &'a Wire, prefix: &'a str) -> impl Stream<Item = Result<CacheKey>> + Send + 'a {
    let scan = Scan { wire, pattern: pattern(prefix), cursor: Some(b"0".to_vec()), seen: HashSet::new() };
    let pages = stream::unfold(scan, |mut scan| async move {
        let cursor = scan.cursor.take()?;
        let page = scan.page(&cursor).await.unwrap_or_else(|e| vec![Err(e)]);
        Some((stream::iter(page), scan))
    });
    pages.flatten()
}

impl Scan<'_> {
    async fn page(&mut self, cursor: &[u8]) -> Result<Vec<Result<CacheKey>>> {
        let pattern = self.pattern.as_slice();
        let args = ["SCAN".into(), cursor.into(), "MATCH".into(), pattern.into(), "COUNT".into(), LOOKED_AT.into()];
        let reply = self.wire.command(&args).await?;
        let no_page =
            || Error::new(ErrorKind::Corrupt, "the server answers a SCAN with something else than a page of keys");
        let Reply::Array(parts) = reply else { return Err(no_page()) };
        let Ok([Reply::Bulk(next), Reply::Array(names)]) = <[Reply; 2]>::try_from(parts) else { return Err(no_page()) };
        self.cursor = (next != b"0").then_some(next);
        // Others may keep things in this database, too.
        let keys = names.iter().filter_map(|name| match name {
            Reply::Bulk(name) => CacheKey::parse(str::from_utf8(name).ok()?).ok(),
            _ => None,
        });
        Ok(keys.filter(|key| self.seen.insert(key.clone())).map(Ok).collect())
    }
}

/// The pattern of names that start with `prefix`, whatever that holds.
fn pattern(prefix: &str) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(prefix.len() + 1);
    for byte in prefix.bytes() {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'^' | b'-') {
            pattern.push(b'\\');
        }
        pattern.push(byte);
    }
    pattern.push(b'*');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_stands_for_itself() {
        assert_eq!(pattern("a*[b]?\\"), b"a\\*\\[b\\]\\?\\\\*");
        assert_eq!(pattern(""), b"*");
    }
}
