//! A listing in pages.

use std::collections::BTreeMap;

use futures::stream::TryStreamExt;

use super::{Connector, ListEntry};
use crate::key::CacheKey;
use crate::{Error, ErrorKind, Result};

/// A part of a listing, in the order of the keys' texts. [`Connector::list_page`] gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListPage {
    /// The chunks, in the order of their keys' texts (by their bytes).
    pub entries: Vec<ListEntry>,
    /// The cursor of the next page: the text of the last key. `None` if no key follows.
    pub next: Option<String>,
}

impl Connector {
    /// The first `limit` chunks whose keys' texts start with `prefix` and come after `after`, in the order of these texts.
    /// For the next page, `after` is this page's [`next`](ListPage::next).
    ///
    /// **Cost.** A page reads the whole listing under `prefix`, and keeps `limit` entries in memory. All pages of `n` keys
    /// read `n * n / limit` keys, so a caller asks for large pages, or reads [`list_entries`](Self::list_entries) once.
    ///
    /// A key that stays during all pages is in exactly one of them. A key that is put or removed meanwhile may be in one.
    ///
    /// # Errors
    /// `InvalidInput` for a limit of 0, and the listing's first error.
    pub async fn list_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<ListPage> {
        if limit == 0 {
            let e = Error::new(ErrorKind::InvalidInput, "a page of 0 keys would never end");
            return Err(e.with_hint("ask for 1 key or more").with_operation("list_page").with_connector(self.name()));
        }
        let mut first: BTreeMap<CacheKey, ListEntry> = BTreeMap::new();
        let mut has_more = false;
        let mut entries = self.list_entries(prefix);
        while let Some(entry) = entries.try_next().await? {
            let text = entry.key.as_str();
            let is_full = first.len() >= limit;
            if after.is_some_and(|after| text <= after) {
                continue;
            }
            if is_full && first.last_key_value().is_some_and(|(last, _)| last.as_str() < text) {
                has_more = true;
                continue;
            }
            first.insert(entry.key.clone(), entry);
            if first.len() > limit {
                first.pop_last();
                has_more = true;
            }
        }
        let entries: Vec<ListEntry> = first.into_values().collect();
        let next = entries.last().filter(|_| has_more).map(|last| last.key.as_str().to_owned());
        Ok(ListPage { entries, next })
    }
}
