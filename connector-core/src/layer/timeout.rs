//! The timeout: ends a call that takes too long.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::stream::{self, StreamExt};

use super::{Answer, around};
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::connector::{
    Capabilities, ListEntry, Operation, RemoteConnector, ServerInfo, list_by, listings, operations,
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
    /// The limit of a lookup, if it has one of its own.
    lookup: Option<Duration>,
}

impl TimeoutLayer {
    /// The same limit for single calls and batches.
    pub(super) fn new(limit: Duration) -> Self {
        Self { single: limit, batch: limit, lookup: None }
    }

    /// Another limit for batches.
    #[must_use]
    pub(super) fn with_batch(mut self, limit: Duration) -> Self {
        self.batch = limit;
        self
    }

    /// Another limit for lookups of one or several keys.
    #[must_use]
    pub(super) fn with_lookup(mut self, limit: Duration) -> Self {
        self.lookup = Some(limit);
        self
    }

    /// The limit of a call.
    pub(super) fn of(&self, operation: Operation) -> Duration {
        match self.lookup {
            Some(limit) if operation.is_lookup() => limit,
            _ if operation.is_batch() => self.batch,
            _ => self.single,
        }
    }

    /// Without a limit.
    pub(super) const OFF: Self = Self { single: Duration::MAX, batch: Duration::MAX, lookup: None };
}

/// A connector with a [`TimeoutLayer`].
#[derive(Debug)]
pub(super) struct Timeout<C> {
    limits: TimeoutLayer,
    inner: C,
}

impl TimeoutLayer {
    /// Ends an open that takes longer than a call and `patience`, unless it has `redirected` to another URL.
    pub(super) async fn open<T>(
        &self,
        patience: Duration,
        redirected: &AtomicBool,
        open: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if self.single == Duration::MAX {
            return open.await;
        }
        let limit = self.single.saturating_add(patience);
        let mut open = pin!(open);
        match tokio::time::timeout(limit, open.as_mut()).await {
            Ok(answer) => answer,
            Err(_) if redirected.load(Relaxed) => open.await,
            Err(_) => Err(timed_out(limit)),
        }
    }

    /// The same listing, with the limit for each item.
    fn listing<'a, T: Send + 'a>(&self, items: BoxStream<'a, Result<T>>) -> BoxStream<'a, Result<T>> {
        let limit = self.single;
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
        let mut call = pin!(LOCAL_WAITS.scope(OnceLock::new(), call));
        match tokio::time::timeout(limit, call.as_mut()).await {
            Ok(answer) => answer,
            Err(_) => {
                let waits = call.take_value().and_then(OnceLock::into_inner).map_or(0, |waits| waits.load(Relaxed));
                let e = timed_out(limit);
                T::failed(if waits > 0 { waited(e) } else { e }, keys)
            }
        }
    }
}

tokio::task_local! {
    /// The number of waits of the running call for something that this process holds. Most calls need none, so it is made late.
    static LOCAL_WAITS: OnceLock<Arc<AtomicUsize>>;
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
        Self(LOCAL_WAITS.try_with(of_call).ok())
    }

    /// Runs `poll`, whose waits count as the call's.
    pub(crate) fn scope<T>(&self, poll: impl FnOnce() -> T) -> T {
        match &self.0 {
            Some(waits) => LOCAL_WAITS.sync_scope(waits.clone().into(), poll),
            None => poll(),
        }
    }
}

fn of_call(waits: &OnceLock<Arc<AtomicUsize>>) -> Arc<AtomicUsize> {
    waits.get_or_init(Arc::default).clone()
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
    let _waiting = LOCAL_WAITS.try_with(of_call).ok().map(|waits| {
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
