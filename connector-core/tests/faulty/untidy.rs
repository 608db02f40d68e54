//! A store whose removals fail in one way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connector_core::conformance::Kit;
use connector_core::{
    CacheKey, Capabilities, ChunkLayout, Connector, Error, ErrorKind, MemoryObj, RemoteConnector, Result,
};

/// The failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    Nothing,
    /// The first removal of many keys fails temporarily.
    OneHiccup,
    /// Every removal of exactly this number of keys fails.
    RemovalsOf(usize),
    /// The first connector panics in every removal; later ones work.
    FirstRemovesPanic,
    /// The second open, in the middle of a check, hangs; later ones work.
    SecondOpenHangs,
}

type Chunks = HashMap<CacheKey, (Vec<u8>, ChunkLayout)>;

/// A store that counts the kit's calls.
#[derive(Clone)]
pub(crate) struct Untidy {
    wrong: Wrong,
    longest_key: Option<usize>,
    chunks: Arc<Mutex<Chunks>>,
    opened: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    removals: Arc<AtomicUsize>,
}

struct Opened {
    store: Untidy,
    /// The number of this connector, counted from 0.
    number: usize,
}

impl Untidy {
    pub(crate) fn new(wrong: Wrong, longest_key: Option<usize>) -> Self {
        let (chunks, count) = (Arc::default(), || Arc::new(AtomicUsize::new(0)));
        Self { wrong, longest_key, chunks, opened: count(), closed: count(), removals: count() }
    }

    pub(crate) fn kit(&self) -> Kit {
        let store = self.clone();
        Kit::new(move |_| {
            let store = store.clone();
            async move {
                let number = store.opened.fetch_add(1, Ordering::SeqCst);
                if store.wrong == Wrong::SecondOpenHangs && number == 1 {
                    std::future::pending::<()>().await;
                }
                Ok(Connector::new("test/Untidy", Opened { store, number }))
            }
        })
    }

    /// The number of chunks in the store.
    pub(crate) fn left(&self) -> usize {
        self.chunks().len()
    }

    /// The number of connectors that are not closed.
    pub(crate) fn open(&self) -> usize {
        self.opened.load(Ordering::SeqCst) - self.closed.load(Ordering::SeqCst)
    }

    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RemoteConnector for Opened {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        Ok(self.store.chunks().contains_key(key))
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let found = self.store.chunks().get(key).cloned();
        found.map(|(bytes, layout)| MemoryObj::from_vec(bytes, layout)).transpose()
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.store.chunks().insert(key.clone(), (chunk.to_vec(), chunk.layout().clone()));
        Ok(())
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        Ok(self.store.chunks().remove(key).is_some())
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let before = self.store.removals.fetch_add(1, Ordering::SeqCst);
        let error = match self.store.wrong {
            Wrong::OneHiccup if before == 0 => Error::new(ErrorKind::Unavailable, "one hiccup").temporary(true),
            Wrong::RemovalsOf(n) if keys.len() == n => Error::new(ErrorKind::Other, format!("no removal of {n}")),
            Wrong::FirstRemovesPanic if self.number == 0 => panic!("the first connector is broken"),
            _ => {
                let mut chunks = self.store.chunks();
                return keys.iter().map(|key| Ok(chunks.remove(key).is_some())).collect();
            }
        };
        keys.iter().map(|_| Err(error.clone())).collect()
    }

    fn capabilities(&self) -> Capabilities {
        let can = Capabilities::new().with_remove().with_layout_kept();
        match self.store.longest_key {
            Some(bytes) => can.with_max_key_bytes(bytes),
            None => can,
        }
    }

    async fn close(&self) -> Result<()> {
        self.store.closed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
