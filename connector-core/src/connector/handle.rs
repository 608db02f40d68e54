//! What a caller holds.

use std::fmt;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::OnceCell;

use super::erased::DynConnector;
use super::gate::PassRef;
use super::{Capabilities, Gate, RemoteConnector};
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::key::CacheKey;
use crate::{Error, ErrorKind, Result};

/// A handle over any connector: cheap to clone, and all clones are one connector.
///
/// The operations are inherent methods, so a caller imports no trait; [`RemoteConnector`] documents what each of them
/// promises. The handle adds what every connector needs: errors say which operation on which key of which connector
/// failed, calls after [`close`](Self::close) are refused, and `close` waits for the calls in flight.
///
/// **Cancellation.** Every future may be dropped at any await; the connector keeps working.
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

struct Inner {
    name: Box<str>,
    gate: Gate,
    closed: OnceCell<()>,
    connector: Box<dyn DynConnector>,
}

impl Connector {
    /// A handle over `connector`, named `name` in errors (`module/Name`, or whatever helps).
    pub fn new(name: impl Into<Box<str>>, connector: impl RemoteConnector) -> Self {
        Self(Arc::new(Inner {
            name: name.into(),
            gate: Gate::new(),
            closed: OnceCell::new(),
            connector: Box::new(connector),
        }))
    }

    /// The connector's name: `module/Name`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What this store can do beyond `exists`, `get` and `put`.
    pub fn capabilities(&self) -> Capabilities {
        self.0.connector.capabilities()
    }

    /// Whether the key's chunk is stored and can be read.
    ///
    /// # Errors
    /// Whatever the store reports; a miss is `Ok(false)`.
    pub async fn exists(&self, key: &CacheKey) -> Result<bool> {
        let _pass = self.enter("exists", Some(key))?;
        self.0.connector.exists(key).await.map_err(|e| self.explain(e, "exists", Some(key)))
    }

    /// The key's chunk, or `None` if it is not stored.
    ///
    /// # Errors
    /// `Corrupt` for a value that is no whole chunk, `OutOfMemory` if there is no memory to read into, and whatever the
    /// store reports.
    pub async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let _pass = self.enter("get", Some(key))?;
        self.0.connector.get(key).await.map_err(|e| self.explain(e, "get", Some(key)))
    }

    /// Stores the chunk under the key, replacing what was there.
    ///
    /// # Errors
    /// `Unsupported` for a chunk that `get` could not give back, `OutOfMemory` if the store is full, and whatever the
    /// store reports. The old value or none is left then.
    pub async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let _pass = self.enter("put", Some(key))?;
        self.0.connector.put(key, chunk).await.map_err(|e| self.explain(e, "put", Some(key)))
    }

    /// Reads the chunk into the caller's memory and gives its length in bytes; `None` if it is not stored. See
    /// [`RemoteConnector::get_into`] for what is in `dst` afterwards.
    ///
    /// # Errors
    /// `SizeMismatch` for a chunk longer than the memory, and all of [`get`](Self::get)'s.
    pub async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let _pass = self.enter("get_into", Some(key))?;
        let before = dst.identity();
        let answer = match before {
            Some(_) => self.0.connector.get_into(key, dst).await,
            None => Err(taken()),
        };
        answer.and_then(|n| same_memory(n, before, dst)).map_err(|e| self.explain(e, "get_into", Some(key)))
    }

    /// Removes the chunk; says whether it was there.
    ///
    /// # Errors
    /// `Unsupported` if the store has no removal, and whatever the store reports.
    pub async fn remove(&self, key: &CacheKey) -> Result<bool> {
        let _pass = self.enter("remove", Some(key))?;
        self.0.connector.remove(key).await.map_err(|e| self.explain(e, "remove", Some(key)))
    }

    /// All keys whose text starts with `prefix`, in no order, as a stream. `""` lists everything.
    ///
    /// An item is `Unsupported` if the store has no listing, or whatever the store reports. [`close`](Self::close) does
    /// not wait for a stream, which its caller may hold for ever without polling it: the stream ends with `Closed` instead.
    pub fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        if let Err(e) = self.enter("list", None) {
            return stream::once(async { Err(e) }).boxed();
        }
        let until_closed = move |ended: &mut bool, item: Result<CacheKey>| {
            // Looked at once: what ends the stream is what its last item says.
            let closed = self.is_closed();
            let item = match closed {
                _ if *ended => None,
                false => Some(item),
                true => Some(Err(Error::closed())),
            };
            *ended = closed;
            std::future::ready(item.map(|i| i.map_err(|e| self.explain(e, "list", None))))
        };
        self.0.connector.list(prefix).scan(false, until_closed).boxed()
    }

    /// Asks the store whether it is there.
    ///
    /// # Errors
    /// `Unsupported` if the store cannot be asked, `Unavailable` or `Timeout` if it does not answer.
    pub async fn ping(&self) -> Result<()> {
        let _pass = self.enter("ping", None)?;
        self.0.connector.ping().await.map_err(|e| self.explain(e, "ping", None))
    }

    /// Refuses new calls, waits for those in flight, then ends the connector. Every later call is `Closed`; closing
    /// again waits for the first and succeeds.
    ///
    /// # Errors
    /// Whatever the connector reports while it ends.
    pub async fn close(&self) -> Result<()> {
        self.0.gate.close().await;
        let end = || async { self.0.connector.close().await };
        self.0.closed.get_or_try_init(end).await.map(|_| ()).map_err(|e| self.explain(e, "close", None))
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.0.gate.is_closed()
    }

    /// `exists` of each key, in the order asked.
    pub async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let Ok(_pass) = self.enter("batched_exists", None) else { return self.refused("batched_exists", keys.len()) };
        let answers = self.0.connector.batched_exists(keys).await;
        self.explain_all(answers, "batched_exists", |i| keys.get(i))
    }

    /// The length of the leading run of keys that exist: what an engine asks about a prefix.
    ///
    /// # Errors
    /// The first key's error; a later one ends the run.
    pub async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        let _pass = self.enter("batched_contains", None)?;
        self.0.connector.batched_contains(keys).await.map_err(|e| self.explain(e, "batched_contains", keys.first()))
    }

    /// `get` of each key, in the order asked; a hole is `Ok(None)`.
    pub async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let Ok(_pass) = self.enter("batched_get", None) else { return self.refused("batched_get", keys.len()) };
        let answers = self.0.connector.batched_get(keys).await;
        self.explain_all(answers, "batched_get", |i| keys.get(i))
    }

    /// `get_into` of each pair, in the order asked.
    pub async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let Ok(_pass) = self.enter("batched_get_into", None) else {
            return self.refused("batched_get_into", requests.len());
        };
        let before: Vec<_> = requests.iter().map(|(_, dst)| dst.identity()).collect();
        if before.iter().any(Option::is_none) {
            return requests.iter().map(|(key, _)| Err(self.explain(taken(), "batched_get_into", Some(key)))).collect();
        }
        let answers = self.0.connector.batched_get_into(requests).await;
        let checked = answers.into_iter().zip(before.into_iter().zip(&*requests));
        let answers = checked.map(|(n, (before, (_, dst)))| n.and_then(|n| same_memory(n, before, dst))).collect();
        self.explain_all(answers, "batched_get_into", |i| requests.get(i).map(|(key, _)| key))
    }

    /// `put` of each pair, answered in the order given.
    pub async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let Ok(_pass) = self.enter("batched_put", None) else { return self.refused("batched_put", items.len()) };
        let answers = self.0.connector.batched_put(items).await;
        self.explain_all(answers, "batched_put", |i| items.get(i).map(|(key, _)| key))
    }

    /// `remove` of each key, in the order asked.
    pub async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let Ok(_pass) = self.enter("batched_remove", None) else { return self.refused("batched_remove", keys.len()) };
        let answers = self.0.connector.batched_remove(keys).await;
        self.explain_all(answers, "batched_remove", |i| keys.get(i))
    }

    fn enter(&self, operation: &'static str, key: Option<&CacheKey>) -> Result<PassRef<'_>> {
        self.0.gate.enter_ref().map_err(|e| self.explain(e, operation, key))
    }

    #[cold]
    fn explain(&self, error: Error, operation: &'static str, key: Option<&CacheKey>) -> Error {
        let error = error.with_operation(operation).with_connector(self.name());
        match key {
            Some(key) => error.with_key(key),
            None => error,
        }
    }

    fn explain_all<'k, T>(
        &self,
        mut answers: Vec<Result<T>>,
        operation: &'static str,
        key: impl Fn(usize) -> Option<&'k CacheKey>,
    ) -> Vec<Result<T>> {
        let asked = (0..).take_while(|i| key(*i).is_some()).count();
        if answers.len() != asked {
            let got = answers.len();
            answers.truncate(asked);
            answers.resize_with(asked, || {
                Err(Error::new(ErrorKind::Other, format!("the connector gave {got} answers to a batch of {asked}"))
                    .with_hint("this is a bug in the connector: a batch answers every key, in order"))
            });
        }
        for (i, answer) in answers.iter_mut().enumerate() {
            if let Err(e) = answer {
                let bare = std::mem::replace(e, Error::closed());
                *e = self.explain(bare, operation, key(i));
            }
        }
        answers
    }

    #[cold]
    fn refused<T>(&self, operation: &'static str, n: usize) -> Vec<Result<T>> {
        (0..n).map(|_| Err(self.explain(Error::closed(), operation, None))).collect()
    }
}

/// The error of a destination without memory: a former call's work still has it, or lost it.
#[cold]
fn taken() -> Error {
    Error::new(ErrorKind::InvalidInput, "the destination's memory was taken by a former call and did not come back")
}

/// A connector that puts other memory into `dst` would say "read" while the caller's memory holds nothing.
fn same_memory(n: Option<usize>, before: Option<usize>, dst: &MemoryObjMut) -> Result<Option<usize>> {
    match n {
        Some(n) if dst.identity() != before || n != dst.len() => Err(Error::new(
            ErrorKind::Other,
            format!("the connector answers {n} bytes, but left {} in other memory than it was given", dst.len()),
        )
        .with_hint("this is a bug in the connector: `get_into` must fill the memory of `dst`, and give its length")),
        n => Ok(n),
    }
}

/// A handle is a connector too, so that a layer can wrap one. An author who forgot the trait does not want to hear of it.
#[diagnostic::do_not_recommend]
#[deny(clippy::missing_trait_methods, reason = "a method that is not forwarded would pass over the connector's own")]
impl RemoteConnector for Connector {
    fn capabilities(&self) -> Capabilities {
        Self::capabilities(self)
    }
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        Self::exists(self, key).await
    }
    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        Self::get(self, key).await
    }
    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        Self::put(self, key, chunk).await
    }
    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        Self::get_into(self, key, dst).await
    }
    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        Self::remove(self, key).await
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        Self::list(self, prefix)
    }
    async fn ping(&self) -> Result<()> {
        Self::ping(self).await
    }
    async fn close(&self) -> Result<()> {
        Self::close(self).await
    }
    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        Self::batched_exists(self, keys).await
    }
    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        Self::batched_contains(self, keys).await
    }
    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        Self::batched_get(self, keys).await
    }
    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        Self::batched_get_into(self, requests).await
    }
    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        Self::batched_put(self, items).await
    }
    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        Self::batched_remove(self, keys).await
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({})", self.name())
    }
}
