//! Checks a missing chunk: a value may not be a string, or one half may be left, which kvconn removes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use connector_core::{CacheKey, ErrorKind, Result};

use super::exchanges::Half;
use super::layout::{KV_BYTES, METADATA};
use crate::resp_wire::{Connection, Exchange, Name, Remover, Request, Wire};

/// Removes the first key unless the second is there, in one atomic step. The argument is `UNLINK` or `DEL`.
const REMOVE_ORPHAN: &str =
    "if redis.call('EXISTS', KEYS[2]) == 0 then return redis.call(ARGV[1], KEYS[1]) end return 0";

/// Most orphans that kvconn remembers.
const REMEMBERED: usize = 4096;

/// kvconn forgets an orphan this long after the grace.
const STALE: Duration = Duration::from_secs(60);

/// A key without a chunk, and the half that is there.
pub(super) struct Missing<'a> {
    pub(super) key: &'a CacheKey,
    pub(super) half: Option<Half>,
}

/// Bytes without a header, and when kvconn saw them first. LMCache writes the bytes first, so LMCache may be about to write
/// the header.
pub(super) struct Orphans {
    grace: Duration,
    seen: Mutex<HashMap<CacheKey, Instant>>,
}

enum Check<'a> {
    /// Fails with `WRONGTYPE` if the value is not a string. (`MGET` gives null for such a value.)
    Type { name: Name<'a>, suffix: &'static str },
    /// Removes the half with the suffix `there` if the half `gone` is still missing.
    Remove { name: Name<'a>, command: &'static str, there: &'static str, gone: &'static str },
}

impl Orphans {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, seen: Mutex::default() }
    }

    /// Whether the key's bytes have been without a header for the grace, so that kvconn may remove them.
    fn is_due(&self, key: &CacheKey, now: Instant) -> bool {
        if self.grace.is_zero() {
            return true;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let age = seen.get(key).map(|since| now.duration_since(*since));
        match age {
            Some(age) if age < self.grace => false,
            // After a longer time, the chunk may have been whole meanwhile.
            Some(age) if age < self.grace + STALE => {
                seen.remove(key);
                true
            }
            _ => {
                // No call read the other orphans again. The server evicts them in the end.
                if seen.len() >= REMEMBERED {
                    seen.clear();
                }
                seen.insert(key.clone(), now);
                false
            }
        }
    }

    /// Forgets keys that are whole or gone. The next half of such a key is a new one.
    pub(super) fn forget<'k>(&self, keys: impl Iterator<Item = &'k CacheKey>) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            seen.remove(key);
        }
    }

    /// Checks all keys together, and removes halves whose other half was evicted. A user without the right to remove
    /// leaves them. Answers in the order of `missing`.
    ///
    /// # Errors
    /// `Corrupt` for a key with a value that is not a string. Any other failure leaves a miss.
    pub(super) async fn check(&self, wire: &Wire, remover: &Remover, missing: &[Missing<'_>]) -> Vec<Result<()>> {
        let now = Instant::now();
        self.forget(missing.iter().filter(|missing| missing.half.is_none()).map(|missing| missing.key));
        let (mut checks, mut places) = (Vec::with_capacity(missing.len() * 2), Vec::with_capacity(missing.len() * 2));
        for (at, &Missing { key, half }) in missing.iter().enumerate() {
            let name = wire.name(key);
            let remove = |there, gone| Check::Remove { name, command: remover.command(), there, gone };
            if half != Some(Half::Metadata) {
                checks.push(Check::Type { name, suffix: METADATA });
            }
            if half != Some(Half::KvBytes) {
                checks.push(Check::Type { name, suffix: KV_BYTES });
            }
            match half {
                Some(Half::Metadata) => checks.push(remove(METADATA, KV_BYTES)),
                Some(Half::KvBytes) if self.is_due(key, now) => {
                    checks.push(remove(KV_BYTES, METADATA));
                }
                _ => {}
            }
            places.resize(checks.len(), at);
        }
        let mut answers: Vec<Result<()>> = missing.iter().map(|_| Ok(())).collect();
        for (at, checked) in places.into_iter().zip(wire.exchange_all(checks).await) {
            // Any other error changes nothing: the chunk is missing.
            if let Err(e) = checked
                && e.kind() == ErrorKind::Corrupt
            {
                answers[at] = Err(e.at("a half of the chunk is not a string"));
            }
        }
        answers
    }
}

impl Exchange for Check<'_> {
    type Answer = ();
    const SMALL: bool = true;
    const REPEATABLE: bool = false;

    fn name(&self) -> Option<[&str; 3]> {
        match self {
            Self::Type { name, suffix } => Some(name.parts(suffix)),
            Self::Remove { name, there, .. } => Some(name.parts(there)),
        }
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        match *self {
            Self::Type { name, suffix } => request.command(&["STRLEN".into(), name.with(suffix)]),
            Self::Remove { name, command, there, gone } => {
                let names = [name.with(there), name.with(gone)];
                request.command(&["EVAL".into(), REMOVE_ORPHAN.into(), "2".into(), names[0], names[1], command.into()]);
            }
        }
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<()>> {
        Ok(connection.answer().await?.map(drop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_without_a_header_are_due_after_the_grace() {
        let orphans = Orphans::new(Duration::from_secs(10));
        let key: CacheKey = "m@1@0@ff@half".parse().unwrap();
        let other: CacheKey = "m@1@0@fe@half".parse().unwrap();
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        assert!(!orphans.is_due(&key, start));
        assert!(!orphans.is_due(&key, after(9)));
        assert!(!orphans.is_due(&other, after(9)));
        assert!(orphans.is_due(&key, after(10)));
        // A new orphan: the grace starts again.
        assert!(!orphans.is_due(&key, after(11)));
        // Too long ago.
        assert!(!orphans.is_due(&other, after(3600)));
        assert!(orphans.is_due(&other, after(3611)));
        // The chunk was whole meanwhile.
        orphans.forget([&key].into_iter());
        assert!(!orphans.is_due(&key, after(22)));
    }

    #[test]
    fn the_number_of_remembered_orphans_is_bounded() {
        let orphans = Orphans::new(Duration::from_secs(10));
        for n in 0..=REMEMBERED {
            orphans.is_due(&format!("m@1@0@{n:x}@half").parse().unwrap(), Instant::now());
        }
        assert_eq!(orphans.seen.lock().unwrap().len(), 1);
    }
}
