//! How often a sequence of pages reads the store's listing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use connector_core::connector::Pages;
use connector_core::{
    BoxStream, CacheKey, Capabilities, Connector, ErrorKind, ListEntry, MemoryObj, RemoteConnector, Result,
};
use futures::stream::{self, StreamExt};

/// A store of keys without chunks that counts its listings.
#[derive(Clone, Default)]
struct Names {
    keys: Arc<Mutex<Vec<CacheKey>>>,
    listings: Arc<AtomicUsize>,
}

impl RemoteConnector for Names {
    async fn exists(&self, _key: &CacheKey) -> Result<bool> {
        Ok(true)
    }
    async fn get(&self, _key: &CacheKey) -> Result<Option<MemoryObj>> {
        Ok(None)
    }
    async fn put(&self, key: &CacheKey, _chunk: MemoryObj) -> Result<()> {
        self.keys.lock().unwrap().push(key.clone());
        Ok(())
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_list()
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        self.listings.fetch_add(1, Ordering::SeqCst);
        let keys = self.keys.lock().unwrap().clone();
        stream::iter(keys.into_iter().filter(move |key| key.as_str().starts_with(prefix)).map(Ok)).boxed()
    }
}

fn key(model: &str, n: usize) -> CacheKey {
    format!("{model}@1@0@{n:x}@half").parse().unwrap()
}

/// A store of `n` keys of each model, in an order that is not that of their texts.
fn store(models: &[&str], n: usize) -> (Names, Connector) {
    let names = Names::default();
    let all = (0..n).flat_map(|i| models.iter().map(move |model| key(model, i * 7919 % n)));
    names.keys.lock().unwrap().extend(all);
    (names.clone(), Connector::new("test", names))
}

/// All pages, and how many listings they took.
async fn pages(names: &Names, store: &Connector, pages: &Pages, limit: usize) -> (Vec<ListEntry>, usize) {
    let (mut found, mut after, before) = (Vec::new(), None, names.listings.load(Ordering::SeqCst));
    loop {
        let page = pages.page(store, "", after.as_deref(), limit).await.unwrap();
        assert!(page.entries.len() <= limit);
        found.extend(page.entries);
        match page.next {
            Some(next) => after = Some(next),
            None => return (found, names.listings.load(Ordering::SeqCst) - before),
        }
    }
}

#[tokio::test]
async fn one_listing_serves_128_pages() {
    let (names, store) = store(&["a", "b"], 1000);
    let mut sorted = names.keys.lock().unwrap().clone();
    sorted.sort();
    let all = |_: &CacheKey| true;
    for (limit, listings) in [(1, 16), (15, 2), (16, 1), (500, 1), (2000, 1), (usize::MAX, 1)] {
        let (found, read) = pages(&names, &store, &Pages::new(all), limit).await;
        assert_eq!(found.into_iter().map(|entry| entry.key).collect::<Vec<_>>(), sorted, "pages of {limit}");
        assert_eq!(read, listings, "pages of {limit}");
    }
}

#[tokio::test]
async fn pages_of_some_keys_have_no_others() {
    let (names, store) = store(&["a", "b"], 1000);
    let own = Pages::new(|key| key.model_name() == Some("b"));
    let (found, read) = pages(&names, &store, &own, 10).await;
    assert!(found.len() == 1000 && found.iter().all(|entry| entry.key.model_name() == Some("b")));
    assert!(found.is_sorted_by(|a, b| a.key < b.key));
    assert_eq!(read, 1);
}

#[tokio::test(start_paused = true)]
async fn entries_are_kept_for_the_next_page_alone_and_for_a_minute() {
    let (names, store) = store(&["a", "b"], 100);
    let listings = || names.listings.load(Ordering::SeqCst);
    let first = store.list_page("", None, 10).await.unwrap();
    store.put(&key("a", 1000), MemoryObj::from(vec![1])).await.unwrap();
    let second = store.list_page("", first.next.as_deref(), 10).await.unwrap();
    assert_eq!(listings(), 1);
    // The same page again, another prefix, and the first page read the store.
    assert_eq!(store.list_page("", first.next.as_deref(), 10).await.unwrap().entries.len(), 10);
    assert_eq!(listings(), 2);
    assert_eq!(store.list_page("b", first.next.as_deref(), 200).await.unwrap().entries.len(), 100);
    assert_eq!(store.list_page("", None, 500).await.unwrap().entries.len(), 201, "with the new key");
    assert_eq!(listings(), 4);
    // The larger page needs more than is kept.
    let first = store.list_page("", None, 1).await.unwrap();
    assert_eq!(store.list_page("", first.next.as_deref(), 150).await.unwrap().entries.len(), 150);
    assert_eq!(listings(), 6);
    let third = store.list_page("", second.next.as_deref(), 10).await.unwrap();
    tokio::time::advance(Duration::from_secs(61)).await;
    store.list_page("", third.next.as_deref(), 10).await.unwrap();
    assert_eq!(listings(), 8);
}

#[tokio::test]
async fn a_closed_store_gives_no_page_that_was_read_ahead() {
    let (_, store) = store(&["a"], 100);
    let first = store.list_page("", None, 10).await.unwrap();
    store.close().await.unwrap();
    let e = store.list_page("", first.next.as_deref(), 10).await.unwrap_err();
    assert_eq!((e.kind(), e.operation()), (ErrorKind::Closed, Some("list_entries")));
}
