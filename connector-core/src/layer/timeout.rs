//! The timeout: ends a call that takes too long.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::{Instant, timeout_at};

use super::{Answer, around};
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::connector::{
    Capabilities, Diagnosis, ListEntry, Operation, RemoteConnector, ServerInfo, list_by, listings, operations,
};
use crate::key::CacheKey;
use crate::{BoxStream, Error, ErrorKind, Result};

/// Drops the future of a call that takes longer than the limit. The call then fails with [`Timeout`](ErrorKind::Timeout), a
/// temporary error.
///
/// The limit holds for each item of a `list`. A `get_into` that times out may leave its destination
/// [taken](crate::MemoryObjMut::is_taken).
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeoutLayer {
    single: Duration,
    batch: Duration,
    open: Duration,
    /// The limit of a lookup, if it has one of its own.
    lookup: Option<Duration>,
    /// The store, for [`REPLACED`].
    store: StoreId,
}

impl TimeoutLayer {
    /// The same limit for single calls, batches and `open`.
    pub(super) fn new(limit: Duration) -> Self {
        Self { single: limit, batch: limit, open: limit, ..Self::OFF }
    }

    /// Another limit for batches.
    #[must_use]
    pub(super) fn with_batch(mut self, limit: Duration) -> Self {
        self.batch = limit;
        self
    }

    /// Another limit for `open`.
    #[must_use]
    pub(super) fn with_open(mut self, limit: Duration) -> Self {
        self.open = limit;
        self
    }

    /// Another limit for lookups of one or several keys.
    #[must_use]
    pub(super) fn with_lookup(mut self, limit: Duration) -> Self {
        self.lookup = Some(limit);
        self
    }

    /// The layer of this store.
    #[must_use]
    pub(super) fn of_store(mut self, store: StoreId) -> Self {
        self.store = store;
        self
    }

    /// The limit of a call.
    pub(super) fn of(&self, operation: Operation) -> Duration {
        let limit = match self.lookup {
            Some(limit) if operation.is_lookup() => limit,
            _ if operation.is_batch() => self.batch,
            _ => self.single,
        };
        let is_replaced = || REPLACED.try_with(|store| *store == self.store).unwrap_or(false);
        if limit != Duration::MAX && is_replaced() { Duration::MAX } else { limit }
    }

    /// Without a limit.
    pub(super) const OFF: Self =
        Self { single: Duration::MAX, batch: Duration::MAX, open: Duration::MAX, lookup: None, store: StoreId::NONE };
}

/// A connector with a [`TimeoutLayer`].
#[derive(Debug)]
pub(super) struct Timeout<C> {
    limits: TimeoutLayer,
    inner: C,
}

impl TimeoutLayer {
    /// Ends an open that takes longer than its limit and `patience`, unless it has `redirected` to another URL.
    pub(super) async fn open<T>(
        &self,
        patience: Duration,
        redirected: &AtomicBool,
        open: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if self.open == Duration::MAX {
            return open.await;
        }
        let limit = self.open.saturating_add(patience);
        let mut open = pin!(open);
        match tokio::time::timeout(limit, open.as_mut()).await {
            Ok(answer) => answer,
            Err(_) if redirected.load(Relaxed) => open.await,
            Err(_) => Err(timed_out(limit).with_hint("raise `open_timeout_ms`")),
        }
    }

    /// The same listing, with the limit for each item.
    fn listing<'a, T: Send + 'a>(&self, items: BoxStream<'a, Result<T>>) -> BoxStream<'a, Result<T>> {
        let limit = self.of(Operation::List);
        if limit == Duration::MAX {
            return items;
        }
        stream::unfold(Some(items), move |items| async move {
            let mut items = items?;
            match tokio::time::timeout(limit, items.next()).await {
                Ok(item) => item.map(|item| (item, Some(items))),
                Err(_) => Some((Err(timed_out(limit)), None)),
            }
        })
        .boxed()
    }

    /// Puts the layer around `inner`.
    pub(super) fn layer<C>(self, inner: C) -> Timeout<C> {
        Timeout { limits: self, inner }
    }
}

impl<C> Timeout<C> {
    async fn around<T: Answer>(&self, operation: Operation, keys: usize, call: impl Future<Output = T> + Send) -> T {
        let limit = self.limits.of(operation);
        if limit == Duration::MAX || operation == Operation::Close {
            return call.await;
        }
        limited(limit, call).await.unwrap_or_else(|e| T::failed(e, keys))
    }
}

/// The answer of a call that takes at most `limit`.
async fn limited<T>(limit: Duration, call: impl Future<Output = T>) -> Result<T> {
    let until = Instant::now().checked_add(limit);
    let mut call = pin!(RUNNING.scope(Running { waits: OnceLock::new(), until }, call));
    let Some(until) = until else { return Ok(call.await) };
    match timeout_at(until, call.as_mut()).await {
        Ok(answer) => Ok(answer),
        Err(_) => {
            let waits = call.take_value().and_then(|call| call.waits.into_inner());
            let waits = waits.map_or(0, |waits| waits.load(Relaxed));
            let e = timed_out(limit);
            Err(if waits > 0 { waited(e) } else { e })
        }
    }
}

/// A store whose calls may have a limit of their caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreId(usize);

impl StoreId {
    /// A store without layers.
    pub(crate) const NONE: Self = Self(0);

    /// The store of this [chain](crate::ConnectorContext::chain), which lives at least as long as the store.
    pub(crate) fn of(chain: &Arc<()>) -> Self {
        Self(Arc::as_ptr(chain).addr())
    }
}

/// Runs a call of `store` with the caller's limit in place of the store's own. The limits of stores behind it stay.
///
/// # Errors
/// `Timeout` for a call that takes longer.
pub(crate) async fn within<T>(limit: Duration, store: StoreId, call: impl Future<Output = T>) -> Result<T> {
    limited(limit, REPLACED.scope(store, call)).await
}

/// Starts a listing of `store` with the caller's limit for each item in place of the store's own.
pub(crate) fn each_within<'a, T: Send + 'a>(
    limit: Duration,
    store: StoreId,
    items: impl FnOnce() -> BoxStream<'a, Result<T>>,
) -> BoxStream<'a, Result<T>> {
    TimeoutLayer::new(limit).listing(REPLACED.sync_scope(store, items))
}

tokio::task_local! {
    /// The store whose limits the caller of the running call replaced.
    static REPLACED: StoreId;


    /// The call that runs within a limit.
    static RUNNING: Running;
}

/// A call that runs within a limit.
struct Running {
    /// The number of its waits for something that this process holds. Made at the first wait, because most calls have none.
    waits: OnceLock<Arc<AtomicUsize>>,
    /// When its time ends.
    until: Option<Instant>,
}

/// The time that is left to the running call, if it has a limit. A connector whose answer has several parts can give those
/// that come in time.
pub fn time_left() -> Option<Duration> {
    let until = RUNNING.try_with(|call| call.until).ok()??;
    Some(until.saturating_duration_since(Instant::now()))
}

/// The [`local_wait`]s of a call, for other threads that poll a part of the call.
pub(crate) struct LocalWaits(Option<Arc<AtomicUsize>>);

impl LocalWaits {
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self(Some(Arc::default()))
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.0.as_ref().map_or(0, |waits| waits.load(Relaxed))
    }

    /// The waits of the call that this thread polls.
    pub(crate) fn current() -> Self {
        Self(RUNNING.try_with(waits_of).ok())
    }

    /// Runs `poll`, whose waits count as the call's.
    pub(crate) fn scope<T>(&self, poll: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(waits) => RUNNING.sync_scope(Running { waits: waits.clone().into(), until: None }, poll),
            None => poll(),
        }
    }
}

fn waits_of(call: &Running) -> Arc<AtomicUsize> {
    call.waits.get_or_init(Arc::default).clone()
}

/// Waits for something that other calls of this process hold, such as memory or a connection. If the call's time ends
/// meanwhile, its error is [unsent](Error::is_unsent), because the store is not to blame.
pub async fn local_wait<F: Future>(wait: F) -> F::Output {
    struct Waiting(Arc<AtomicUsize>);
    impl Drop for Waiting {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Relaxed);
        }
    }
    let _waiting = RUNNING.try_with(waits_of).ok().map(|waits| {
        waits.fetch_add(1, Relaxed);
        Waiting(waits)
    });
    wait.await
}

#[diagnostic::do_not_recommend]
#[deny(clippy::missing_trait_methods, reason = "a missing method would bypass the connector's own")]
impl<C: RemoteConnector> RemoteConnector for Timeout<C> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    listings!(list_by |this| this.inner, |items| this.limits.listing(items()););

    operations!(around '_);
}

/// The error of a call whose time ended while it waited for other calls of this process.
#[cold]
pub(super) fn waited(e: Error) -> Error {
    e.at("the call waited for memory or a connection that other calls hold").unsent()
}

#[cold]
pub(super) fn timed_out(limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("no answer within {limit:?}")).temporary(true)
}
