//! Parts of a reply that are not whole yet.

use super::reply::{BadReply, Reply, bad};
use super::token::Aggregate;

#[derive(Debug)]
pub(super) struct Open {
    pub(super) kind: Aggregate,
    pub(super) left: usize,
    pub(super) items: Vec<Reply>,
}

#[derive(Debug)]
pub(super) struct PartialString {
    pub(super) bytes: Vec<u8>,
    pub(super) left: usize,
    pub(super) kind: StringKind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum StringKind {
    Bulk,
    Error,
    Verbatim,
}

impl Open {
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
