//! The option `min_idle`: kvconn opens connections for chunks ahead of the calls that use them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use connector_core::runtime;
use futures::future::join_all;
use tokio::time::Instant;

use super::{Server, Spent};

impl Server {
    /// Opens connections in the background, all at the same time, until `min_idle` of them are idle.
    pub(in crate::resp_wire) fn open_ahead(&self) {
        if self.reach.options().min_idle == 0 || self.missing() == 0 || self.opens_ahead.swap(true, Ordering::AcqRel) {
            return;
        }
        // Without a runtime, the process is exiting.
        if let (Ok(runtime), Some(server)) = (runtime::handle(), self.me.upgrade()) {
            runtime.spawn(async move {
                join_all((0..server.missing()).map(|_| server.open_one())).await;
                server.opens_ahead.store(false, Ordering::Release);
            });
        }
    }

    /// The number of connections to open. Drops those that the server closed. An idle connection holds no permit.
    fn missing(&self) -> usize {
        let mut open = self.bulk.open();
        open.idle.retain_mut(|connection| connection.is_alive());
        let idle = open.idle.len();
        drop(open);
        self.reach.options().min_idle.min(self.bulk.permits.available_permits()).saturating_sub(idle)
    }

    /// Opens one connection, unless calls have taken all permits. If it fails, the call that needs a connection tries again.
    async fn open_one(self: &Arc<Self>) {
        let Ok(_permit) = self.bulk.permits.try_acquire() else { return };
        let limit = self.reach.options().connect_timeout;
        if let Ok((connection, generation)) = self.open(&self.bulk, Instant::now(), limit, Spent::default()).await {
            self.keep(&self.bulk, connection, generation);
        }
    }
}
