//! So many calls at once.

use tokio::sync::Semaphore;

use super::{Answer, Layer, around};
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::connector::{Capabilities, Operation, RemoteConnector, operations};
use crate::key::CacheKey;
use crate::{BoxStream, Result};

/// Lets so many calls in at once; the others wait, first come, first served.
///
/// A batch counts as one call; a `list` and `close` are not counted. The wait ends with the calls in front: with a
/// [`TimeoutLayer`](super::TimeoutLayer) inside, each of them does.
#[derive(Debug, Clone, Copy)]
pub struct LimitLayer {
    most: usize,
}

impl LimitLayer {
    /// At most `most` calls at once; 0 for no limit.
    pub fn new(most: usize) -> Self {
        Self { most }
    }
}

/// A connector with a [`LimitLayer`].
#[derive(Debug)]
pub struct Limit<C> {
    room: Option<Semaphore>,
    inner: C,
}

impl<C: RemoteConnector> Layer<C> for LimitLayer {
    type Layered = Limit<C>;

    fn layer(self, inner: C) -> Limit<C> {
        let room = (self.most > 0).then(|| Semaphore::new(self.most.min(Semaphore::MAX_PERMITS)));
        Limit { room, inner }
    }
}

impl<C> Limit<C> {
    async fn around<T: Answer>(&self, _operation: Operation, _keys: usize, call: impl Future<Output = T> + Send) -> T {
        let _permit = match &self.room {
            // Nobody closes the semaphore.
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
