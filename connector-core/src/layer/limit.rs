//! The limit: a number of calls at once.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::timeout::{StoreId, TimeoutLayer, timed_out};
use super::{Answer, around};
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::connector::{
    Capabilities, Diagnosis, ListEntry, Operation, RemoteConnector, ServerInfo, list_by, listings, operations,
};
use crate::key::CacheKey;
use crate::{BoxStream, Result};

/// Lets a number of calls run at once. The others wait in the order in which they came, each for as long as a call may
/// take. A batch counts as one call; `list` and `close` do not count.
#[derive(Debug, Clone, Copy)]
pub(super) struct LimitLayer {
    most: usize,
    patience: TimeoutLayer,
}

impl LimitLayer {
    /// At most `most` calls at once; 0 for no limit. The others wait for the time of a call.
    pub(super) fn new(most: usize, patience: TimeoutLayer) -> Self {
        Self { most, patience }
    }

    /// The layer of this store.
    #[must_use]
    pub(super) fn of_store(mut self, store: StoreId) -> Self {
        self.patience = self.patience.of_store(store);
        self
    }

    /// Puts the layer around `inner`.
    pub(super) fn layer<C>(self, inner: C) -> Limit<C> {
        let room = (self.most > 0).then(|| Semaphore::new(self.most.min(Semaphore::MAX_PERMITS)));
        Limit { room, patience: self.patience, inner }
    }
}

/// A connector with a [`LimitLayer`].
#[derive(Debug)]
pub(super) struct Limit<C> {
    room: Option<Semaphore>,
    patience: TimeoutLayer,
    inner: C,
}

impl<C> Limit<C> {
    async fn around<T: Answer>(&self, operation: Operation, keys: usize, call: impl Future<Output = T> + Send) -> T {
        let Some(room) = self.room.as_ref().filter(|_| operation != Operation::Close) else { return call.await };
        let limit = self.patience.of(operation);
        let permit = match room.try_acquire() {
            Ok(permit) => Ok(permit),
            Err(_) if limit == Duration::MAX => room.acquire().await,
            Err(_) => match tokio::time::timeout(limit, room.acquire()).await {
                Ok(permit) => permit,
                Err(_) => {
                    let e = timed_out(limit).unsent();
                    let most = "raise `max_in_flight`, or `timeout_ms`";
                    return T::failed(e.at("`max_in_flight` other calls are running").with_hint(most), keys);
                }
            },
        };
        // The semaphore is never closed.
        let _permit = permit.ok();
        call.await
    }
}

#[diagnostic::do_not_recommend]
#[deny(clippy::missing_trait_methods, reason = "a missing method would bypass the connector's own")]
impl<C: RemoteConnector> RemoteConnector for Limit<C> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    listings!(list_by |this| this.inner, |items| items(););

    operations!(around '_);
}
