//! The retry: tries a call again.

use std::time::Duration;

use metrics::Label;

use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::connector::{
    Capabilities, Diagnosis, ListEntry, Operation, RemoteConnector, ServerInfo, list_by, listings, operations,
};
use crate::key::CacheKey;
use crate::observe::{self, StoreLabels};
use crate::{BoxStream, Error, ErrorStatus, Result};

/// Tries a call again after an error whose status is [`Temporary`](ErrorStatus::Temporary).
///
/// The delay doubles with each try, up to a longest one. A random part of it, at most half, is subtracted, so that
/// callers that failed together do not retry together. If the store asks for a [time](Error::with_retry_after) before
/// another try, the layer first waits for that time, up to the longest delay. Then it waits for its own delay.
///
/// Of a batch, the layer tries only the failed keys again, after the longest time that the store asks for. It never
/// tries `list` again, because the caller may have seen a part of it. It does not repeat a `get_into` whose failed try
/// still has the [memory](MemoryObjMut::is_taken). A repeated `remove` gives the answer of its last try.
///
/// An error that lasted through all retries becomes [`Persistent`](ErrorStatus::Persistent), so that an outer retry layer does
/// not multiply the tries.
#[derive(Debug, Clone)]
pub(super) struct RetryLayer {
    retries: u32,
    min_delay: Duration,
    max_delay: Duration,
    /// The store in logs and metrics.
    pub(super) store: StoreLabels,
}

impl RetryLayer {
    /// The first delay, unless set.
    pub(super) const DEFAULT_MIN_DELAY: Duration = Duration::from_millis(50);
    /// The longest delay, unless set.
    pub(super) const DEFAULT_MAX_DELAY: Duration = Duration::from_secs(2);

    /// Up to `retries` more tries.
    pub(super) fn new(retries: u32) -> Self {
        Self {
            retries,
            min_delay: Self::DEFAULT_MIN_DELAY,
            max_delay: Self::DEFAULT_MAX_DELAY,
            store: StoreLabels::default(),
        }
    }

    /// The first delay and the longest one.
    #[must_use]
    pub(super) fn with_delays(mut self, min: Duration, max: Duration) -> Self {
        self.min_delay = min.min(max);
        self.max_delay = max;
        self
    }

    /// The delay before try `n + 1`: between half of `min * 2^n` (at most `max`) and all of it.
    fn delay(&self, n: u32) -> Duration {
        let full = self.min_delay.saturating_mul(2_u32.saturating_pow(n)).min(self.max_delay);
        full.mul_f64(0.5 + 0.5 * fastrand::f64())
    }

    /// The delay before try `n + 1` after this error.
    fn delay_after(&self, n: u32, error: &Error) -> Duration {
        // A store may ask for minutes, and an engine's call cannot wait for minutes.
        let asked = error.retry_after().unwrap_or_default().min(self.max_delay);
        asked.saturating_add(self.delay(n))
    }

    /// Waits before the next try. `false` after the last try.
    pub(super) async fn pause(&self, operation: &'static str, tried: u32, error: &Error) -> bool {
        if tried >= self.retries || error.status() != ErrorStatus::Temporary {
            return false;
        }
        let delay = self.delay_after(tried, error);
        let StoreLabels { connector, instance } = &self.store;
        tracing::debug!(%connector, %instance, %operation, tried = tried + 1, ?delay, %error, "trying again");
        let labels = self.store.and([Label::from_static_parts("operation", operation)]);
        metrics::counter!(observe::RETRIES, labels).increment(1);
        tokio::time::sleep(delay).await;
        true
    }
}

impl RetryLayer {
    /// The error after `tried` retries.
    pub(super) fn spent(&self, tried: u32, error: Error) -> Error {
        let spent = self.retries > 0 && tried >= self.retries && error.status() == ErrorStatus::Temporary;
        if spent { error.with_status(ErrorStatus::Persistent) } else { error }
    }

    /// The answers of a batch after `tried` retries.
    fn all_spent<T>(&self, tried: u32, answers: Vec<Result<T>>) -> Vec<Result<T>> {
        answers.into_iter().map(|answer| answer.map_err(|e| self.spent(tried, e))).collect()
    }
}

/// A connector with a [`RetryLayer`].
#[derive(Debug)]
pub(super) struct Retry<C> {
    limits: RetryLayer,
    inner: C,
}

impl RetryLayer {
    /// Puts the layer around `inner`.
    pub(super) fn layer<C>(self, inner: C) -> Retry<C> {
        Retry { limits: self, inner }
    }
}

/// The methods of a `Retry`, by the shape of their operation.
macro_rules! retry {
    ($($shape:ident $op:ident $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        $(retry_one! { $shape $op $name($($arg: $ty),*) -> $out })*
    };
}

macro_rules! retry_one {
    (close $op:ident $name:ident() -> $out:ty) => {
        async fn $name(&self) -> $out {
            self.inner.$name().await
        }
    };
    // These move the caller's memory: see below.
    (into $($rest:tt)*) => {};
    (batch_into $($rest:tt)*) => {};
    (batch $op:ident $name:ident($items:ident: $ty:ty) -> $out:ty) => {
        async fn $name(&self, $items: $ty) -> $out {
            let mut answers = self.inner.$name($items).await;
            let mut tried = 0;
            loop {
                let failed = failed_for_now(&answers);
                match longest_to_wait(&failed, &answers) {
                    Some(e) if self.limits.pause(Operation::$op.as_str(), tried, e).await => tried += 1,
                    _ => break self.limits.all_spent(tried, answers),
                }
                let some: Vec<_> = failed.iter().filter_map(|i| $items.get(*i).cloned()).collect();
                let again = self.inner.$name(&some).await;
                for (i, answer) in failed.into_iter().zip(again) {
                    answers[i] = answer;
                }
            }
        }
    };
    ($shape:ident $op:ident $name:ident($($arg:ident: $ty:ty),*) -> $out:ty) => {
        async fn $name(&self, $($arg: $ty),*) -> $out {
            let mut tried = 0;
            loop {
                match self.inner.$name($(Clone::clone(&$arg)),*).await {
                    Err(e) if self.limits.pause(Operation::$op.as_str(), tried, &e).await => tried += 1,
                    answer => break answer.map_err(|e| self.limits.spent(tried, e)),
                }
            }
        }
    };
}

fn failed_for_now<T>(answers: &[Result<T>]) -> Vec<usize> {
    let failed = |answer: &Result<T>| answer.as_ref().is_err_and(|e| e.status() == ErrorStatus::Temporary);
    answers.iter().enumerate().filter(|(_, answer)| failed(answer)).map(|(i, _)| i).collect()
}

/// The error of the failed keys after which the store asks for the longest time.
fn longest_to_wait<'a, T>(failed: &[usize], answers: &'a [Result<T>]) -> Option<&'a Error> {
    failed.iter().filter_map(|i| answers[*i].as_ref().err()).max_by_key(|e| e.retry_after())
}

#[diagnostic::do_not_recommend]
#[deny(clippy::missing_trait_methods, reason = "a missing method would bypass the connector's own")]
impl<C: RemoteConnector> RemoteConnector for Retry<C> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    listings!(list_by |this| this.inner, |items| items(););

    operations!(retry '_);

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let mut tried = 0;
        loop {
            match self.inner.get_into(key, dst).await {
                Err(e) if !dst.is_taken() && self.limits.pause(Operation::GetInto.as_str(), tried, &e).await => {
                    tried += 1;
                }
                answer => return answer.map_err(|e| self.limits.spent(tried, e)),
            }
        }
    }

    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let mut answers = self.inner.batched_get_into(requests).await;
        let mut tried = 0;
        loop {
            let mut failed = failed_for_now(&answers);
            failed.retain(|i| requests.get(*i).is_some_and(|(_, dst)| !dst.is_taken()));
            match longest_to_wait(&failed, &answers) {
                Some(e) if self.limits.pause(Operation::BatchedGetInto.as_str(), tried, e).await => tried += 1,
                _ => return self.limits.all_spent(tried, answers),
            }
            let mut some: Vec<_> = failed.iter().map(|i| (requests[*i].0.clone(), requests[*i].1.take())).collect();
            let again = self.inner.batched_get_into(&mut some).await;
            // All memory comes back, even with too few answers.
            for (i, (_, dst)) in failed.iter().zip(some) {
                requests[*i].1 = dst;
            }
            for (i, answer) in failed.into_iter().zip(again) {
                answers[i] = answer;
            }
        }
    }
}
