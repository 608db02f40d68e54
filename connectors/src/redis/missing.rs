//! Checks a missing chunk: a value may not be a string, or one half may be left, which kvconn removes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use connector_core::{CacheKey, ErrorKind, Result};

use super::exchanges::{Half, Length};
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

/// Halves that a writer may be about to complete, and when kvconn saw them first.
///
/// LMCache writes the bytes first. In a cluster each half lies on its own node, and no step of kvconn's covers both.
pub(super) struct Orphans {
    grace: Duration,
    seen: Mutex<HashMap<CacheKey, (Half, Instant)>>,
}

impl Orphans {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, seen: Mutex::default() }
    }

    /// Whether the key has had only this half for the grace, so that kvconn may remove it.
    fn is_due(&self, key: &CacheKey, half: Half, now: Instant) -> bool {
        if self.grace.is_zero() {
            return true;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let same = seen.get(key).filter(|(earlier, _)| *earlier == half);
        match same.map(|(_, since)| now.duration_since(*since)) {
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
                seen.insert(key.clone(), (half, now));
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
        self.forget(missing.iter().filter(|missing| missing.half.is_none()).map(|missing| missing.key));
        let (mut lengths, mut places) = (Vec::with_capacity(missing.len() * 2), Vec::with_capacity(missing.len() * 2));
        for (at, missing) in missing.iter().enumerate() {
            for half in [Half::Metadata, Half::KvBytes].into_iter().filter(|half| missing.half != Some(*half)) {
                lengths.push(Length { name: wire.name(missing.key), half });
                places.push(at);
            }
        }
        // `MGET` gives null for a value that is not a string. `STRLEN` gives an error.
        let mut answers: Vec<Result<()>> = missing.iter().map(|_| Ok(())).collect();
        let mut is_absent = vec![true; missing.len()];
        for (at, len) in places.into_iter().zip(wire.exchange_all(lengths).await) {
            is_absent[at] &= matches!(len, Ok(0));
            if let Err(e) = len
                && e.kind() == ErrorKind::Corrupt
            {
                answers[at] = Err(e.at("a half of the chunk is not a string"));
            }
        }
        // The other half is back.
        self.forget(
            missing.iter().zip(&is_absent).filter(|(_, is_absent)| !**is_absent).map(|(missing, _)| missing.key),
        );
        let orphans = missing.iter().zip(is_absent).filter(|(_, is_absent)| *is_absent);
        self.remove(wire, remover, orphans.filter_map(|(missing, _)| Some((missing.key, missing.half?)))).await;
        answers
    }

    /// Removes the halves that are due. An error changes nothing: the chunk is missing.
    async fn remove<'k>(&self, wire: &Wire, remover: &Remover, halves: impl Iterator<Item = (&'k CacheKey, Half)>) {
        let now = Instant::now();
        if wire.is_cluster() {
            let due = halves.filter(|&(key, half)| self.is_due(key, half, now));
            let due: Vec<_> = due.map(|(key, half)| (wire.name(key), half.suffixes())).collect();
            remover.remove(wire, &due).await;
        } else {
            // A kvconn writer writes both values in one step, so bytes are never about to come.
            let due = halves.filter(|&(key, half)| half == Half::Metadata || self.is_due(key, half, now));
            let remove = |(key, half)| RemoveOrphan { name: wire.name(key), half, command: remover.command() };
            wire.exchange_all(due.map(remove).collect()).await;
        }
    }
}

/// Removes a half if the other one is still missing.
struct RemoveOrphan<'a> {
    name: Name<'a>,
    half: Half,
    command: &'static str,
}

impl Exchange for RemoveOrphan<'_> {
    type Answer = ();
    const SMALL: bool = true;
    const REPEATABLE: bool = false;

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.name.parts(self.half.suffix()))
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let [there, gone] = [self.half, self.half.other()].map(|half| self.name.with(half.suffix()));
        request.command(&["EVAL".into(), REMOVE_ORPHAN.into(), "2".into(), there, gone, self.command.into()]);
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
        assert!(!orphans.is_due(&key, Half::KvBytes, start));
        assert!(!orphans.is_due(&key, Half::KvBytes, after(9)));
        assert!(!orphans.is_due(&other, Half::KvBytes, after(9)));
        assert!(orphans.is_due(&key, Half::KvBytes, after(10)));
        // A new orphan: the grace starts again.
        assert!(!orphans.is_due(&key, Half::KvBytes, after(11)));
        // Too long ago.
        assert!(!orphans.is_due(&other, Half::KvBytes, after(3600)));
        assert!(orphans.is_due(&other, Half::KvBytes, after(3611)));
        // The chunk was whole meanwhile.
        orphans.forget([&key].into_iter());
        assert!(!orphans.is_due(&key, Half::KvBytes, after(22)));
    }

    #[test]
    fn the_number_of_remembered_orphans_is_bounded() {
        let orphans = Orphans::new(Duration::from_secs(10));
        for n in 0..=REMEMBERED {
            orphans.is_due(&format!("m@1@0@{n:x}@half").parse().unwrap(), Half::KvBytes, Instant::now());
        }
        assert_eq!(orphans.seen.lock().unwrap().len(), 1);
    }
}
