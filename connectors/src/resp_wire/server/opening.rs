//! Opens connections in the background. A call takes the first connection that is free: a new one, or one that another
//! call gives back. So a stalled greeting delays no call while other connections work, and a connection whose call has
//! ended meanwhile serves the next one.

use std::sync::Weak;
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result, runtime};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::connection::Connection;
use super::super::task::unless_it_panics;
use super::pool::{Open, Pool, Waiter};
use super::{Server, timeout};

/// How long a call waits for a connection that an earlier call began to open. After this time it opens its own.
const PATIENCE: Duration = Duration::from_millis(100);

/// A connection that a call may use.
pub(super) struct Ready {
    pub(super) connection: Connection,
    /// [`Reach::generation`](super::Reach::generation) when the attempt to open it began.
    pub(super) generation: usize,
    /// When the attempt to open it began. `None` after its first use, and for a call that came after the attempt began: then
    /// the server may have closed it before the call.
    pub(super) began: Option<Instant>,
}

/// The place of a call among those that wait for a connection.
struct Waiting<'a> {
    server: &'a Server,
    pool: &'a Pool,
    answer: oneshot::Receiver<Result<Ready>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.answer.close();
        self.pool.open().waiters.retain(|waiter| !waiter.sender.is_closed());
        // The call is dropped after it got a connection, and before it saw it.
        if let Ok(Ok(ready)) = self.answer.try_recv() {
            self.pool.open().in_use -= 1;
            self.server.keep(self.pool, ready);
        }
    }
}

/// Counts one attempt of a pool to open a connection until it is dropped.
struct Attempt {
    server: Weak<Server>,
    is_small: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(server) = self.server.upgrade() {
            server.pool(self.is_small).open().attempts -= 1;
        }
    }
}

impl Server {
    /// The first connection of the pool that is free, which then counts as used. A new one must be ready within `limit`.
    /// Others are then opened ahead.
    ///
    /// # Errors
    /// The failure of an attempt to connect.
    pub(super) async fn first_free(&self, pool: &Pool, since: Instant, limit: Duration) -> Result<Ready> {
        let deadline = Instant::now() + limit;
        loop {
            self.reach.check(since).inspect_err(|e| self.meters.failed(e.kind()))?;
            let (sender, answer) = oneshot::channel();
            let mut waiting = Waiting { server: self, pool, answer };
            let mut has_attempt = {
                let mut open = pool.open();
                if pool.permits.is_closed() {
                    return Err(self.closed());
                }
                open.waiters.push_back(Waiter { sender, generation: self.reach.generation(), since: Instant::now() });
                open.attempts < open.waiters.len()
            };
            if has_attempt {
                self.attempt(pool, since, limit);
            }
            let answer = loop {
                let left = deadline.saturating_duration_since(Instant::now());
                let wait = if has_attempt { left } else { left.min(PATIENCE) };
                match timeout(wait, &mut waiting.answer)?.await {
                    Ok(answer) => break answer.unwrap_or_else(|_| Err(self.closed())),
                    Err(_) if left <= wait => return Err(self.reach.timed_out(limit)),
                    Err(_) => {
                        has_attempt = true;
                        self.attempt(pool, since, left);
                    }
                }
            };
            match answer {
                // The attempt began before this call, or had less time.
                Err(e) if e.kind() == ErrorKind::Timeout && Instant::now() < deadline => {}
                answer => return answer.inspect(|_| self.open_ahead()),
            }
        }
    }

    /// Opens a connection in the background, for the first call that waits, or for a later one. `false` if the pool is
    /// closed, has too many attempts, or the process exits.
    pub(super) fn attempt(&self, pool: &Pool, since: Instant, limit: Duration) -> bool {
        let Ok(runtime) = runtime::handle() else { return false };
        let mut opening = pool.opening();
        while opening.try_join_next().is_some() {}
        {
            let mut open = pool.open();
            // Twice as many as calls, because greetings that stall take no part in the next attempts.
            if pool.permits.is_closed() || open.attempts >= 2 * pool.size {
                return false;
            }
            open.attempts += 1;
        }
        let attempt = Attempt { server: self.me.clone(), is_small: pool.is_small };
        let (reach, progress, buffer_len) = (self.reach.clone(), pool.progress.clone(), pool.buffer_len);
        let (generation, began) = (reach.generation(), Instant::now());
        let open = async move {
            let connecting = reach.connect(buffer_len, &progress, since, limit);
            let connected = unless_it_panics("the task that connects to a server", connecting).await;
            let Some(server) = attempt.server.upgrade() else { return };
            let pool = server.pool(attempt.is_small);
            // The next call that waits must not count on it.
            drop(attempt);
            match connected {
                Ok(mut connection) => {
                    server.meters.connected();
                    connection.count_by(&server.meters);
                    server.keep(pool, Ready { connection, generation, began: Some(began) });
                }
                Err(e) => {
                    server.meters.failed(e.kind());
                    pool.fail(e, began);
                    server.attempt_if_lacking(pool);
                }
            }
        };
        opening.spawn_on(open, runtime);
        true
    }

    /// Gives the connection to the first call that waits for one, or keeps it for the next one. Drops it if the pool is
    /// closed or full, or if the server may have been replaced.
    pub(super) fn keep(&self, pool: &Pool, mut ready: Ready) {
        let began = ready.began;
        loop {
            let waiter = {
                let mut open = pool.open();
                let is_current = ready.generation == self.reach.generation();
                if pool.permits.is_closed() || began.is_none() && !is_current {
                    return;
                }
                match open.waiters.pop_front_if(|waiter| waiter.generation <= ready.generation) {
                    Some(waiter) => {
                        open.in_use += 1;
                        ready.began = began.filter(|began| *began >= waiter.since);
                        waiter
                    }
                    None if is_current => {
                        if began.is_none() || open.idle.len() + open.in_use < pool.size {
                            open.idle.push(ready.connection);
                        }
                        return;
                    }
                    None => break,
                }
            };
            match waiter.sender.send(Ok(ready)) {
                Err(Ok(back)) => {
                    pool.open().in_use -= 1;
                    ready = Ready { began, ..back };
                }
                _ => return,
            }
        }
        // The server moved after this attempt began.
        self.attempt_if_lacking(pool);
    }

    /// Calls that came after an attempt began need another one.
    fn attempt_if_lacking(&self, pool: &Pool) {
        let lacks = |open: &Open| open.attempts < open.waiters.len();
        if lacks(&pool.open()) {
            self.attempt(pool, Instant::now(), self.reach.options().connect_timeout);
        }
    }
}

impl Pool {
    /// An attempt failed, so the first call that waited when it began fails. The state of the server may be another one since.
    fn fail(&self, mut e: Error, began: Instant) {
        loop {
            let Some(waiter) = self.open().waiters.pop_front_if(|waiter| waiter.since <= began) else { return };
            match waiter.sender.send(Err(e)) {
                Err(Err(back)) => e = back,
                _ => return,
            }
        }
    }
}
