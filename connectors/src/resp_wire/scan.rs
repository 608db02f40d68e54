//! The keys in the database, by SCAN.

use std::collections::HashSet;

use connector_core::{CacheKey, Error, ErrorKind, Result};
use futures::stream::{self, Stream};

use super::connection::Connection;
use super::exchange::{Exchange, Wire};
use super::reply::Reply;
use super::request::Request;

/// Names that the server looks at for one page: a few milliseconds of its time at most.
const LOOKED_AT: u64 = 1000;

/// The keys of the wire's namespace whose text starts with `prefix`, each once, a page at a time. `key_of` gives the
/// key of a name that ends with `suffix`, and `None` for names of other programs.
pub(crate) fn keys<'a>(
    wire: &'a Wire,
    prefix: &'a str,
    suffix: &'static str,
    key_of: fn(&[u8]) -> Option<CacheKey>,
) -> impl Stream<Item = Result<Vec<CacheKey>>> + Send + 'a {
    // A scan may give a name more than once, while the server grows its table.
    let start = (Some(b"0".to_vec()), HashSet::new());
    let namespace = wire.options().prefix.as_str();
    stream::unfold(start, move |(cursor, mut seen)| async move {
        let page = Page { cursor: cursor?, pattern: pattern(&[namespace, prefix], suffix) };
        let (next, names) = match wire.exchange(page).await {
            Ok(page) => page,
            Err(e) => return Some((Err(e), (None, seen))),
        };
        let keys = names.iter().filter_map(|name| key_of(name.strip_prefix(namespace.as_bytes())?));
        // The end of the prefix and the start of the suffix may be the same letters of a name.
        let keys = keys.filter(|key| key.as_str().starts_with(prefix) && seen.insert(key.clone())).collect();
        Some((Ok(keys), ((next != b"0").then_some(next), seen)))
    })
}

struct Page {
    cursor: Vec<u8>,
    pattern: Vec<u8>,
}

impl Exchange for Page {
    /// The next cursor, and names.
    type Answer = (Vec<u8>, Vec<Vec<u8>>);
    const SMALL: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        None
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let (cursor, pattern) = (self.cursor.as_slice().into(), self.pattern.as_slice().into());
        request.command(&["SCAN".into(), cursor, "MATCH".into(), pattern, "COUNT".into(), LOOKED_AT.into()]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        Ok(connection.answer().await?.and_then(|reply| {
            page(reply)
                .ok_or_else(|| Error::new(ErrorKind::Corrupt, "the server's answer to SCAN is not a page of names"))
        }))
    }
}

fn page(reply: Reply) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let bulk = |reply| if let Reply::Bulk(bytes) = reply { Some(bytes) } else { None };
    let Reply::Array(parts) = reply else { return None };
    let Ok([Reply::Bulk(next), Reply::Array(names)]) = <[Reply; 2]>::try_from(parts) else { return None };
    Some((next, names.into_iter().map(bulk).collect::<Option<_>>()?))
}

fn pattern(start: &[&str], suffix: &str) -> Vec<u8> {
    let escaped = |text: &str| -> Vec<u8> {
        let special = |b| matches!(b, b'*' | b'?' | b'[' | b']' | b'\\' | b'^' | b'-');
        text.bytes().flat_map(|b| special(b).then_some(b'\\').into_iter().chain([b])).collect()
    };
    [escaped(&start.concat()), b"*".to_vec(), escaped(suffix)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_and_a_suffix_stand_for_themselves() {
        assert_eq!(pattern(&["n.s-1:", "a*[b]?\\"], ""), b"n.s\\-1:a\\*\\[b\\]\\?\\\\*");
        assert_eq!(pattern(&["", ""], "x*"), b"*x\\*");
    }
}
