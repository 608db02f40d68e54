//! The breaker: refuses calls while the store is lost.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use metrics::SharedString;
use tokio::time::Instant;

use super::{Answer, Verdict, around};
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::connector::{Capabilities, ListEntry, Operation, RemoteConnector, list_by, listings, operations};
use crate::key::CacheKey;
use crate::observe;
use crate::{BoxStream, Error, ErrorKind, ErrorStatus, Result};

/// Opens after a number of calls in a row that ended with [`Unavailable`](ErrorKind::Unavailable) or
/// [`Timeout`](ErrorKind::Timeout). While it is open, every call fails with `Unavailable` at once. After the interval one call, the
/// probe, goes through. If it reaches the store, the breaker closes; otherwise the next interval begins.
///
/// A call that its caller drops does not count. A call that fails before it reaches the store does not count either.
/// Examples are an invalid key, a full pool, and a timeout while the call [waited](super::local_wait) for memory or a
/// connection. An open breaker refuses a `list`, but a `list` never opens or closes it.
///
/// LMCache does the same with an interval of 10 s (`min_reconnect_interval` of its `RemoteBackend`, 0.5.6). The interval is in
/// tokio's time, which a change of the system's clock does not move.
#[derive(Debug, Clone)]
pub(super) struct BreakerLayer {
    failures: u32,
    interval: Duration,
    connector: SharedString,
}

impl BreakerLayer {
    /// Opens after `failures` calls in a row, never if 0. Lets one call through every `interval`.
    pub(super) fn new(failures: u32, interval: Duration) -> Self {
        Self { failures, interval, connector: SharedString::const_str("") }
    }

    /// The connector's name in logs and metrics.
    #[must_use]
    pub(super) fn named(mut self, connector: impl Into<SharedString>) -> Self {
        self.connector = connector.into();
        self
    }
}

/// A connector with a [`BreakerLayer`].
#[derive(Debug)]
pub(super) struct Breaker<C> {
    limits: BreakerLayer,
    /// Failures in a row.
    failures: AtomicU32,
    /// Whether the breaker is open. While it is closed, a call reads only this.
    is_open: AtomicBool,
    state: Mutex<State>,
    inner: C,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Open>,
    /// How often the breaker opened. A probe of an earlier time does not count.
    times: u64,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    /// Whether a probe is running.
    probing: bool,
    /// The message of the last failure.
    why: String,
}

impl BreakerLayer {
    /// Puts the layer around `inner`.
    pub(super) fn layer<C>(self, inner: C) -> Breaker<C> {
        let is_open = AtomicBool::new(false);
        Breaker { limits: self, failures: AtomicU32::new(0), is_open, state: Mutex::default(), inner }
    }
}

/// The call that finds out whether the store is back. If it is dropped without an answer, the next call is the probe.
struct Probe<'a> {
    state: &'a Mutex<State>,
    time: u64,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        let mut state = lock(self.state);
        if state.times == self.time
            && let Some(open) = &mut state.open
        {
            open.probing = false;
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // No code panics while it holds the lock.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C> Breaker<C> {
    async fn around<T: Answer>(&self, _operation: Operation, keys: usize, call: impl Future<Output = T> + Send) -> T {
        if self.limits.failures == 0 {
            return call.await;
        }
        let probe = match self.enter() {
            Ok(probe) => probe,
            Err(refused) => return T::failed(refused, keys),
        };
        let answer = call.await;
        match answer.verdict() {
            // A batch without keys does not reach the store.
            _ if keys == 0 => {}
            Verdict::Lost(e) => self.lost(e, probe.as_ref()),
            Verdict::Found => self.found(),
            Verdict::Nothing => {}
        }
        drop(probe);
        answer
    }

    fn listing<'a, T: Send + 'a>(&self, items: impl FnOnce() -> BoxStream<'a, Result<T>>) -> BoxStream<'a, Result<T>> {
        match self.enter() {
            // A listing is never the probe, because the caller may keep the stream without polling it.
            Ok(probe) => {
                drop(probe);
                items()
            }
            Err(refused) => stream::once(async { Err(refused) }).boxed(),
        }
    }

    /// Lets a call in, as the probe if the interval is over.
    fn enter(&self) -> Result<Option<Probe<'_>>> {
        if !self.is_open.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut state = lock(&self.state);
        let time = state.times;
        let Some(open) = &mut state.open else { return Ok(None) };
        let waited = open.since.elapsed();
        if waited >= self.limits.interval && !open.probing {
            open.probing = true;
            return Ok(Some(Probe { state: &self.state, time }));
        }
        let next = match self.limits.interval.checked_sub(waited) {
            Some(left) if !open.probing => format!("the next call goes through in {left:.1?}"),
            _ => "another call is trying it now".to_owned(),
        };
        let message = format!("the store is lost: {}; {next}", open.why);
        // No retry can succeed before the interval is over, in this store or in a store in front.
        Err(Error::new(ErrorKind::Unavailable, message).with_status(ErrorStatus::Persistent))
    }

    fn lost(&self, error: &Error, probe: Option<&Probe<'_>>) {
        let failures = self.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        let (connector, interval) = (&self.limits.connector, self.limits.interval);
        let mut state = lock(&self.state);
        let (time, why) = (state.times, error.message().to_owned());
        match &mut state.open {
            // A call that began before the breaker opened does not count.
            Some(open) => {
                if probe.is_some_and(|probe| probe.time == time) {
                    tracing::debug!(%connector, %error, "the store is still lost");
                    (open.since, open.why) = (Instant::now(), why);
                }
                return;
            }
            None if failures < self.limits.failures => return,
            None => {}
        }
        tracing::warn!(%connector, %error, failures, "the store is lost: calls are refused for {interval:?}");
        metrics::counter!(observe::BREAKER_OPENED, "connector" => connector.clone()).increment(1);
        state.open = Some(Open { since: Instant::now(), probing: false, why });
        state.times += 1;
        self.is_open.store(true, Ordering::Release);
    }

    fn found(&self) {
        if self.failures.load(Ordering::Acquire) != 0 {
            self.failures.store(0, Ordering::Release);
        }
        if self.is_open.load(Ordering::Acquire) {
            let mut state = lock(&self.state);
            if state.open.take().is_some() {
                tracing::info!(connector = %self.limits.connector, "the store is back");
            }
            self.is_open.store(false, Ordering::Release);
        }
    }
}

#[diagnostic::do_not_recommend]
#[deny(clippy::missing_trait_methods, reason = "a missing method would bypass the connector's own")]
impl<C: RemoteConnector> RemoteConnector for Breaker<C> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    listings!(list_by |this| this.inner, |items| this.listing(items););

    operations!(around '_);
}
