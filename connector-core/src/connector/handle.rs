//! The handle that a caller holds.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::BoxStream;
use tokio::sync::OnceCell;
use tracing::Instrument;

use super::call::{unless_it_panics, wrong_count};
use super::erased::DynConnector;
use super::operation::{Operation, forward, list_by, listings, operations};
use super::{BoxConnector, Capabilities, Diagnosis, Gate, ListEntry, Pages, RemoteConnector, ServerInfo};
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::context::ConnectorContext;
use crate::key::CacheKey;
use crate::layer::StoreId;
use crate::observe::{Instruments, Loaded, Run, StoreLabels, Stored};
use crate::runtime::{AtExit, OfProcess, at_exit};
use crate::{Error, ErrorKind, Result};

/// A handle over any connector: cheap to clone, and all clones are one connector.
///
/// The operations are inherent methods, so a caller imports no trait. [`RemoteConnector`] documents their contract.
/// The handle adds the behaviour that every connector needs. Errors name the operation, the key and the connector.
/// [`close`](Self::close) waits for the calls in flight, and later calls are refused. Every call has [spans and
/// metrics](crate::observe). A connector that panics is an error ([`Other`](ErrorKind::Other)). In a child of `fork`,
/// every call is `Closed`, and `close` does nothing: the parent has the connector's threads and sockets.
///
/// **Runtime.** Poll every future and stream inside a tokio runtime with time and I/O enabled.
/// [`blocking`](Self::blocking) needs no runtime.
///
/// **Cancellation.** Every future may be dropped at any await; the connector keeps working.
#[derive(Clone)]
pub struct Connector(
    pub(super) Arc<Inner>,
    /// The limit of [`within`](Self::within).
    pub(super) Option<Duration>,
);

pub(super) struct Inner {
    name: Box<str>,
    pub(super) gate: Gate,
    closed: Arc<OnceCell<()>>,
    pub(super) instruments: Instruments,
    /// The [chain](ConnectorContext::chain) of URLs whose layers it has.
    layers_of: Option<Arc<()>>,
    /// The runtime it was opened on, if that has one thread only.
    opened_on: Option<tokio::runtime::Id>,
    pub(super) connector: OfProcess<Arc<dyn DynConnector>>,
    /// The entries that [`list_page`](Connector::list_page) has read ahead.
    pub(super) pages: Pages,
}

impl Connector {
    /// A handle over `connector`, named `name` in errors (`module/Name`, or another name).
    pub fn new(name: impl Into<Box<str>>, connector: impl RemoteConnector) -> Self {
        Self::over(name, BoxConnector::new(connector))
    }

    pub(crate) fn over(name: impl Into<Box<str>>, BoxConnector(connector): BoxConnector) -> Self {
        let name = name.into();
        let instruments = Instruments::new(StoreLabels::new(&name, String::new()));
        let inner = Arc::new(Inner {
            name,
            gate: Gate::default(),
            closed: Arc::default(),
            instruments,
            layers_of: None,
            opened_on: None,
            connector: OfProcess::new(connector),
            pages: Pages::new(|_| true),
        });
        Self(inner, None)
    }

    /// The same connector with layers. If its adapter opened another URL of the same chain, the connector has its
    /// layers already. The adapter may have kept a handle: closing either handle closes both, and each call counts
    /// once.
    pub(crate) fn layered(
        self,
        ctx: &ConnectorContext,
        layers: impl FnOnce(&str, BoxConnector) -> BoxConnector,
    ) -> Self {
        let inner = &self.0;
        if inner.layers_of.as_ref().is_some_and(|chain| Arc::ptr_eq(chain, ctx.chain())) {
            return self;
        }
        let BoxConnector(connector) = layers(&inner.name, BoxConnector(Arc::clone(&inner.connector)));
        let handle = ctx.handle();
        let single = handle.runtime_flavor() == tokio::runtime::RuntimeFlavor::CurrentThread;
        let inner = Arc::new(Inner {
            name: inner.name.clone(),
            gate: inner.gate.clone(),
            closed: inner.closed.clone(),
            instruments: Instruments::new(StoreLabels::new(&inner.name, ctx.instance())),
            layers_of: Some(ctx.chain().clone()),
            opened_on: single.then(|| handle.id()),
            connector: OfProcess::new(connector),
            pages: Pages::new(|_| true),
        });
        if !ctx.is_behind() {
            let this = Arc::downgrade(&inner);
            at_exit(ctx.url().to_string(), this);
        }
        Self(inner, None)
    }

    /// The same store, whose calls take at most `limit`: with retries, and with the waits for memory and for other calls.
    ///
    /// `limit` replaces the options `timeout_ms`, `batch_timeout_ms` and `lookup_timeout_ms` of this store, but not those of a
    /// store behind it. A call that takes longer is a `Timeout` error, and so is every key of a batch. For a listing, the limit
    /// holds for each item. [`close`](Self::close) has no limit, because a `close` that is cut short loses data.
    ///
    /// ```
    /// # async fn f(store: connector_core::Connector, key: connector_core::CacheKey) -> connector_core::Result<()> {
    /// let chunk = store.within(std::time::Duration::from_millis(50)).get(&key).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn within(&self, limit: Duration) -> Self {
        Self(self.0.clone(), Some(limit))
    }

    /// The store, for the layers.
    pub(super) fn id(&self) -> StoreId {
        self.0.layers_of.as_ref().map_or(StoreId::NONE, StoreId::of)
    }

    /// The same connector, with `wrap` around it. Closing either handle closes both.
    #[cfg(feature = "conformance")]
    pub(crate) fn wrapped(&self, wrap: impl FnOnce(BoxConnector) -> BoxConnector) -> Self {
        let inner = &self.0;
        let BoxConnector(connector) = wrap(BoxConnector(Arc::clone(&inner.connector)));
        let inner = Arc::new(Inner {
            name: inner.name.clone(),
            gate: inner.gate.clone(),
            closed: inner.closed.clone(),
            instruments: inner.instruments.of_same_store(),
            layers_of: inner.layers_of.clone(),
            opened_on: inner.opened_on,
            connector: OfProcess::new(connector),
            pages: Pages::new(|_| true),
        });
        Self(inner, self.1)
    }

    pub(super) fn opened_on(&self) -> Option<tokio::runtime::Id> {
        self.0.opened_on
    }

    /// The connector's name: `module/Name`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The store's label `instance` in [metrics](crate::observe): hosts and path of its URL, or the plugin's name. Empty for a connector
    /// that was not opened by a URL.
    pub fn instance(&self) -> &str {
        self.0.instruments.instance()
    }

    /// The operations and limits of this store beyond `exists`, `get` and `put`.
    pub fn capabilities(&self) -> Capabilities {
        self.0.connector.capabilities()
    }

    /// Whether the key's chunk is stored and can be read.
    ///
    /// # Errors
    /// The store's errors. A miss is `Ok(false)`.
    pub async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.call(Operation::Exists, Some(key), self.0.connector.exists(key)).await
    }

    /// The key's chunk, or `None` if it is not stored.
    ///
    /// # Errors
    /// `Corrupt` for a value that is not a whole chunk, `PoolFull` without free memory to read into, and the store's
    /// own errors.
    pub async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        self.call(Operation::Get, Some(key), self.0.connector.get(key)).await
    }

    /// Stores the chunk under the key, replacing what was there.
    ///
    /// # Errors
    /// `Unsupported` for a chunk that `get` could not give back, `StoreFull` if the store is full, and the store's
    /// own errors. The old value or none is left then.
    pub async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let bytes = chunk.len();
        let put = async move { self.0.connector.put(key, chunk).await.map(|()| Stored(bytes)) };
        self.call(Operation::Put, Some(key), put).await.map(|Stored(_)| ())
    }

    /// Reads the chunk into the caller's memory and gives its length in bytes; `None` if it is not stored.
    /// [`RemoteConnector::get_into`] says what `dst` holds afterwards.
    ///
    /// # Errors
    /// `SizeMismatch` for a chunk longer than the memory (a miss with [`Capabilities::exact_length`]), and the errors of
    /// [`get`](Self::get).
    pub async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let get = async {
            let before = dst.identity().ok_or_else(taken)?;
            let answer = self.0.connector.get_into(key, dst).await?;
            same_memory(answer, before, dst)
        };
        self.call(Operation::GetInto, Some(key), get).await
    }

    /// Removes the chunk. `true` if it was stored.
    ///
    /// # Errors
    /// `Unsupported` if the store has no removal, and the store's own errors.
    pub async fn remove(&self, key: &CacheKey) -> Result<bool> {
        self.call(Operation::Remove, Some(key), self.0.connector.remove(key)).await
    }

    /// Checks that the store answers.
    ///
    /// # Errors
    /// `Unsupported` if the store cannot be asked, `Unavailable` or `Timeout` if it does not answer.
    pub async fn ping(&self) -> Result<()> {
        self.call(Operation::Ping, None, self.0.connector.ping()).await
    }

    /// The servers of the store, and what each answers; empty for a store without servers. A server that does not answer
    /// is in the list with its error.
    ///
    /// # Errors
    /// The store's own, if it does not know its servers.
    pub async fn servers(&self) -> Result<Vec<ServerInfo>> {
        self.call(Operation::Servers, None, self.0.connector.servers()).await
    }

    /// What the store finds out about its own health: settings, free room, its servers' state. Empty for a store that does
    /// not look. It changes nothing in the store. `kvconn doctor` prints it.
    ///
    /// # Errors
    /// The store's own.
    pub async fn diagnose(&self) -> Result<Vec<Diagnosis>> {
        self.call(Operation::Diagnose, None, self.0.connector.diagnose()).await
    }

    /// Refuses new calls, waits for those in flight, then ends the connector. Every later call is `Closed`; closing
    /// again waits for the first and succeeds.
    ///
    /// # Errors
    /// The connector's errors while it ends.
    pub async fn close(&self) -> Result<()> {
        let mut seen = self.0.instruments.begin(Operation::Close);
        let span = self.0.instruments.span(Operation::Close, None);
        self.0.gate.close().await;
        self.0.pages.clear();
        if self.0.gate.is_parents() {
            // The parent closes it.
            return Ok(());
        }
        let end = || unless_it_panics(self.0.connector.close(), Err);
        let answer = self.0.closed.get_or_try_init(end).instrument(span.clone()).await.map(|_| ());
        span.in_scope(|| seen.end(&answer, None));
        answer.map_err(|e| self.explain(e, Operation::Close, None))
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.0.gate.is_closed()
    }

    /// `exists` of each key, in the order asked.
    pub async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.batch(Operation::BatchedExists, keys.len(), |i| &keys[i], self.0.connector.batched_exists(keys)).await
    }

    /// The length of the leading run of keys that exist, as an engine needs it for a prefix.
    ///
    /// # Errors
    /// The first key's error; a later one ends the run.
    pub async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        let asked = keys.len();
        let contains = async {
            let found = self.0.connector.batched_contains(keys).await?;
            if found <= asked { Ok(Run { found, asked }) } else { Err(wrong_count(found, asked)) }
        };
        self.call(Operation::BatchedContains, keys.first(), contains).await.map(|run| run.found)
    }

    /// `get` of each key, in the order asked; a hole is `Ok(None)`.
    pub async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        self.batch(Operation::BatchedGet, keys.len(), |i| &keys[i], self.0.connector.batched_get(keys)).await
    }

    /// `get_into` of each pair, in the order asked.
    pub async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let (operation, asked) = (Operation::BatchedGetInto, requests.len());
        let get = async {
            let before: Vec<Option<usize>> = requests.iter().map(|(_, dst)| dst.identity()).collect();
            if before.contains(&None) {
                return self.get_into_some(requests, &before).await;
            }
            let answers = self.0.connector.batched_get_into(requests).await;
            let mut after = before.into_iter().zip(&*requests);
            let checked = answers.into_iter().map(|answer| match after.next() {
                Some((Some(before), (_, dst))) => answer.and_then(|n| same_memory(n, before, dst)),
                _ => answer,
            });
            checked.collect()
        };
        let asking = self.ask_batch(operation, asked, get).await;
        self.end_batch(operation, asking, |i| &requests[i].0)
    }

    /// `put` of each pair, answered in the order given.
    pub async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let put = async {
            let answers = self.0.connector.batched_put(items).await.into_iter();
            let lengths = items.iter().map(|(_, chunk)| chunk.len()).chain(std::iter::repeat(0));
            answers.zip(lengths).map(|(answer, bytes)| answer.map(|()| Stored(bytes))).collect()
        };
        let answers = self.batch(Operation::BatchedPut, items.len(), |i| &items[i].0, put).await;
        answers.into_iter().map(|answer| answer.map(|Stored(_)| ())).collect()
    }

    /// `remove` of each key, in the order asked.
    pub async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.batch(Operation::BatchedRemove, keys.len(), |i| &keys[i], self.0.connector.batched_remove(keys)).await
    }

    /// The chunks of the leading run: those before the first key that is missing, corrupt or an error. One call asks for the
    /// run and loads it. A chunk that vanishes in between ends the run.
    ///
    /// # Errors
    /// The first key's error; a later one ends the run.
    pub async fn get_prefix(&self, keys: &[CacheKey]) -> Result<Vec<MemoryObj>> {
        let asked = keys.len();
        let get = async {
            let chunks = self.0.connector.get_prefix(keys).await?;
            if chunks.len() <= asked { Ok(Loaded { chunks, asked }) } else { Err(wrong_count(chunks.len(), asked)) }
        };
        self.call(Operation::GetPrefix, keys.first(), get).await.map(|loaded| loaded.chunks)
    }

    /// A batch with destinations that have no memory. Reads the other destinations one by one.
    async fn get_into_some(
        &self,
        requests: &mut [(CacheKey, MemoryObjMut)],
        before: &[Option<usize>],
    ) -> Vec<Result<Option<usize>>> {
        let mut answers = Vec::with_capacity(requests.len());
        for ((key, dst), before) in requests.iter_mut().zip(before) {
            answers.push(match before {
                Some(before) => self.0.connector.get_into(key, dst).await.and_then(|n| same_memory(n, *before, dst)),
                None => Err(taken()),
            });
        }
        answers
    }
}

/// The error of a destination without memory: an earlier call still has the memory, or lost it.
#[cold]
fn taken() -> Error {
    Error::new(ErrorKind::InvalidInput, "an earlier call took the destination's memory and did not return it")
}

/// Without this check, a connector could put other memory into `dst` and leave the caller's memory empty.
fn same_memory(n: Option<usize>, before: usize, dst: &MemoryObjMut) -> Result<Option<usize>> {
    match n {
        Some(n) if dst.identity() != Some(before) || n != dst.len() => Err(Error::new(
            ErrorKind::Other,
            format!("the connector answers {n} bytes, but left {} in other memory than it was given", dst.len()),
        )
        .with_hint("this is a bug in the connector: `get_into` must fill the memory of `dst`, and give its length")),
        n => Ok(n),
    }
}

impl AtExit for Inner {
    fn close(self: Arc<Self>) -> BoxFuture<'static, Result<()>> {
        async move { Connector(self, None).close().await }.boxed()
    }

    fn is_done(&self) -> bool {
        self.closed.initialized()
    }
}

/// A handle is also a connector, so that another connector can wrap it. The compiler does not suggest it to an author
/// who forgot the trait.
#[diagnostic::do_not_recommend]
#[deny(clippy::missing_trait_methods, reason = "a missing method would bypass the connector's own")]
impl RemoteConnector for Connector {
    fn capabilities(&self) -> Capabilities {
        Self::capabilities(self)
    }
    listings!(list_by |this| this, |items| items(););
    operations!(forward '_ |this| this;);
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({})", self.name())
    }
}
