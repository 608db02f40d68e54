//! The chunks of the store, page by page.

use std::sync::Arc;
use std::time::Duration;

use connector_core::{BoxStream, CacheKey, Error, ListEntry, Result};
use futures::stream::{self, StreamExt, TryStreamExt};
use opendal::options::ListOptions;
use opendal::{Entry, Lister, Metadata};

use super::names::Named;
use super::renew::Service;
use super::store::Store;

/// The objects of one step of a listing: as many as a page of S3.
const STEP: usize = 1000;
/// The most tries of a request after the first one.
const RETRIES: u32 = 5;
/// The delay before the first of these. It doubles with each.
const FIRST_DELAY: Duration = Duration::from_millis(50);
/// The most of the time that the service asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The rest of a listing.
struct Rest {
    /// The beginnings of names that are still to be listed.
    prefixes: Vec<String>,
    /// The rest of the current one.
    part: Option<Part>,
}

/// The objects whose names begin alike.
struct Part {
    prefix: String,
    /// The service that the lister keeps.
    service: Service,
    lister: Lister,
    /// The first object that was found.
    first: Option<String>,
    /// The last object that was found.
    last: Option<String>,
}

impl Part {
    async fn open(service: Service, prefix: String) -> opendal::Result<Self> {
        let lister = lister(&service, &prefix, None).await?;
        Ok(Self { prefix, service, lister, first: None, last: None })
    }

    /// The next object. After an error that may pass, asks again from the last object on, so that none is given twice.
    async fn next(&mut self, store: &Store) -> Result<Option<Entry>> {
        let mut tried = 0;
        loop {
            let e = match self.lister.try_next().await {
                Ok(found) => return self.noted(found).map_err(|e| store.error(e)),
                Err(e) if self.can_go_on() => e,
                Err(e) => return Err(store.error(e)),
            };
            let is_renewed = store.services.renew(&mut self.service, &e).await;
            let e = store.error(e);
            if !is_renewed && !pause(&mut tried, &e).await {
                return Err(e);
            }
            self.lister = lister(&self.service, &self.prefix, self.last.clone()).await.map_err(|e| store.error(e))?;
        }
    }

    fn noted(&mut self, found: Option<Entry>) -> opendal::Result<Option<Entry>> {
        if let Some(entry) = &found {
            let is_first = |first: &String| first == entry.path();
            if self.first.as_ref().is_some_and(is_first) {
                let why = "the server sends the first page of the listing again";
                return Err(opendal::Error::new(opendal::ErrorKind::Unexpected, why));
            }
            self.first.get_or_insert_with(|| entry.path().to_owned());
            self.last = Some(entry.path().to_owned());
        }
        Ok(found)
    }

    /// Whether a new lister can begin where this one is.
    fn can_go_on(&self) -> bool {
        self.last.is_none() || self.service.operator.info().capability().list_with_start_after
    }
}

/// Lists the objects after `last`.
async fn lister(service: &Service, prefix: &str, last: Option<String>) -> opendal::Result<Lister> {
    let options = ListOptions { recursive: true, start_after: last, ..ListOptions::default() };
    service.operator.lister_options(prefix, options).await
}

impl Store {
    pub(crate) fn list<'a>(self: &'a Arc<Self>, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        self.list_entries(prefix).map_ok(|entry| entry.key).boxed()
    }

    /// All chunks with the prefix, with the sizes and times that the listing has. The memory that it takes does not grow
    /// with the store.
    pub(crate) fn list_entries<'a>(self: &'a Arc<Self>, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        let rest = Rest { prefixes: self.names.prefixes(prefix), part: None };
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
        if rest.part.is_none() && rest.prefixes.is_empty() {
            return Ok(None);
        }
        let store = self.clone();
        self.run(async move {
            let mut found = Vec::new();
            let mut part = match rest.part.take() {
                Some(part) => part,
                None => {
                    let prefix = rest.prefixes.pop().unwrap_or_default();
                    Part::open(store.services.current(), prefix).await.map_err(|e| store.error(e))?
                }
            };
            let _turn = store.turn().await?;
            while found.len() < STEP {
                match part.next(&store).await? {
                    Some(entry) => found.push(entry),
                    None => return Ok(Some((found, rest))),
                }
            }
            rest.part = Some(part);
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
            Some(Named::Unless(key)) => match self.stat_listed(&name).await? {
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

    /// The metadata of a listed object. `None` if it was removed meanwhile.
    async fn stat_listed(self: &Arc<Self>, name: &str) -> Result<Option<Metadata>> {
        let mut tried = 0;
        loop {
            match self.stat_name(name.to_owned()).await {
                Err(e) if pause(&mut tried, &e).await => {}
                answer => return answer,
            }
        }
    }
}

/// Waits before another try after a temporary error, with the delays of the option `retries`. That option has no effect
/// on a listing, because the caller has seen a part of it. `false` after the last try.
async fn pause(tried: &mut u32, e: &Error) -> bool {
    if *tried == RETRIES || !e.is_temporary() {
        return false;
    }
    let full = FIRST_DELAY.saturating_mul(1 << *tried).mul_f64(0.5 + 0.5 * fastrand::f64());
    let delay = full + e.retry_after().unwrap_or_default().min(LONGEST_WAIT);
    *tried += 1;
    tracing::debug!(tried, ?delay, error = %e, "tries a request of a listing again");
    tokio::time::sleep(delay).await;
    true
}
