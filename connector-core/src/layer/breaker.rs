//! Leaves a lost store alone for a while.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use metrics::SharedString;
use tokio::time::Instant;

use super::{Answer, Layer, around_every_call};
use crate::connector::{Operation, RemoteConnector};
use crate::observe;
use crate::{Error, ErrorKind, Result};

/// Refuses calls while the store is lost: after so many calls in a row that ended with
/// [`Unavailable`](ErrorKind::Unavailable) or [`Timeout`](ErrorKind::Timeout), every call is `Unavailable` at once, until an
/// interval has passed. Then one call goes through: if it finds the store, the others follow; if not, the next interval begins.
///
/// LMCache does the same with an interval of 10 s (`min_reconnect_interval` of its `RemoteBackend`, 0.5.6). The time is
/// tokio's, which no change of the system's clock moves.
#[derive(Debug, Clone)]
pub struct BreakerLayer {
    failures: u32,
    interval: Duration,
    connector: SharedString,
}

impl BreakerLayer {
    /// Opens after `failures` calls in a row (0 for never), and lets one call through every `interval`.
    pub fn new(failures: u32, interval: Duration) -> Self {
        Self { failures, interval, connector: SharedString::const_str("") }
    }

    /// The connector's name in logs and metrics.
    #[must_use]
    pub fn named(mut self, connector: impl Into<SharedString>) -> Self {
        self.connector = connector.into();
        self
    }
}

/// A connector with a [`BreakerLayer`].
#[derive(Debug)]
pub struct Breaker<C> {
    limits: BreakerLayer,
    /// Failures in a row.
    failures: AtomicU32,
    /// Whether `open` holds something: the way of every call while all is well is one look here.
    is_open: AtomicBool,
    open: Mutex<Option<Open>>,
    inner: C,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    /// Whether a call is on its way to find out.
    probing: bool,
    /// What the last failure said.
    why: String,
}

impl<C: RemoteConnector> Layer<C> for BreakerLayer {
    type Layered = Breaker<C>;

    fn layer(self, inner: C) -> Breaker<C> {
        let is_open = AtomicBool::new(false);
        Breaker { limits: self, failures: AtomicU32::new(0), is_open, open: Mutex::new(None), inner }
    }
}

/// The one call that finds out. Dropped without an answer, it lets the next one try.
struct Probe<'a>(&'a Mutex<Option<Open>>);

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if let Some(open) = &mut *lock(self.0) {
            open.probing = false;
        }
    }
}

fn lock(open: &Mutex<Option<Open>>) -> MutexGuard<'_, Option<Open>> {
    // Nothing panics while it is held.
    open.lock().unwrap_or_else(PoisonError::into_inner)
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
        match answer.error() {
            Some(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => self.lost(e, probe.is_some()),
            _ => self.found(),
        }
        drop(probe);
        answer
    }

    /// Lets a call in: as the probe if it is time for one.
    fn enter(&self) -> Result<Option<Probe<'_>>> {
        if !self.is_open.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut open = lock(&self.open);
        let Some(state) = &mut *open else { return Ok(None) };
        let waited = state.since.elapsed();
        if waited >= self.limits.interval && !state.probing {
            state.probing = true;
            return Ok(Some(Probe(&self.open)));
        }
        let left = self.limits.interval.saturating_sub(waited);
        let message = format!("the store is lost: {}; the next call goes through in {left:.1?}", state.why);
        Err(Error::new(ErrorKind::Unavailable, message).temporary(true))
    }

    fn lost(&self, error: &Error, is_probe: bool) {
        let failures = self.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        let mut open = lock(&self.open);
        let probing = match &*open {
            // A call that was on its way when the breaker opened says nothing new.
            Some(_) if !is_probe => return,
            None if failures < self.limits.failures => return,
            Some(state) => state.probing,
            None => false,
        };
        let (connector, interval) = (&self.limits.connector, self.limits.interval);
        tracing::warn!(%connector, %error, failures, "the store is lost: calls are refused for {interval:?}");
        metrics::counter!(observe::BREAKER_OPENED, "connector" => connector.clone()).increment(1);
        *open = Some(Open { since: Instant::now(), probing, why: error.message().to_owned() });
        self.is_open.store(true, Ordering::Release);
    }

    fn found(&self) {
        if self.failures.load(Ordering::Acquire) != 0 {
            self.failures.store(0, Ordering::Release);
        }
        if self.is_open.load(Ordering::Acquire) {
            let mut open = lock(&self.open);
            if open.take().is_some() {
                tracing::info!(connector = %self.limits.connector, "the store is back");
            }
            self.is_open.store(false, Ordering::Release);
        }
    }
}

around_every_call!(Breaker, |this, prefix| match this.enter() {
    // A stream may be kept and never polled: it is no probe.
    Ok(None) => this.inner.list(prefix),
    Ok(Some(probe)) => {
        drop(probe);
        this.inner.list(prefix)
    }
    Err(refused) => stream::once(async { Err(refused) }).boxed(),
});
