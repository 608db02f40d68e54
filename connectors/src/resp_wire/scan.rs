//! Names in the database, by SCAN.

use connector_core::{Error, ErrorKind, Result};

use super::connection::Connection;
use super::exchange::{Exchange, Wire};
use super::reply::Reply;
use super::request::Request;

/// Names that the server looks at for one page: a few milliseconds of its time at most.
const LOOKED_AT: u64 = 1000;

/// A walk over the names with a prefix and a suffix. A name may come more than once while the server grows its table.
pub(crate) struct Scan<'a> {
    wire: &'a Wire,
    pattern: Vec<u8>,
    /// Where the next page starts; `None` at the end.
    cursor: Option<Vec<u8>>,
}

impl<'a> Scan<'a> {
    /// A walk over the names that start with `prefix` and end with `suffix`. Both may hold any characters.
    pub(crate) fn new(wire: &'a Wire, prefix: &str, suffix: &str) -> Self {
        Self { wire, pattern: pattern(prefix, suffix), cursor: Some(b"0".to_vec()) }
    }

    /// Some of the names, maybe none; `None` at the end, and after an error.
    pub(crate) async fn page(&mut self) -> Option<Result<Vec<Vec<u8>>>> {
        let page = Page { cursor: self.cursor.take()?, pattern: &self.pattern };
        let answer = self.wire.exchange(page).await;
        Some(answer.map(|(next, names)| {
            self.cursor = (next != b"0").then_some(next);
            names
        }))
    }
}

struct Page<'a> {
    cursor: Vec<u8>,
    pattern: &'a [u8],
}

impl Exchange for Page<'_> {
    /// The next cursor, and names.
    type Answer = (Vec<u8>, Vec<Vec<u8>>);
    const SMALL: bool = true;

    fn key(&self) -> Option<&[u8]> {
        None
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let (cursor, pattern) = (self.cursor.as_slice().into(), self.pattern.into());
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

fn pattern(prefix: &str, suffix: &str) -> Vec<u8> {
    let escaped = |text: &str| -> Vec<u8> {
        let special = |b| matches!(b, b'*' | b'?' | b'[' | b']' | b'\\' | b'^' | b'-');
        text.bytes().flat_map(|b| special(b).then_some(b'\\').into_iter().chain([b])).collect()
    };
    [escaped(prefix), b"*".to_vec(), escaped(suffix)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_and_a_suffix_stand_for_themselves() {
        assert_eq!(pattern("a*[b]?\\", ""), b"a\\*\\[b\\]\\?\\\\*");
        assert_eq!(pattern("", "x*"), b"*x\\*");
    }
}
