//! The option `min_idle`: kvconn opens connections for chunks ahead of the calls that use them.

use tokio::time::Instant;

use super::Server;

impl Server {
    /// Opens connections in the background, all at the same time, until `min_idle` of them are idle.
    pub(in crate::resp_wire) fn open_ahead(&self) {
        while self.lacks_idle() {
            // If an attempt fails, the call that needs a connection tries again.
            let limit = self.reach.options().connect_timeout;
            if !self.attempt(&self.bulk, Instant::now(), limit) {
                return;
            }
        }
    }

    /// Whether fewer connections are idle, or will be, than the option asks for. Drops those that the server closed. A
    /// connection that a call uses holds a permit.
    fn lacks_idle(&self) -> bool {
        let min_idle = self.reach.options().min_idle;
        if min_idle == 0 {
            return false;
        }
        let mut open = self.bulk.open();
        open.idle.retain_mut(|connection| connection.is_alive());
        let ready = open.idle.len() + open.attempts.saturating_sub(open.waiters.len());
        ready < min_idle.min(self.bulk.permits.available_permits())
    }
}
