//! Whether a server can be reached. While it may be away, one call at a time tries to connect.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connector_core::options::Login;
use connector_core::{Error, ErrorKind, Result, runtime};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connect::connect;
use super::connection::Connection;
use super::options::WireOptions;
use super::tls::{NO_TLS, WITH_TLS};
use super::transport::Address;

/// Opens the connections to a server.
pub(super) struct Reach {
    address: Address,
    options: Arc<WireOptions>,
    /// The runtime that waits for the sockets.
    sockets: Handle,
    /// The user and the password that the server accepted last.
    login: Mutex<Login>,
    /// Grows when the server may not be the right one any more. Older connections are then closed.
    generation: AtomicUsize,
    state: Mutex<State>,
    /// The attempt to connect to a server that may be away.
    turn: Semaphore,
}

#[derive(Default)]
struct State {
    /// Whether the last call found the server away. The next attempt to connect is the only one.
    in_doubt: bool,
    /// Attempts that failed since the last success.
    attempts: u32,
    failure: Option<Failure>,
}

struct Failure {
    at: Instant,
    /// When the next attempt may start.
    next: Instant,
    error: Error,
}

/// The time between a failed attempt to connect and the next one. It doubles every [`SAME_PAUSES`] attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const SAME_PAUSES: u32 = 4;
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(320);
/// While the server is away, the longest time that a call waits for a pause to end, or for the attempt of another call.
const PATIENCE: Duration = FIRST_PAUSE;

impl Reach {
    pub(super) fn new(address: Address, options: Arc<WireOptions>, sockets: Handle) -> Arc<Self> {
        Arc::new(Self {
            address,
            sockets,
            login: Mutex::new(options.login.clone()),
            generation: AtomicUsize::new(0),
            options,
            state: Mutex::default(),
            turn: Semaphore::new(1),
        })
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn options(&self) -> &WireOptions {
        &self.options
    }

    /// A new connection within `limit`, for a call that waits for one since `since`. The process's own runtime opens
    /// it, because the caller's runtime may have no timer, and because the caller may stop polling the call.
    ///
    /// # Errors
    /// The failure of this attempt, or of another one that makes this one useless.
    pub(super) async fn connect(
        self: &Arc<Self>,
        buffer_len: usize,
        progress: &Arc<AtomicUsize>,
        since: Instant,
        limit: Duration,
    ) -> Result<Connection> {
        self.check(since)?;
        let (reach, progress) = (self.clone(), progress.clone());
        let opening = runtime::handle()?.spawn(async move { reach.attempt(buffer_len, &progress, since, limit).await });
        let _abort = AbortOnDrop(opening.abort_handle());
        opening.await.map_err(|_| Error::new(ErrorKind::Other, "the task that connects to the server panicked"))?
    }

    async fn attempt(
        &self,
        buffer_len: usize,
        progress: &Arc<AtomicUsize>,
        since: Instant,
        limit: Duration,
    ) -> Result<Connection> {
        let mut turn = None;
        let deadline = Instant::now() + limit;
        if self.state().in_doubt {
            // A call without an answer does not mean that the attempt of another call fails.
            let failed_attempt = {
                let state = self.state();
                state.failure.as_ref().filter(|_| state.attempts > 0).map(|failure| failure.error.clone())
            };
            let acquired = match failed_attempt {
                Some(e) => tokio::time::timeout(PATIENCE, self.turn.acquire()).await.map_err(|_| e)?,
                None => {
                    tokio::time::timeout_at(deadline, self.turn.acquire()).await.map_err(|_| self.timed_out(limit))?
                }
            };
            // The semaphore is never closed.
            turn = acquired.ok();
            // The result of the attempt before this one.
            self.check(since)?;
        }
        let next = self.state().failure.as_ref().map(|failure| failure.next);
        match next {
            Some(next) => tokio::time::sleep_until(next).await,
            // The server is there. Further calls connect at the same time.
            None if !self.state().in_doubt => turn = None,
            None => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let connecting = tokio::time::timeout(left, self.log_in(buffer_len, progress));
        let connected = connecting.await.unwrap_or_else(|_| Err(self.timed_out(limit)));
        match &connected {
            Ok(_) => *self.state() = State::default(),
            // Another call may have much more time.
            Err(e) if e.kind() == ErrorKind::Timeout && left * 2 < self.options.connect_timeout => self.doubt(),
            Err(e) => self.failed(e),
        }
        drop(turn);
        connected
    }

    /// Connects. If the server refuses the password, and a file holds it, reads the file once more.
    async fn log_in(&self, buffer_len: usize, progress: &Arc<AtomicUsize>) -> Result<Connection> {
        let login = self.login().clone();
        let connected = connect(&self.address, &self.options, &login, &self.sockets, buffer_len, progress).await;
        let denied = match connected {
            Err(e) if e.kind() == ErrorKind::Denied && login.is_in_a_file() => e,
            other => return other,
        };
        let old = login.clone();
        match tokio::task::spawn_blocking(move || login.reload()).await {
            Ok(Ok(new)) if new != old => {
                *self.login() = new.clone();
                connect(&self.address, &self.options, &new, &self.sockets, buffer_len, progress).await
            }
            // The old login stands until the file can be read.
            Ok(Err(unreadable)) => Err(denied.with_hint(unreadable.message().to_owned())),
            _ => Err(denied),
        }
    }

    fn timed_out(&self, limit: Duration) -> Error {
        let why = format!("{} did not answer within {} ms", self.address, limit.as_millis());
        let tls = match self.options.tls {
            Some(_) => NO_TLS,
            None => WITH_TLS,
        };
        Error::new(ErrorKind::Timeout, why).temporary(true).with_hint(format!(
            "check the host and the firewall; is it a redis or valkey server? {tls}; `connect_timeout_ms` says how long to wait"
        ))
    }

    /// Fails while the server is away, unless the next attempt is due soon and the call came after the last failure.
    fn check(&self, since: Instant) -> Result<()> {
        match &self.state().failure {
            Some(failure) if failure.at >= since || Instant::now() + PATIENCE < failure.next => {
                Err(failure.error.clone())
            }
            _ => Ok(()),
        }
    }

    /// Whether a call that comes now may connect.
    pub(super) fn is_due(&self) -> bool {
        self.state().failure.as_ref().is_none_or(|failure| Instant::now() >= failure.next)
    }

    /// A connection broke, so the server may be away.
    pub(super) fn doubt(&self) {
        self.state().in_doubt = true;
    }

    /// A call got no answer in time. Calls that wait for a connection fail, too.
    pub(super) fn timed_out_in_call(&self, e: &Error) {
        let mut state = self.state();
        let at = Instant::now();
        let next = state.failure.as_ref().map_or(at, |failure| failure.next);
        state.in_doubt = true;
        state.failure = Some(Failure { at, next, error: e.clone() });
    }

    fn failed(&self, e: &Error) {
        let mut state = self.state();
        let at = Instant::now();
        // Attempts that failed together count as one.
        if state.failure.as_ref().is_none_or(|failure| at >= failure.next) {
            state.attempts += 1;
        }
        let pause = (FIRST_PAUSE * 2_u32.pow(state.attempts.min(16) / SAME_PAUSES)).min(LONGEST_PAUSE);
        state.in_doubt = true;
        state.failure = Some(Failure { at, next: at + pause, error: e.clone() });
    }

    /// The number of times that the server was found not to be the right one.
    pub(super) fn generation(&self) -> usize {
        self.generation.load(Ordering::Acquire)
    }

    /// The server may not be the right one any more: the next connection resolves its name anew.
    pub(super) fn moved(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn login(&self) -> MutexGuard<'_, Login> {
        self.login.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a task when it is dropped.
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
