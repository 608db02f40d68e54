//! Names in the database, by SCAN.

use connector_core::{Error, ErrorKind, Result};

use super::pool::Wire;
use super::reply::Reply;

/// Names that the server looks at in one go: a few milliseconds of its time at most.
const LOOKED_AT: u64 = 1000;

/// A walk through the names with a beginning and an end. One may come more than once, while the server grows its table.
pub(crate) struct Scan<'a> {
    wire: &'a Wire,
    pattern: Vec<u8>,
    /// Where to go on; `None` at the end.
    cursor: Option<Vec<u8>>,
}

impl<'a> Scan<'a> {
    /// Will walk through the names that start with `prefix` and end with `suffix`, whatever those hold.
    pub(crate) fn new(wire: &'a Wire, prefix: &str, suffix: &str) -> Self {
        Self { wire, pattern: pattern(prefix, suffix), cursor: Some(b"0".to_vec()) }
    }

    /// Some of the names, or none yet; `None` at the end, and after an error.
    pub(crate) async fn page(&mut self) -> Option<Result<Vec<Vec<u8>>>> {
        let cursor = self.cursor.take()?;
        Some(self.page_at(&cursor).await)
    }

    async fn page_at(&mut self, cursor: &[u8]) -> Result<Vec<Vec<u8>>> {
        let pattern = self.pattern.as_slice();
        let args = ["SCAN".into(), cursor.into(), "MATCH".into(), pattern.into(), "COUNT".into(), LOOKED_AT.into()];
        let reply = self.wire.command(&args).await?;
        let no_page =
            || Error::new(ErrorKind::Corrupt, "the server answers a SCAN with something else than a page of keys");
        let Reply::Array(parts) = reply else { return Err(no_page()) };
        let Ok([Reply::Bulk(next), Reply::Array(names)]) = <[Reply; 2]>::try_from(parts) else { return Err(no_page()) };
        self.cursor = (next != b"0").then_some(next);
        let names = names.into_iter().map(|name| match name {
            Reply::Bulk(name) => Ok(name),
            _ => Err(no_page()),
        });
        names.collect()
    }
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
