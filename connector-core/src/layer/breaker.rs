//! The breaker: refuses calls while the store is lost.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Answer, Verdict, around};
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::connector::{
    Capabilities, Diagnosis, ListEntry, Operation, RemoteConnector, ServerInfo, list_by, listings, operations,
};
use crate::key::CacheKey;
use crate::observe::{self, StoreLabels};
use crate::{BoxStream, Error, ErrorKind, ErrorStatus, Result, runtime};

/// Opens after a number of calls in a row that ended with [`Unavailable`](ErrorKind::Unavailable) or
/// [`Timeout`](ErrorKind::Timeout). While it is open, every call fails with `Unavailable` at once. kvconn pings the store
/// after each interval, on its own runtime, and the breaker closes when the store answers. So no call waits for a lost
/// store. If the store has no `ping`, one call after the interval, the probe, goes through in its place.
///
/// A call that its caller drops does not count. A call that fails before it reaches the store does not count either.
/// Examples are an invalid key, a full pool, and a timeout while the call [waited](super::local_wait) for memory or a
/// connection. The error of [one server of several](Error::partial) does not count. An open breaker refuses a `list`, but a `list` never opens or closes it.
///
/// LMCache does the same with an interval of 10 s (`min_reconnect_interval` of its `RemoteBackend`, 0.5.6). The interval is in
/// tokio's time, which a change of the system's clock does not move.
#[derive(Debug, Clone)]
pub(super) struct BreakerLayer {
    failures: u32,
    interval: Duration,
    /// The store in logs and metrics.
    pub(super) store: StoreLabels,
}

impl BreakerLayer {
    /// Opens after `failures` calls in a row, never if 0. Lets one call through every `interval`.
    pub(super) fn new(failures: u32, interval: Duration) -> Self {
        Self { failures, interval, store: StoreLabels::default() }
    }
}

/// A connector with a [`BreakerLayer`].
#[derive(Debug)]
pub(super) struct Breaker<C> {
    shared: Arc<Shared>,
    inner: Arc<C>,
}

/// The state that the calls share with the task that pings the store.
#[derive(Debug)]
struct Shared {
    limits: BreakerLayer,
    /// Failures in a row.
    failures: AtomicU32,
    /// Whether the breaker is open. While it is closed, a call reads only this.
    is_open: AtomicBool,
    state: Mutex<State>,
    /// The task that pings the store.
    watcher: Mutex<Option<AbortHandle>>,
}

/// The shortest pause between two pings.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct State {
    open: Option<Open>,
    /// How often the breaker opened. A probe of an earlier time does not count.
    times: u64,
    /// Whether the store was dropped. The task that pings it may still run.
    dropped: bool,
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
        let (failures, state, watcher) = (AtomicU32::new(0), Mutex::default(), Mutex::default());
        let shared = Shared { limits: self, failures, is_open, state, watcher };
        Breaker { shared: Arc::new(shared), inner: Arc::new(inner) }
    }
}

/// The task or the call that finds out whether the store is back. After a drop without an answer, the next call is the
/// probe.
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

impl<C: RemoteConnector> Breaker<C> {
    async fn around<T: Answer>(&self, operation: Operation, keys: usize, call: impl Future<Output = T> + Send) -> T {
        let shared = &self.shared;
        if operation == Operation::Close {
            shared.end_watch();
        }
        if shared.limits.failures == 0 || operation == Operation::Close {
            return call.await;
        }
        let probe = match shared.enter() {
            Ok(probe) => probe,
            Err(refused) => return T::failed(refused, keys),
        };
        let answer = call.await;
        match answer.verdict() {
            // A batch without keys does not reach the store.
            _ if keys == 0 => {}
            Verdict::Lost(e) => {
                if shared.lost(e, probe.as_ref()) {
                    self.watch();
                }
            }
            Verdict::Found => shared.found(),
            Verdict::Nothing => {}
        }
        drop(probe);
        answer
    }

    /// Pings the lost store until it answers. The task ends early if the store is closed or dropped, or if a call that was
    /// in flight finds the store. Without the task, a call is the probe.
    fn watch(&self) {
        if !self.inner.capabilities().ping {
            return;
        }
        // The caller's runtime may run only while a call waits, and no call waits for a lost store.
        let Ok(runtime) = runtime::handle() else { return };
        let (shared, inner) = (self.shared.clone(), self.inner.clone());
        let Some(time) = shared.begin_watch() else { return };
        let task = runtime.spawn(async move {
            let probe = Probe { state: &shared.state, time };
            loop {
                tokio::time::sleep(shared.limits.interval.max(SHORTEST_PAUSE)).await;
                if !shared.is_open_since(time) {
                    return;
                }
                match inner.ping().await.verdict() {
                    Verdict::Found => return shared.found(),
                    Verdict::Lost(e) => drop(shared.lost(e, Some(&probe))),
                    Verdict::Nothing => return,
                }
            }
        });
        *self.shared.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.abort_handle());
    }

    fn listing<'a, T: Send + 'a>(&self, items: impl FnOnce() -> BoxStream<'a, Result<T>>) -> BoxStream<'a, Result<T>> {
        match self.shared.enter() {
            // A listing is never the probe, because the caller may keep the stream without polling it.
            Ok(probe) => {
                drop(probe);
                items()
            }
            Err(refused) => stream::once(async { Err(refused) }).boxed(),
        }
    }
}

impl Shared {
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
            _ => "kvconn is trying to reach it".to_owned(),
        };
        let message = format!("the store is lost: {}; {next}", open.why);
        // No retry can succeed before the interval is over, in this store or in a store in front.
        Err(Error::new(ErrorKind::Unavailable, message).with_status(ErrorStatus::Persistent))
    }

    /// Ends the task that pings the store, also in the middle of a ping.
    fn end_watch(&self) {
        if let Some(task) = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }

    /// Makes the task that watches the store its only probe. Gives how often the breaker opened.
    fn begin_watch(&self) -> Option<u64> {
        let mut state = lock(&self.state);
        let time = state.times;
        let open = state.open.as_mut().filter(|open| !open.probing)?;
        open.probing = true;
        Some(time)
    }

    fn is_open_since(&self, time: u64) -> bool {
        let state = lock(&self.state);
        state.open.is_some() && state.times == time
    }

    /// Whether the breaker opens because of this failure.
    fn lost(&self, error: &Error, probe: Option<&Probe<'_>>) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        let BreakerLayer { store: StoreLabels { connector, instance }, interval, .. } = &self.limits;
        let mut state = lock(&self.state);
        let (time, is_dropped, why) = (state.times, state.dropped, error.message().to_owned());
        match &mut state.open {
            // A call that began before the breaker opened does not count.
            Some(open) => {
                if probe.is_some_and(|probe| probe.time == time) {
                    tracing::debug!(%connector, %instance, %error, "the store is still lost");
                    (open.since, open.why) = (Instant::now(), why);
                }
                return false;
            }
            None if is_dropped || failures < self.limits.failures => return false,
            None => {}
        }
        tracing::warn!(%connector, %instance, %error, failures, "the store is lost: calls are refused for {interval:?}");
        metrics::counter!(observe::BREAKER_OPENED, self.limits.store.and([])).increment(1);
        self.record_open(true);
        state.open = Some(Open { since: Instant::now(), probing: false, why });
        state.times += 1;
        self.is_open.store(true, Ordering::Release);
        true
    }

    /// Counts, because several stores may have these labels.
    fn record_open(&self, is_open: bool) {
        let open = metrics::gauge!(observe::BREAKER_OPEN, self.limits.store.and([]));
        if is_open { open.increment(1.0) } else { open.decrement(1.0) }
    }

    fn found(&self) {
        if self.failures.load(Ordering::Acquire) != 0 {
            self.failures.store(0, Ordering::Release);
        }
        if self.is_open.load(Ordering::Acquire) {
            let mut state = lock(&self.state);
            if state.open.take().is_some() {
                let StoreLabels { connector, instance } = &self.limits.store;
                tracing::info!(%connector, %instance, "the store is back");
                self.record_open(false);
            }
            self.is_open.store(false, Ordering::Release);
        }
    }
}

impl<C> Drop for Breaker<C> {
    fn drop(&mut self) {
        self.shared.end_watch();
        let mut state = lock(&self.shared.state);
        state.dropped = true;
        if state.open.take().is_some() {
            // Otherwise the gauge would show a closed store as lost for ever.
            self.shared.record_open(false);
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
