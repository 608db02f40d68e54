//! A second look at what was not found: whether something else lies there, and what is to be cleared away.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use connector_core::{CacheKey, Error, ErrorKind, Result};

use super::get::Half;
use super::layout::{KV_BYTES, METADATA};
use crate::resp_wire::{Arg, Request, Wire};

/// Removes the first key unless the second is there. In one step: a writer comes before it or after it.
const REMOVE_ORPHAN: &str =
    "if redis.call('EXISTS', KEYS[2]) == 0 then return redis.call('UNLINK', KEYS[1]) end return 0";

/// Keys of orphans that are remembered at most.
const REMEMBERED: usize = 4096;

/// A sighting counts for so long beyond the grace.
const STALE: Duration = Duration::from_secs(60);

/// A key that gave no chunk, and what there was of it.
pub(super) struct Missing<'a> {
    pub(super) key: &'a CacheKey,
    pub(super) half: Option<Half>,
}

/// Bytes that were seen without a header, and since when. LMCache writes the bytes first, so they may be those of a chunk
/// that is just being written.
pub(super) struct Orphans {
    grace: Duration,
    seen: Mutex<HashMap<CacheKey, Instant>>,
    /// Whether `seen` has any: then nothing needs to be forgotten.
    any: AtomicBool,
}

enum Ask<'a> {
    /// Fails with `WRONGTYPE` if the value is no string. (`MGET` takes such a value for none.)
    Type(&'a CacheKey, &'static str),
    /// Removes the value that has the first suffix, if there is none with the second.
    Remove(&'a CacheKey, &'static str, &'static str),
}

impl Orphans {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, seen: Mutex::default(), any: AtomicBool::new(false) }
    }

    /// Whether the key's bytes have been without a header for long enough to be removed.
    fn may_go(&self, key: &CacheKey, now: Instant) -> bool {
        if self.grace.is_zero() {
            return true;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let age = seen.get(key).map(|since| now.duration_since(*since));
        match age {
            Some(age) if age < self.grace => false,
            // In so long a time the key may have been whole, and be written anew now.
            Some(age) if age < self.grace + STALE => {
                seen.remove(key);
                true
            }
            _ => {
                // Nobody asked for the others again: the server evicts them one day.
                if seen.len() >= REMEMBERED {
                    seen.clear();
                }
                seen.insert(key.clone(), now);
                self.any.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    /// Forgets what was seen of keys that are whole, or gone: the next half of such a key is a new one.
    pub(super) fn forget<'k>(&self, keys: impl Iterator<Item = &'k CacheKey>) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            seen.remove(key);
        }
        self.any.store(!seen.is_empty(), Ordering::Relaxed);
    }

    /// Looks at all of them in one go, and clears away halves whose other half was evicted. Whoever may not do that leaves
    /// them where they are.
    ///
    /// The answers are in the order of `missing`.
    ///
    /// # Errors
    /// `Corrupt` for a key under which something else than a chunk lies. All others are a miss.
    pub(super) async fn look(&self, wire: &Wire, missing: &[Missing<'_>]) -> Vec<Result<()>> {
        let now = Instant::now();
        self.forget(missing.iter().filter(|missing| missing.half.is_none()).map(|missing| missing.key));
        let mut asks: Vec<(usize, Ask<'_>)> = Vec::with_capacity(missing.len() * 2);
        for (at, &Missing { key, half }) in missing.iter().enumerate() {
            if half != Some(Half::Metadata) {
                asks.push((at, Ask::Type(key, METADATA)));
            }
            if half != Some(Half::KvBytes) {
                asks.push((at, Ask::Type(key, KV_BYTES)));
            }
            match half {
                Some(Half::Metadata) => asks.push((at, Ask::Remove(key, METADATA, KV_BYTES))),
                Some(Half::KvBytes) if self.may_go(key, now) => asks.push((at, Ask::Remove(key, KV_BYTES, METADATA))),
                _ => {}
            }
        }
        let replies = wire.commands(asks.len(), |i, request| asks[i].1.add(request)).await;
        let mut answers: Vec<Result<()>> = missing.iter().map(|_| Ok(())).collect();
        for ((at, _), reply) in asks.iter().zip(replies) {
            // Any other error is no news: the chunk was not there.
            if let Err(e) = reply
                && e.kind() == ErrorKind::Corrupt
            {
                answers[*at] = Err(explained(e));
            }
        }
        answers
    }
}

impl<'a> Ask<'a> {
    fn add(&self, request: &mut Request<'a>) {
        let name = |key: &'a CacheKey, suffix: &'static str| Arg::Joined(key.as_str().as_bytes(), suffix.as_bytes());
        match *self {
            Self::Type(key, suffix) => request.command(&["STRLEN".into(), name(key, suffix)]),
            Self::Remove(key, there, gone) => {
                request.command(&["EVAL".into(), REMOVE_ORPHAN.into(), "2".into(), name(key, there), name(key, gone)]);
            }
        }
    }
}

fn explained(e: Error) -> Error {
    e.at("a value that is no string lies where a half of the chunk belongs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_without_a_header_go_when_they_were_seen_so_for_long_enough() {
        let orphans = Orphans::new(Duration::from_secs(10));
        let key: CacheKey = "m@1@0@ff@half".parse().unwrap();
        let other: CacheKey = "m@1@0@fe@half".parse().unwrap();
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        assert!(!orphans.may_go(&key, start));
        assert!(!orphans.may_go(&key, after(9)));
        assert!(!orphans.may_go(&other, after(9)));
        assert!(orphans.may_go(&key, after(10)));
        // It may be written again: the time begins anew.
        assert!(!orphans.may_go(&key, after(11)));
        // Nobody looked for long.
        assert!(!orphans.may_go(&other, after(3600)));
        assert!(orphans.may_go(&other, after(3611)));
        // It was whole in between.
        orphans.forget([&key].into_iter());
        assert!(!orphans.may_go(&key, after(22)));
    }

    #[test]
    fn orphans_that_nobody_asks_for_again_are_forgotten() {
        let orphans = Orphans::new(Duration::from_secs(10));
        for n in 0..=REMEMBERED {
            orphans.may_go(&format!("m@1@0@{n:x}@half").parse().unwrap(), Instant::now());
        }
        assert_eq!(orphans.seen.lock().unwrap().len(), 1);
    }
}
