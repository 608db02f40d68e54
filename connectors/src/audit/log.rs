//! The events of calls.

use std::collections::HashSet;
use std::time::Instant;

use connector_core::{CacheKey, Error, Result};

use super::checksum::Checksum;

/// The store's name in the events, and the operations without events.
pub(super) struct Log {
    pub(super) store: String,
    pub(super) excluded: HashSet<&'static str>,
}

/// The event of one call. If it is dropped before the call ends, it logs `DROPPED`.
pub(super) struct Event<'a> {
    log: &'a Log,
    operation: &'static str,
    key: Option<&'a CacheKey>,
    begun: Instant,
    is_logged: bool,
}

/// The outcome of a batch; `size` in bytes.
#[derive(Debug, Default)]
pub(super) struct BatchCounts {
    pub(super) keys: usize,
    pub(super) hits: usize,
    pub(super) failed: usize,
    pub(super) size: usize,
}

macro_rules! log {
    ($level:ident, $event:expr, $outcome:literal $(, $($field:tt)*)?) => {
        tracing::$level!(
            target: "kvconn::audit",
            store = %$event.log.store,
            operation = $event.operation,
            outcome = $outcome,
            cost_ms = $event.begun.elapsed().as_secs_f64() * 1e3,
            $($($field)*)?
        )
    };
}

impl Log {
    pub(super) fn event<'a>(&'a self, operation: &'static str, key: Option<&'a CacheKey>) -> Event<'a> {
        let is_logged = self.excluded.contains(operation);
        Event { log: self, operation, key, begun: Instant::now(), is_logged }
    }
}

impl Event<'_> {
    fn key(&self) -> Option<&str> {
        self.key.map(CacheKey::as_str)
    }

    /// Ends a call that has no chunk, or a put; `size` in bytes.
    pub(super) fn end<T>(self, answer: &Result<T>, size: Option<usize>, checksum: Option<Checksum>) {
        match answer {
            Ok(_) => self.success(size, checksum),
            Err(e) => self.failed(e),
        }
    }

    /// Ends a read of one chunk. Returns the check's error if the check failed.
    pub(super) fn end_read<T>(
        mut self,
        answer: Result<Option<T>>,
        size: impl FnOnce(&T) -> usize,
        checked: Result<Option<Checksum>>,
    ) -> Result<Option<T>> {
        match (&answer, checked) {
            (_, Err(e)) => {
                // The mismatch was logged.
                self.is_logged = true;
                return Err(e);
            }
            (Ok(Some(value)), Ok(checksum)) => self.success(Some(size(value)), checksum),
            (Ok(None), _) => self.miss(),
            (Err(e), _) => self.failed(e),
        }
        answer
    }

    fn success(mut self, size: Option<usize>, checksum: Option<Checksum>) {
        if !std::mem::replace(&mut self.is_logged, true) {
            log!(info, self, "SUCCESS", key = self.key(), size, checksum = checksum.map(tracing::field::display));
        }
    }

    pub(super) fn miss(mut self) {
        if !std::mem::replace(&mut self.is_logged, true) {
            log!(info, self, "MISS", key = self.key());
        }
    }

    fn failed(mut self, error: &Error) {
        if !std::mem::replace(&mut self.is_logged, true) {
            log!(error, self, "FAILED", key = self.key(), %error);
        }
    }

    pub(super) fn end_batch(mut self, BatchCounts { keys, hits, failed, size }: BatchCounts) {
        match (std::mem::replace(&mut self.is_logged, true), failed) {
            (true, _) => {}
            (false, 0) => log!(info, self, "SUCCESS", keys, hits, failed, size),
            (false, _) => log!(error, self, "FAILED", keys, hits, failed, size),
        }
    }

    /// Logs a wrong checksum, also for an excluded operation.
    pub(super) fn mismatch(
        &self,
        key: &CacheKey,
        size: usize,
        expected: Checksum,
        checksum: Checksum,
        mismatches: u64,
    ) {
        log!(error, self, "MISMATCH", key = key.as_str(), size, %expected, %checksum, mismatches);
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        if !self.is_logged {
            log!(info, self, "DROPPED", key = self.key());
        }
    }
}

impl BatchCounts {
    /// Counts a batch's answers; `size` gives the bytes of a hit.
    pub(super) fn of<T>(answers: &[Result<T>], size: impl Fn(usize, &T) -> Option<usize>) -> Self {
        let mut counts = Self { keys: answers.len(), ..Self::default() };
        for (n, answer) in answers.iter().enumerate() {
            match answer.as_ref().map(|value| size(n, value)) {
                Ok(Some(size)) => {
                    counts.hits += 1;
                    counts.size += size;
                }
                Ok(None) => {}
                Err(_) => counts.failed += 1,
            }
        }
        counts
    }
}
