//! One line of RESP: a value, or the start of a string or an aggregate.

use super::reply::{BadReply, Reply, bad};

#[derive(Debug)]
pub(super) enum Token {
    Value(Reply),
    /// This number of bytes and CRLF follow.
    String(StringKind, usize),
    /// This number of values follow.
    Open(Aggregate, usize),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum StringKind {
    Bulk,
    Error,
    Verbatim,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Aggregate {
    Array,
    Map,
    /// A message out of band. Dropped.
    Push,
    /// Attributes of the next value. Dropped.
    Attributes,
}

/// An aggregate that is not whole yet.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) kind: Aggregate,
    pub(super) left: usize,
    pub(super) items: Vec<Reply>,
}

/// A string that is not whole yet.
#[derive(Debug)]
pub(super) struct PartialString {
    pub(super) bytes: Vec<u8>,
    pub(super) left: usize,
    pub(super) kind: StringKind,
}

impl Open {
    /// The whole value, or `None` if kvconn drops it.
    pub(super) fn finish(self) -> Option<Reply> {
        match self.kind {
            Aggregate::Array => Some(Reply::Array(self.items)),
            Aggregate::Map => {
                let mut items = self.items.into_iter();
                let pairs = std::iter::from_fn(|| Some((items.next()?, items.next()?)));
                Some(Reply::Map(pairs.collect()))
            }
            Aggregate::Push | Aggregate::Attributes => None,
        }
    }
}

impl PartialString {
    pub(super) fn finish(self) -> Result<Reply, BadReply> {
        match self.kind {
            StringKind::Bulk => Ok(Reply::Bulk(self.bytes)),
            StringKind::Error => Ok(Reply::Error(self.bytes)),
            StringKind::Verbatim if self.bytes.get(3) == Some(&b':') => Ok(Reply::Bulk(self.bytes[4..].to_vec())),
            StringKind::Verbatim => bad("a verbatim string without a type"),
        }
    }
}

/// Reads a line without its CRLF.
pub(super) fn parse(line: &[u8]) -> Result<Token, BadReply> {
    let Some((kind, rest)) = line.split_first() else { return bad("an empty line") };
    let value = |reply| Ok(Token::Value(reply));
    let malformed = || BadReply(format!("the malformed line `{}`", line[..line.len().min(64)].escape_ascii()));
    let open = |kind, each: usize| {
        let n = length(rest).ok_or_else(malformed)?;
        Ok(Token::Open(kind, n.checked_mul(each).ok_or_else(malformed)?))
    };
    match kind {
        b'+' => value(Reply::Simple(rest.to_vec())),
        b'-' => value(Reply::Error(rest.to_vec())),
        b':' => value(Reply::Int(integer(rest).ok_or_else(malformed)?)),
        b'$' | b'*' if rest == b"-1" => value(Reply::Null),
        b'$' => Ok(Token::String(StringKind::Bulk, length(rest).ok_or_else(malformed)?)),
        b'!' => Ok(Token::String(StringKind::Error, length(rest).ok_or_else(malformed)?)),
        b'=' => Ok(Token::String(StringKind::Verbatim, length(rest).ok_or_else(malformed)?)),
        b'*' | b'~' => open(Aggregate::Array, 1),
        b'%' => open(Aggregate::Map, 2),
        b'>' => open(Aggregate::Push, 1),
        b'|' => open(Aggregate::Attributes, 2),
        b'_' if rest.is_empty() => value(Reply::Null),
        b'#' if rest == b"t" => value(Reply::Bool(true)),
        b'#' if rest == b"f" => value(Reply::Bool(false)),
        b',' => value(Reply::Double(double(rest).ok_or_else(malformed)?)),
        b'(' if is_number(rest) => value(Reply::Bulk(rest.to_vec())),
        _ => Err(malformed()),
    }
}

fn length(digits: &[u8]) -> Option<usize> {
    digits.iter().all(u8::is_ascii_digit).then(|| str::from_utf8(digits).ok()?.parse().ok())?
}

fn integer(text: &[u8]) -> Option<i64> {
    is_number(text).then(|| str::from_utf8(text).ok()?.parse().ok())?
}

fn is_number(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// `1.5`, `-2e9`, `inf`, `nan`, as Rust reads them.
fn double(text: &[u8]) -> Option<f64> {
    str::from_utf8(text).ok()?.parse().ok()
}
