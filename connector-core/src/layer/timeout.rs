//! Gives up what takes too long.

use std::time::Duration;

use futures::stream::{self, StreamExt};

use super::{Answer, Layer, around};
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::connector::{Capabilities, Operation, RemoteConnector, operations};
use crate::key::CacheKey;
use crate::{BoxStream, Error, ErrorKind, Result};

/// Gives every call so much time, then drops its future and answers [`Timeout`](ErrorKind::Timeout), marked temporary.
///
/// `list` has the time for each of its items; `close` has all it needs, because a call that is cut short there loses
/// what was not written yet. A `get_into` that times out may leave its destination
/// [taken](crate::MemoryObjMut::is_taken). Needs tokio's timer (`enable_all` of a runtime that is made by hand).
#[derive(Debug, Clone, Copy)]
pub struct TimeoutLayer {
    single: Duration,
    batch: Duration,
}

impl TimeoutLayer {
    /// So much time for every call, batches too.
    pub fn new(limit: Duration) -> Self {
        Self { single: limit, batch: limit }
    }

    /// Another time for batches.
    #[must_use]
    pub fn with_batch(mut self, limit: Duration) -> Self {
        self.batch = limit;
        self
    }

    /// As long as it takes.
    pub(super) const OFF: Self = Self { single: Duration::MAX, batch: Duration::MAX };
}

/// A connector with a [`TimeoutLayer`].
#[derive(Debug)]
pub struct Timeout<C> {
    limits: TimeoutLayer,
    inner: C,
}

impl<C: RemoteConnector> Layer<C> for TimeoutLayer {
    type Layered = Timeout<C>;

    fn layer(self, inner: C) -> Timeout<C> {
        Timeout { limits: self, inner }
    }
}

impl<C> Timeout<C> {
    async fn around<T: Answer>(&self, operation: Operation, keys: usize, call: impl Future<Output = T> + Send) -> T {
        let limit = if operation.is_batch() { self.limits.batch } else { self.limits.single };
        if limit == Duration::MAX {
            return call.await;
        }
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer,
            Err(_) => T::failed(timed_out(limit), keys),
        }
    }
}

#[diagnostic::do_not_recommend]
#[deny(clippy::missing_trait_methods, reason = "a missing method would bypass the connector's own")]
impl<C: RemoteConnector> RemoteConnector for Timeout<C> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        let limit = self.limits.single;
        let items = self.inner.list(prefix);
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

    operations!(around '_);
}

#[cold]
fn timed_out(limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("no answer within {limit:?}")).temporary(true)
}
