//! The checksums that a key's chunk may have.
//!
//! A false alarm is worse than no alarm, so a key has a *set* of checksums. `stored` holds the stored chunks,
//! `writing` the puts in flight. `uncertain` holds the puts that failed or were dropped, because the store may still
//! finish them. A put that overlaps no other put replaces `stored`. If puts overlap, any of their chunks may be left.
//! A read is judged only if the key did not change between its start and its end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connector_core::CacheKey;
use lru::LruCache;

use super::checksum::Checksum;

/// Limit of `uncertain`; the oldest goes first.
const MAX_UNCERTAIN: usize = 16;

/// The checksums of the keys that were put last.
pub(super) struct KnownChecksums(Arc<Mutex<State>>);

struct State {
    keys: LruCache<CacheKey, Known>,
    max_keys: usize,
    /// Counts the changes of all keys.
    changes: u64,
}

#[derive(Default)]
struct Known {
    stored: Vec<Checksum>,
    /// Replaces `stored` when no put is in flight any more.
    next_stored: Vec<Checksum>,
    writing: Vec<Checksum>,
    uncertain: Vec<Checksum>,
    changed: u64,
}

impl Known {
    fn all(&self) -> impl Iterator<Item = &Checksum> {
        [&self.stored, &self.next_stored, &self.writing, &self.uncertain].into_iter().flatten()
    }
}

/// The key's last change before a read began; `None` for an unknown key.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadStart(Option<u64>);

/// The verdict on a chunk that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    /// The key is not known, or it changed during the read.
    Unknown,
    /// The chunk is wrong. Holds one of the right checksums.
    Wrong(Checksum),
}

/// A put in flight. If it is dropped without [`end`](Self::end), its chunk may or may not be stored.
pub(super) struct Put {
    state: Arc<Mutex<State>>,
    key: CacheKey,
    sum: Checksum,
    is_stored: bool,
}

impl KnownChecksums {
    pub(super) fn new(max_keys: usize) -> Self {
        Self(Arc::new(Mutex::new(State { keys: LruCache::unbounded(), max_keys, changes: 0 })))
    }

    pub(super) fn begin_put(&self, key: &CacheKey, sum: Checksum) -> Put {
        let mut state = lock(&self.0);
        let changed = state.count_change();
        let known = state.keys.get_or_insert_mut(key.clone(), Known::default);
        known.writing.push(sum);
        known.changed = changed;
        state.forget_oldest();
        drop(state);
        Put { state: self.0.clone(), key: key.clone(), sum, is_stored: false }
    }

    pub(super) fn remove(&self, key: &CacheKey) {
        let mut state = lock(&self.0);
        let changed = state.count_change();
        let Some(known) = state.keys.peek_mut(key) else { return };
        known.changed = changed;
        known.stored.clear();
        if known.writing.is_empty() && known.uncertain.is_empty() {
            state.keys.pop(key);
        }
    }

    pub(super) fn begin_read(&self, key: &CacheKey) -> ReadStart {
        ReadStart(lock(&self.0).keys.peek(key).map(|known| known.changed))
    }

    pub(super) fn end_read(&self, key: &CacheKey, start: ReadStart, sum: Checksum) -> Verdict {
        let state = lock(&self.0);
        let Some(known) = state.keys.peek(key) else { return Verdict::Unknown };
        if known.all().any(|right| *right == sum) {
            return Verdict::Right;
        }
        match known.stored.last() {
            Some(expected) if start.0 == Some(known.changed) => Verdict::Wrong(*expected),
            _ => Verdict::Unknown,
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        lock(&self.0).keys.len()
    }
}

impl State {
    fn count_change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    /// Keeps the keys of puts in flight: their checksums are not complete yet.
    fn forget_oldest(&mut self) {
        let mut tries = self.keys.len();
        while self.keys.len() > self.max_keys && tries > 0 {
            tries -= 1;
            match self.keys.pop_lru() {
                Some((key, known)) if !known.writing.is_empty() => {
                    self.keys.put(key, known);
                }
                _ => {}
            }
        }
    }
}

impl Put {
    pub(super) fn end(mut self, is_stored: bool) {
        self.is_stored = is_stored;
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        let changed = state.count_change();
        let Some(known) = state.keys.peek_mut(&self.key) else { return };
        known.changed = changed;
        if let Some(at) = known.writing.iter().position(|sum| *sum == self.sum) {
            known.writing.swap_remove(at);
        }
        if self.is_stored {
            known.next_stored.push(self.sum);
        } else {
            if known.uncertain.len() == MAX_UNCERTAIN {
                known.uncertain.remove(0);
            }
            known.uncertain.push(self.sum);
        }
        if known.writing.is_empty() {
            // Frees the room for further checksums: a key at rest has one.
            known.writing = Vec::new();
            if !known.next_stored.is_empty() {
                known.stored = std::mem::take(&mut known.next_stored);
                known.stored.shrink_to_fit();
            }
        }
        state.forget_oldest();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing panics while the lock is held.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u32) -> CacheKey {
        format!("m@1@0@{n:x}@half").parse().unwrap()
    }

    fn sum(n: u128) -> Checksum {
        Checksum::Xxh3(n)
    }

    fn put(known: &KnownChecksums, n: u128) -> Put {
        known.begin_put(&key(1), sum(n))
    }

    fn read(known: &KnownChecksums, n: u128) -> Verdict {
        known.end_read(&key(1), known.begin_read(&key(1)), sum(n))
    }

    #[test]
    fn only_the_chunk_of_the_last_put_is_right() {
        let known = KnownChecksums::new(10);
        assert_eq!(read(&known, 1), Verdict::Unknown);
        put(&known, 1).end(true);
        assert_eq!((read(&known, 1), read(&known, 2)), (Verdict::Right, Verdict::Wrong(sum(1))));
        put(&known, 2).end(true);
        assert_eq!((read(&known, 1), read(&known, 2)), (Verdict::Wrong(sum(2)), Verdict::Right));
        known.remove(&key(1));
        assert_eq!((read(&known, 7), known.len()), (Verdict::Unknown, 0));
    }

    #[test]
    fn the_chunk_of_any_overlapping_put_is_right_until_a_put_comes_alone() {
        let known = KnownChecksums::new(10);
        put(&known, 1).end(true);
        let (a, b) = (put(&known, 2), put(&known, 3));
        assert_eq!([1, 2, 3].map(|n| read(&known, n)), [Verdict::Right, Verdict::Right, Verdict::Right]);
        assert_eq!(read(&known, 4), Verdict::Wrong(sum(1)));
        a.end(true);
        b.end(true);
        assert_eq!([2, 3].map(|n| read(&known, n)), [Verdict::Right, Verdict::Right]);
        assert_eq!(read(&known, 1), Verdict::Wrong(sum(3)));
        put(&known, 5).end(true);
        assert_eq!(read(&known, 2), Verdict::Wrong(sum(5)));
    }

    #[test]
    fn the_chunk_of_a_failed_or_dropped_put_stays_right() {
        let known = KnownChecksums::new(10);
        put(&known, 1).end(true);
        put(&known, 2).end(false);
        drop(put(&known, 3));
        assert_eq!([1, 2, 3].map(|n| read(&known, n)), [Verdict::Right, Verdict::Right, Verdict::Right]);
        assert_eq!(read(&known, 4), Verdict::Wrong(sum(1)));
        put(&known, 5).end(true);
        known.remove(&key(1));
        put(&known, 6).end(true);
        assert_eq!([3, 6].map(|n| read(&known, n)), [Verdict::Right, Verdict::Right], "the store may finish it late");
        assert_eq!(read(&known, 5), Verdict::Wrong(sum(6)));
    }

    #[test]
    fn two_puts_of_one_chunk_end_one_by_one() {
        let known = KnownChecksums::new(10);
        let (a, b) = (put(&known, 1), put(&known, 1));
        a.end(true);
        assert_eq!(read(&known, 2), Verdict::Unknown, "the other put is in flight");
        b.end(true);
        assert_eq!((read(&known, 1), read(&known, 2)), (Verdict::Right, Verdict::Wrong(sum(1))));
    }

    #[test]
    fn a_read_that_overlaps_a_change_is_not_judged() {
        let known = KnownChecksums::new(10);
        put(&known, 1).end(true);
        let start = known.begin_read(&key(1));
        put(&known, 2).end(true);
        put(&known, 3).end(true);
        assert_eq!(known.end_read(&key(1), start, sum(1)), Verdict::Unknown);
        let start = known.begin_read(&key(2));
        known.begin_put(&key(2), sum(2)).end(true);
        assert_eq!(known.end_read(&key(2), start, sum(1)), Verdict::Unknown, "it was there before the put");
    }

    #[test]
    fn memory_is_bounded_and_keys_of_puts_in_flight_are_kept() {
        let known = KnownChecksums::new(3);
        let in_flight = put(&known, 1);
        for n in 2..50 {
            known.begin_put(&key(n), sum(0)).end(true);
            assert!(known.len() <= 4);
        }
        in_flight.end(true);
        assert_eq!((read(&known, 2), known.len()), (Verdict::Wrong(sum(1)), 3));
    }
}
