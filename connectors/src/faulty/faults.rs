//! Which call has a fault.

use std::sync::atomic::{AtomicU32, Ordering};

use connector_core::{Error, ErrorKind};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::options::OPERATIONS;
use super::{FaultKind, FaultyOptions};

/// The number of counters of calls.
const COUNTERS: usize = 1 << 16;

/// The result of one call, or of one key of a batch.
pub(super) enum Fate {
    /// The store behind answers.
    Pass,
    /// The key is not found.
    Miss,
    /// The call fails.
    Fail(Error),
}

/// Decides about calls.
pub(super) struct Faults {
    seed: u64,
    error_rate: f64,
    miss_rate: f64,
    error: FaultKind,
    /// One for each of [`OPERATIONS`].
    has_faults: [bool; OPERATIONS.len()],
    /// The number of earlier calls of an operation on a key, by the hash of both.
    calls: Box<[AtomicU32]>,
}

impl Faults {
    pub(super) fn new(options: &FaultyOptions) -> Self {
        let named = &options.operations;
        Self {
            seed: options.seed,
            error_rate: options.error_rate,
            miss_rate: options.miss_rate,
            error: options.error,
            has_faults: OPERATIONS.map(|name| named.is_empty() || named.iter().any(|n| n.trim() == name)),
            calls: (0..COUNTERS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// The next call of `operation` on this key; the empty key for an operation without one.
    pub(super) fn next(&self, operation: &'static str, key: &str) -> Fate {
        let Some(place) = OPERATIONS.iter().position(|name| *name == operation) else { return Fate::Pass };
        if !self.has_faults[place] {
            return Fate::Pass;
        }
        let name = xxh3_64_with_seed(key.as_bytes(), self.seed ^ place as u64);
        let call = self.calls[name as usize % COUNTERS].fetch_add(1, Ordering::Relaxed);
        let drawn = |salt: u8| {
            let mut text = [salt; 5];
            text[1..].copy_from_slice(&call.to_le_bytes());
            // 53 bits, as a number from 0 up to 1.
            (xxh3_64_with_seed(&text, name) >> 11) as f64 / (1_u64 << 53) as f64
        };
        if drawn(b'e') < self.error_rate {
            Fate::Fail(self.error())
        } else if matches!(operation, "get" | "exists") && drawn(b'm') < self.miss_rate {
            Fate::Miss
        } else {
            Fate::Pass
        }
    }

    fn error(&self) -> Error {
        let (kind, temporary) = match self.error {
            FaultKind::Unavailable => (ErrorKind::Unavailable, true),
            FaultKind::Timeout => (ErrorKind::Timeout, true),
            FaultKind::Throttled => (ErrorKind::Throttled, true),
            FaultKind::Corrupt => (ErrorKind::Corrupt, false),
            FaultKind::StoreFull => (ErrorKind::StoreFull, false),
        };
        Error::new(kind, "a fault that `faulty://` makes").temporary(temporary)
    }
}
