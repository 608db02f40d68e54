//! The chunks of the store, page by page.

use std::sync::Arc;

use connector_core::{BoxStream, CacheKey, ListEntry, Result};
use futures::stream::{self, StreamExt, TryStreamExt};
use opendal::{Entry, Lister};

use super::names::Named;
use super::store::Store;

/// The objects of one step of a listing: as many as a page of S3.
const STEP: usize = 1000;

/// The rest of a listing.
struct Rest {
    /// The beginnings of names that are still to be listed.
    prefixes: Vec<String>,
    /// The rest of the current one.
    lister: Option<Lister>,
}

impl Store {
    pub(crate) fn list<'a>(self: &'a Arc<Self>, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        self.list_entries(prefix).map_ok(|entry| entry.key).boxed()
    }

    /// All chunks with the prefix, with the sizes and times that the listing has. The memory that it takes does not grow
    /// with the store.
    pub(crate) fn list_entries<'a>(self: &'a Arc<Self>, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        let rest = Rest { prefixes: self.names.prefixes(prefix), lister: None };
        let steps = stream::try_unfold(rest, move |rest| async move {
            let Some((found, rest)) = self.step(rest).await? else { return Ok(None) };
            let entries = stream::iter(found).map(|entry| self.resolve(entry)).buffered(self.settings.connections);
            let is_wanted =
                |entry: &Option<ListEntry>| entry.as_ref().is_some_and(|e| e.key.as_str().starts_with(prefix));
            let wanted = entries.try_filter(|entry| std::future::ready(is_wanted(entry)));
            let wanted: Vec<_> = wanted.filter_map(|entry| std::future::ready(entry.transpose())).collect().await;
            Ok(Some((stream::iter(wanted), rest)))
        });
        steps.try_flatten().boxed()
    }

    /// The next objects, and the rest of the listing. `None` after the last.
    async fn step(self: &Arc<Self>, mut rest: Rest) -> Result<Option<(Vec<Entry>, Rest)>> {
        if rest.lister.is_none() && rest.prefixes.is_empty() {
            return Ok(None);
        }
        let (store, operator) = (self.clone(), self.operator());
        self.run(async move {
            let mut found = Vec::new();
            let mut lister = match rest.lister.take() {
                Some(lister) => lister,
                None => {
                    let next = rest.prefixes.pop().unwrap_or_default();
                    operator.lister_with(&next).recursive(true).await.map_err(|e| store.error(e))?
                }
            };
            let _turn = store.turn().await?;
            while found.len() < STEP {
                match lister.try_next().await.map_err(|e| store.error(e))? {
                    Some(entry) => found.push(entry),
                    None => return Ok(Some((found, rest))),
                }
            }
            rest.lister = Some(lister);
            Ok(Some((found, rest)))
        })
        .await
    }

    /// The chunk of an object. `None` if the object is not a chunk, or was removed meanwhile.
    async fn resolve(self: &Arc<Self>, found: Entry) -> Result<Option<ListEntry>> {
        let (name, listed) = found.into_parts();
        let key = match self.names.key_of(&name) {
            None => return Ok(None),
            Some(Named::Key(key)) => key,
            Some(Named::Unless(key)) if self.entries.are_in(&listed) => {
                self.names.recorded_key(&name, &listed).unwrap_or(key)
            }
            Some(Named::Unless(key)) => match self.stat_name(name.clone()).await? {
                None => return Ok(None),
                Some(metadata) => self.names.recorded_key(&name, &metadata).unwrap_or(key),
            },
        };
        let entry = ListEntry::new(key).with_size(listed.content_length());
        Ok(Some(match listed.last_modified() {
            Some(time) => entry.with_modified(time.into()),
            None => entry,
        }))
    }
}
