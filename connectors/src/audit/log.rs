//! The events of one call.

use std::collections::HashSet;
use std::time::Instant;

use connector_core::{CacheKey, Error};

use super::checksum::Checksum;

/// What is logged.
pub(super) struct Log {
    pub(super) store: String,
    pub(super) excluded: HashSet<&'static str>,
}

/// A call that has begun. One that is dropped before it ends is logged as such.
pub(super) struct Call<'a> {
    log: &'a Log,
    operation: &'static str,
    key: Option<&'a CacheKey>,
    begun: Instant,
    ended: bool,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) keys: usize,
    pub(super) hits: usize,
    pub(super) failed: usize,
    /// Bytes.
    pub(super) size: usize,
}

macro_rules! event {
    ($level:ident, $call:ident, $outcome:literal $(, $($field:tt)*)?) => {
        tracing::$level!(
            target: "kvconn::audit",
            store = %$call.log.store,
            operation = $call.operation,
            outcome = $outcome,
            cost_ms = $call.begun.elapsed().as_secs_f64() * 1e3,
            key = $call.key.map(CacheKey::as_str),
            $($($field)*)?
        )
    };
}

impl Log {
    pub(super) fn call<'a>(&'a self, operation: &'static str, key: Option<&'a CacheKey>) -> Call<'a> {
        let ended = self.excluded.contains(operation);
        Call { log: self, operation, key, begun: Instant::now(), ended }
    }
}

impl Call<'_> {
    /// Whether there is still something to log; not for an excluded operation.
    fn ends(&mut self) -> bool {
        !std::mem::replace(&mut self.ended, true)
    }

    pub(super) fn success(mut self, size: Option<usize>, checksum: Option<Checksum>) {
        if self.ends() {
            event!(info, self, "SUCCESS", size, checksum = checksum.map(tracing::field::display));
        }
    }

    pub(super) fn miss(mut self) {
        if self.ends() {
            event!(info, self, "MISS");
        }
    }

    pub(super) fn failed(mut self, error: &Error) {
        if self.ends() {
            event!(error, self, "FAILED", error = %error);
        }
    }

    pub(super) fn batch(mut self, tally: &Tally) {
        let Tally { keys, hits, failed, size } = *tally;
        if !self.ends() {
        } else if failed == 0 {
            event!(info, self, "SUCCESS", keys, hits, failed, size);
        } else {
            event!(error, self, "FAILED", keys, hits, failed, size);
        }
    }

    /// Logged also for operations that are not: it is what one audits for. The call may go on, if it is a batch.
    pub(super) fn mismatch(
        &self,
        key: &CacheKey,
        size: usize,
        expected: Checksum,
        checksum: Checksum,
        mismatches: u64,
    ) {
        tracing::error!(
            target: "kvconn::audit",
            store = %self.log.store,
            operation = self.operation,
            outcome = "MISMATCH",
            cost_ms = self.begun.elapsed().as_secs_f64() * 1e3,
            key = key.as_str(),
            size,
            %expected,
            %checksum,
            mismatches,
        );
    }

    /// The mismatch that was logged is all there is to say.
    pub(super) fn said(mut self) {
        self.ended = true;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.ended {
            event!(info, self, "DROPPED");
        }
    }
}
