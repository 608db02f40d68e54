//! The limit: a number of calls at once.

use tokio::sync::Semaphore;

use super::{Answer, around};
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::connector::{Capabilities, Operation, RemoteConnector, operations};
use crate::key::CacheKey;
use crate::{BoxStream, Result};

/// Lets a number of calls run at once. The others wait in the order in which they came. A batch counts as one call; `list` and
/// `close` do not count.
#[derive(Debug, Clone, Copy)]
pub(super) struct LimitLayer {
    most: usize,
}

impl LimitLayer {
    /// At most `most` calls at once; 0 for no limit.
    pub(super) fn new(most: usize) -> Self {
        Self { most }
    }

    /// Puts the layer around `inner`.
    pub(super) fn layer<C>(self, inner: C) -> Limit<C> {
        let room = (self.most > 0).then(|| Semaphore::new(self.most.min(Semaphore::MAX_PERMITS)));
        Limit { room, inner }
    }
}

/// A connector with a [`LimitLayer`].
#[derive(Debug)]
pub(super) struct Limit<C> {
    room: Option<Semaphore>,
    inner: C,
}

impl<C> Limit<C> {
    async fn around<T: Answer>(&self, _operation: Operation, _keys: usize, call: impl Future<Output = T> + Send) -> T {
        let _permit = match &self.room {
            // The semaphore is never closed.
            Some(room) => room.acquire().await.ok(),
            None => None,
        };
        call.await
    }
}

#[diagnostic::do_not_recommend]
#[deny(clippy::missing_trait_methods, reason = "a missing method would bypass the connector's own")]
impl<C: RemoteConnector> RemoteConnector for Limit<C> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        self.inner.list(prefix)
    }

    operations!(around '_);
}
