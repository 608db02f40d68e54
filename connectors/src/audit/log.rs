//! The events of one operation.

use std::collections::HashSet;
use std::time::Instant;

use connector_core::{CacheKey, Error, Result};

use super::checksum::Checksum;

/// Where events come from, and which operations have none.
pub(super) struct Log {
    pub(super) store: String,
    pub(super) excluded: HashSet<&'static str>,
}

/// An operation that has begun. If it is dropped before it ends, that is logged.
pub(super) struct Operation<'a> {
    log: &'a Log,
    name: &'static str,
    key: Option<&'a CacheKey>,
    begun: Instant,
    /// Nothing more is to be logged.
    is_logged: bool,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct BatchCounts {
    pub(super) keys: usize,
    pub(super) hits: usize,
    pub(super) failed: usize,
    /// Bytes.
    pub(super) size: usize,
}

macro_rules! event {
    ($level:ident, $operation:expr, $outcome:literal $(, $($field:tt)*)?) => {
        tracing::$level!(
            target: "kvconn::audit",
            store = %$operation.log.store,
            operation = $operation.name,
            outcome = $outcome,
            cost_ms = $operation.begun.elapsed().as_secs_f64() * 1e3,
            $($($field)*)?
        )
    };
}

impl Log {
    pub(super) fn begin<'a>(&'a self, name: &'static str, key: Option<&'a CacheKey>) -> Operation<'a> {
        Operation { log: self, name, key, begun: Instant::now(), is_logged: self.excluded.contains(name) }
    }
}

impl Operation<'_> {
    fn key(&self) -> Option<&str> {
        self.key.map(CacheKey::as_str)
    }

    /// Whether the end is still to be logged.
    fn ends(&mut self) -> bool {
        !std::mem::replace(&mut self.is_logged, true)
    }

    pub(super) fn success(mut self, size: Option<usize>, checksum: Option<Checksum>) {
        if self.ends() {
            let checksum = checksum.map(tracing::field::display);
            event!(info, self, "SUCCESS", key = self.key(), size, checksum);
        }
    }

    pub(super) fn miss(mut self) {
        if self.ends() {
            event!(info, self, "MISS", key = self.key());
        }
    }

    pub(super) fn failed(mut self, error: &Error) {
        if self.ends() {
            event!(error, self, "FAILED", key = self.key(), error = %error);
        }
    }

    /// Ends a read of one chunk; gives the error of the check, if that failed.
    pub(super) fn read<T>(
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

    pub(super) fn batch(mut self, counts: &BatchCounts) {
        let BatchCounts { keys, hits, failed, size } = *counts;
        if !self.ends() {
        } else if failed == 0 {
            event!(info, self, "SUCCESS", keys, hits, failed, size);
        } else {
            event!(error, self, "FAILED", keys, hits, failed, size);
        }
    }

    /// Logs a wrong checksum, also of an excluded operation.
    pub(super) fn mismatch(
        &self,
        key: &CacheKey,
        size: usize,
        expected: Checksum,
        checksum: Checksum,
        mismatches: u64,
    ) {
        event!(error, self, "MISMATCH", key = key.as_str(), size, %expected, %checksum, mismatches);
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        if !self.is_logged {
            event!(info, self, "DROPPED", key = self.key());
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
