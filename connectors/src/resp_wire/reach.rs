//! Whether a server can be reached. While it may be away, one call tries to connect. While it is away, calls fail at
//! once, and a task on the process's own runtime tries to connect until it answers again.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use connector_core::options::Login;
use connector_core::{Error, ErrorKind, Result, runtime};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::connect::connect;
use super::connection::{Connection, Progress};
use super::options::WireOptions;
use super::task::{AbortOnDrop, unless_it_panics};
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
    /// Tells the calls that wait for the probe that its attempt ended.
    probed: Notify,
}

#[derive(Default)]
struct State {
    /// Whether a connection broke. The next attempt to connect is the only one.
    in_doubt: bool,
    /// Set while the server is away.
    away: Option<Away>,
}

struct Away {
    /// When the server was last found away, and the reason.
    at: Instant,
    error: Error,
    /// The start of the probe's attempt, the current or the next one.
    attempt: Instant,
    /// When a call last wanted the server.
    wanted: Instant,
    _probe: AbortOnDrop,
}

/// The time between a failed attempt to connect and the next one. It doubles every [`SAME_PAUSES`] attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const SAME_PAUSES: u32 = 4;
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(320);
/// A call waits for the probe's attempt if it starts within this time.
const PATIENCE: Duration = FIRST_PAUSE;
/// A call gives up waiting for an attempt that takes longer.
const LONG_ATTEMPT: Duration = Duration::from_millis(100);
/// The probe ends after this time without a call. The next call then tries to connect.
const UNWANTED: Duration = Duration::from_secs(10);
/// The probe reads only greetings.
const PROBE_BUFFER: usize = 1 << 10;

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
            probed: Notify::new(),
        })
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn options(&self) -> &WireOptions {
        &self.options
    }

    /// Whether a call that waits for a connection since `since` may try to connect.
    ///
    /// # Errors
    /// The failure of another attempt that makes this one useless.
    pub(super) fn check(&self, since: Instant) -> Result<()> {
        self.wait_of(since).map(drop)
    }

    /// A new connection within `limit`, for a call that waits for one since `since`. `progress` is that of the pool.
    ///
    /// # Errors
    /// The failure of this attempt, or of another one that makes this one useless.
    pub(super) async fn connect(
        self: &Arc<Self>,
        buffer_len: usize,
        progress: &Arc<Progress>,
        since: Instant,
        limit: Duration,
    ) -> Result<Connection> {
        let begin = Instant::now();
        let deadline = begin + limit;
        self.wait_for_probe(since).await?;
        let mut turn = None;
        if self.state().in_doubt {
            let acquired = tokio::time::timeout_at(deadline, self.turn.acquire()).await;
            // The semaphore is never closed.
            turn = acquired.map_err(|_| self.timed_out(limit))?.ok();
            // The result of the attempt before this one.
            self.wait_for_probe(since).await?;
            if !self.state().in_doubt {
                // The server is there. Further calls connect at the same time.
                turn = None;
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let moves = progress.moves();
        let connecting = tokio::time::timeout(left, self.log_in(buffer_len));
        let mut connected = connecting.await.unwrap_or_else(|_| Err(self.timed_out(limit)));
        match &mut connected {
            Ok(connection) => {
                connection.counts_in(progress);
                self.is_there();
            }
            Err(e) if e.kind() == ErrorKind::Timeout => {
                // Another call may have much more time, or the server answers on other connections.
                let is_short = left * 2 < self.options.connect_timeout;
                if is_short || progress.moves() != moves { self.doubt() } else { self.is_away(e, begin, FIRST_PAUSE) }
            }
            Err(e) => self.is_away(e, begin, FIRST_PAUSE),
        }
        drop(turn);
        connected
    }

    /// Connects. If the server refuses the password, and a file holds it, reads the file once more.
    async fn log_in(&self, buffer_len: usize) -> Result<Connection> {
        let login = self.login().clone();
        let connected = connect(&self.address, &self.options, &login, &self.sockets, buffer_len).await;
        let denied = match connected {
            Err(e) if e.kind() == ErrorKind::Denied && login.is_in_a_file() => e,
            other => return other,
        };
        let old = login.clone();
        match tokio::task::spawn_blocking(move || login.reload()).await {
            Ok(Ok(new)) if new != old => {
                *self.login() = new.clone();
                connect(&self.address, &self.options, &new, &self.sockets, buffer_len).await
            }
            // The old login stands until the file can be read.
            Ok(Err(unreadable)) => Err(denied.with_hint(unreadable.message().to_owned())),
            _ => Err(denied),
        }
    }

    pub(super) fn timed_out(&self, limit: Duration) -> Error {
        let why = format!("{} did not answer within {} ms", self.address, limit.as_millis());
        let tls = self.options.tls_hint();
        Error::new(ErrorKind::Timeout, why).temporary(true).with_hint(format!(
            "check the host and the firewall; is it a redis or valkey server? {tls}; `connect_timeout_ms` says how long to wait"
        ))
    }

    /// How long a call that came at `since` waits for the probe. `None` if the server is not away.
    ///
    /// # Errors
    /// The reason why the server is away, if the wait is not worth it.
    fn wait_of(&self, since: Instant) -> Result<Option<Instant>> {
        let mut state = self.state();
        let Some(away) = &mut state.away else { return Ok(None) };
        let (now, until) = (Instant::now(), away.attempt + LONG_ATTEMPT);
        away.wanted = now;
        let is_soon = away.at < since && away.attempt < now + PATIENCE && now < until;
        if is_soon { Ok(Some(until)) } else { Err(away.error.clone()) }
    }

    /// Fails while the server is away. Waits a short time for the probe.
    async fn wait_for_probe(&self, since: Instant) -> Result<()> {
        let mut probed = pin!(self.probed.notified());
        probed.as_mut().enable();
        if let Some(until) = self.wait_of(since)? {
            let _ = tokio::time::timeout_at(until, probed).await;
            if let Some(away) = &self.state().away {
                return Err(away.error.clone());
            }
        }
        Ok(())
    }

    /// Whether a call that comes now may connect.
    pub(super) fn is_due(&self) -> bool {
        self.state().away.is_none()
    }

    /// A connection broke, so the server may be away.
    pub(super) fn doubt(&self) {
        self.state().in_doubt = true;
    }

    /// A call got no answer in time. Calls that wait for a connection fail, too.
    pub(super) fn timed_out_in_call(self: &Arc<Self>, e: &Error) {
        self.is_away(e, Instant::now(), Duration::ZERO);
    }

    /// Ends the probe.
    pub(super) fn close(&self) {
        *self.state() = State::default();
    }

    fn is_there(&self) {
        *self.state() = State::default();
        self.probed.notify_waiters();
    }

    /// The server is away because of `e`, the end of an attempt that began at `begin`. A call that came later may wait for the
    /// probe. The probe starts after the pause, unless it runs.
    fn is_away(self: &Arc<Self>, e: &Error, begin: Instant, pause: Duration) {
        let mut state = self.state();
        state.in_doubt = true;
        let now = Instant::now();
        if let Some(away) = &mut state.away {
            (away.at, away.error) = (away.at.max(begin), e.clone());
            return;
        }
        // Without a runtime, the process exits.
        let Ok(runtime) = runtime::handle() else { return };
        let probe = runtime.spawn(probe(Arc::downgrade(self), pause));
        let _probe = AbortOnDrop(probe.abort_handle());
        state.away = Some(Away { at: begin, error: e.clone(), attempt: now + pause, wanted: now, _probe });
    }

    /// An attempt of the probe, which takes a pause after it. Whether another one must follow.
    async fn probe(&self, pause: Duration) -> bool {
        let limit = self.options.connect_timeout;
        if let Some(away) = &mut self.state().away {
            away.attempt = Instant::now();
        }
        let connecting = unless_it_panics("the task that waits for a server", self.log_in(PROBE_BUFFER));
        let connected = tokio::time::timeout(limit, connecting).await;
        let Err(e) = connected.unwrap_or_else(|_| Err(self.timed_out(limit))) else {
            self.is_there();
            return false;
        };
        let mut state = self.state();
        let now = Instant::now();
        let is_wanted = state.away.as_ref().is_some_and(|away| now < away.wanted + UNWANTED);
        match &mut state.away {
            Some(away) if is_wanted => (away.at, away.error, away.attempt) = (now, e, now + pause),
            away => *away = None,
        }
        drop(state);
        self.probed.notify_waiters();
        is_wanted
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

/// Tries to connect to a server that is away until it answers.
async fn probe(reach: Weak<Reach>, mut pause: Duration) {
    for attempts in 1_u32.. {
        tokio::time::sleep(pause).await;
        pause = (FIRST_PAUSE * 2_u32.pow(attempts.min(16) / SAME_PAUSES)).min(LONGEST_PAUSE);
        match reach.upgrade() {
            Some(reach) if reach.probe(pause).await => {}
            _ => return,
        }
    }
}
