//! A listing in pages.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::TryStreamExt;
use tokio::time::Instant;

use super::{Connector, ListEntry, Operation};
use crate::key::CacheKey;
use crate::{Error, ErrorKind, Result};

/// The pages that one listing of the store serves.
const PAGES_AHEAD: usize = 128;
/// The most entries that a page keeps for the pages that follow: about 10 MB.
const MOST_AHEAD: usize = 65_536;
/// The longest time for which it keeps them.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// A part of a listing, in the order of the keys' texts. [`Connector::list_page`] gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListPage {
    /// The chunks, in the order of their keys' texts (by their bytes).
    pub entries: Vec<ListEntry>,
    /// The cursor of the next page: the text of the last key. `None` if no key follows.
    pub next: Option<String>,
}

/// Reads pages of the keys that `wanted` accepts, and keeps the entries beyond a page for the next one.
///
/// [`Connector::list_page`] has one for all keys. A caller that pages through a part of the keys makes its own.
#[derive(Debug)]
pub struct Pages {
    wanted: fn(&CacheKey) -> bool,
    ahead: Mutex<Option<Ahead>>,
}

/// The entries that follow a page.
#[derive(Debug)]
struct Ahead {
    prefix: String,
    /// The text of the page's last key.
    after: String,
    entries: VecDeque<ListEntry>,
    /// Whether the store has more.
    has_more: bool,
    since: Instant,
}

impl Pages {
    /// Pages of the keys that `wanted` accepts.
    pub fn new(wanted: fn(&CacheKey) -> bool) -> Self {
        Self { wanted, ahead: Mutex::new(None) }
    }

    /// As [`Connector::list_page`] of `store`, with the wanted keys alone.
    ///
    /// # Errors
    /// As [`Connector::list_page`].
    pub async fn page(&self, store: &Connector, prefix: &str, after: Option<&str>, limit: usize) -> Result<ListPage> {
        let fails = |e: Error| e.with_operation("list_page").with_connector(store.name());
        if limit == 0 {
            let e = Error::new(ErrorKind::InvalidInput, "a page of 0 keys would never end");
            return Err(fails(e.with_hint("ask for 1 key or more")));
        }
        store.0.gate.enter_ref().map_err(|closed| store.explain(closed, Operation::ListEntries, None))?;
        let kept = self.take(prefix, after, limit);
        let (mut entries, has_more, since) = match kept {
            Some(ahead) => (ahead.entries, ahead.has_more, ahead.since),
            None => {
                let since = Instant::now();
                let (entries, has_more) = self.read(store, prefix, after, limit).await?;
                (entries, has_more, since)
            }
        };
        let rest = entries.split_off(limit.min(entries.len()));
        let follows = has_more || !rest.is_empty();
        let next = entries.back().filter(|_| follows).map(|last| last.key.as_str().to_owned());
        if let Some(after) = next.clone().filter(|_| !rest.is_empty()) {
            *self.lock() = Some(Ahead { prefix: prefix.to_owned(), after, entries: rest, has_more, since });
        }
        Ok(ListPage { entries: entries.into(), next })
    }

    /// Drops the entries that were read ahead.
    pub(super) fn clear(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Ahead>> {
        // No code panics while it holds the lock.
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entries after `after`, if the last page ended there. They serve one page. A second call for that page reads the
    /// store again.
    fn take(&self, prefix: &str, after: Option<&str>, limit: usize) -> Option<Ahead> {
        let mut kept = self.lock();
        kept.take_if(|ahead| ahead.since.elapsed() > KEPT_FOR);
        let is_next = |ahead: &mut Ahead| ahead.prefix == prefix && Some(&*ahead.after) == after;
        kept.take_if(is_next).filter(|ahead| ahead.entries.len() >= limit || !ahead.has_more)
    }

    /// The first entries after `after`, in order, and whether more follow. Reads the whole listing.
    async fn read(
        &self,
        store: &Connector,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(VecDeque<ListEntry>, bool)> {
        let most = limit.saturating_mul(PAGES_AHEAD).min(MOST_AHEAD).max(limit);
        let mut first: BTreeMap<CacheKey, ListEntry> = BTreeMap::new();
        let mut has_more = false;
        let mut entries = store.list_entries(prefix);
        while let Some(entry) = entries.try_next().await? {
            let text = entry.key.as_str();
            if after.is_some_and(|after| text <= after) || !(self.wanted)(&entry.key) {
                continue;
            }
            let is_full = first.len() >= most;
            if is_full && first.last_key_value().is_some_and(|(last, _)| last.as_str() < text) {
                has_more = true;
                continue;
            }
            first.insert(entry.key.clone(), entry);
            if first.len() > most {
                first.pop_last();
                has_more = true;
            }
        }
        Ok((first.into_values().collect(), has_more))
    }
}

impl Connector {
    /// The first `limit` chunks whose keys' texts start with `prefix` and come after `after`, in the order of these texts.
    /// For the next page, `after` is this page's [`next`](ListPage::next).
    ///
    /// **Cost.** The first page reads the whole listing under `prefix`. It keeps the entries of the next 127 pages for a
    /// minute, at most 65,536. So all pages of `n` keys read the listing once for every 128 pages or 65,536 keys. The
    /// connector keeps the entries of one sequence of pages. With two sequences at the same time, each page reads the listing.
    ///
    /// A key that stays during all pages is in exactly one of them. A key that is put or removed meanwhile may be in one.
    ///
    /// # Errors
    /// `InvalidInput` for a limit of 0, and the listing's first error.
    pub async fn list_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<ListPage> {
        self.0.pages.page(self, prefix, after, limit).await
    }
}
