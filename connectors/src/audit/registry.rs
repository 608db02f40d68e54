//! Which checksums a key's chunk may have.
//!
//! A false alarm would be worse than none, so a key has a *set* of checksums: those that a put left (`left`), that puts in
//! flight may leave (`writing`), and that puts which failed or were dropped may have left, or may yet (`strays`): their work
//! in the store may end after their future. A put that overlapped with no other replaces `left`; of several that overlapped,
//! any may be left. A read is checked only against what was known from its beginning to its end.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use connector_core::CacheKey;
use lru::LruCache;

use super::checksum::Checksum;

/// Puts of one key that failed or were dropped and whose checksums are remembered; the oldest is forgotten first.
const MOST_STRAYS: usize = 16;

/// Filled in when the hash is known: it is calculated while the chunk is written.
pub(super) type Sum = Arc<OnceLock<Checksum>>;

pub(super) struct Registry(Arc<Mutex<State>>);

struct State {
    keys: LruCache<CacheKey, Known>,
    most: usize,
    /// Counts every change of every key.
    changes: u64,
}

#[derive(Default)]
struct Known {
    left: Vec<Sum>,
    /// Left by puts of the group that overlaps now.
    group: Vec<Sum>,
    writing: Vec<Sum>,
    strays: Vec<Sum>,
    changed: u64,
}

/// What was known of a key when a read of it began; `None` for nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before(Option<u64>);

/// What a checksum says about a chunk that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    /// Nothing is known, or it changed meanwhile.
    Unknown,
    /// One of those that it should have.
    Wrong(Checksum),
}

/// A put in flight. Dropped without [`end`](Self::end), its chunk may or may not be stored.
pub(super) struct Put {
    registry: Arc<Mutex<State>>,
    key: CacheKey,
    sum: Sum,
    stored: bool,
}

impl Registry {
    pub(super) fn new(most: usize) -> Self {
        let keys = LruCache::unbounded();
        Self(Arc::new(Mutex::new(State { keys, most, changes: 0 })))
    }

    pub(super) fn put_begins(&self, key: &CacheKey) -> Put {
        let sum = Sum::default();
        let mut state = lock(&self.0);
        state.changes += 1;
        let changed = state.changes;
        let known = state.keys.get_or_insert_mut(key.clone(), Known::default);
        known.writing.push(sum.clone());
        known.changed = changed;
        state.forget_oldest();
        drop(state);
        Put { registry: self.0.clone(), key: key.clone(), sum, stored: false }
    }

    pub(super) fn removed(&self, key: &CacheKey) {
        let mut state = lock(&self.0);
        state.changes += 1;
        let changed = state.changes;
        let Some(known) = state.keys.peek_mut(key) else { return };
        known.changed = changed;
        known.left.clear();
        if known.writing.is_empty() && known.strays.is_empty() {
            state.keys.pop(key);
        }
    }

    pub(super) fn read_begins(&self, key: &CacheKey) -> Before {
        Before(lock(&self.0).keys.peek(key).map(|known| known.changed))
    }

    pub(super) fn read_ended(&self, key: &CacheKey, before: Before, sum: Checksum) -> Verdict {
        let state = lock(&self.0);
        let Some(known) = state.keys.peek(key) else { return Verdict::Unknown };
        let all = || [&known.left, &known.group, &known.writing, &known.strays].into_iter().flatten();
        if all().any(|s| s.get() == Some(&sum)) {
            return Verdict::Right;
        }
        let sure = before.0 == Some(known.changed) && all().all(|s| s.get().is_some());
        match known.left.last().and_then(|s| s.get()) {
            Some(expected) if sure => Verdict::Wrong(*expected),
            _ => Verdict::Unknown,
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        lock(&self.0).keys.len()
    }
}

impl State {
    fn forget_oldest(&mut self) {
        // A key that is being put stays: what is known of it is not whole yet.
        let mut tries = self.keys.len();
        while self.keys.len() > self.most && tries > 0 {
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
    /// Where the checksum goes when it is known.
    pub(super) fn sum(&self) -> Sum {
        self.sum.clone()
    }

    /// The put has ended.
    pub(super) fn end(mut self, stored: bool) {
        self.stored = stored;
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        let mut state = lock(&self.registry);
        state.changes += 1;
        let changed = state.changes;
        let Some(known) = state.keys.peek_mut(&self.key) else { return };
        known.changed = changed;
        known.writing.retain(|sum| !Arc::ptr_eq(sum, &self.sum));
        if self.stored {
            known.group.push(self.sum.clone());
        } else {
            if known.strays.len() == MOST_STRAYS {
                known.strays.remove(0);
            }
            known.strays.push(self.sum.clone());
        }
        if known.writing.is_empty() && !known.group.is_empty() {
            known.left = std::mem::take(&mut known.group);
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

    fn put(registry: &Registry, n: u128) -> Put {
        let put = registry.put_begins(&key(1));
        put.sum().set(sum(n)).unwrap();
        put
    }

    fn read(registry: &Registry, n: u128) -> Verdict {
        registry.read_ended(&key(1), registry.read_begins(&key(1)), sum(n))
    }

    #[test]
    fn the_last_put_counts_and_what_another_one_left_is_wrong() {
        let registry = Registry::new(10);
        assert_eq!(read(&registry, 1), Verdict::Unknown);
        put(&registry, 1).end(true);
        assert_eq!((read(&registry, 1), read(&registry, 2)), (Verdict::Right, Verdict::Wrong(sum(1))));
        put(&registry, 2).end(true);
        assert_eq!((read(&registry, 1), read(&registry, 2)), (Verdict::Wrong(sum(2)), Verdict::Right));
        registry.removed(&key(1));
        assert_eq!((read(&registry, 7), registry.len()), (Verdict::Unknown, 0));
    }

    #[test]
    fn of_puts_that_overlap_any_may_be_left_until_one_comes_alone() {
        let registry = Registry::new(10);
        put(&registry, 1).end(true);
        let (a, b) = (put(&registry, 2), put(&registry, 3));
        assert_eq!([1, 2, 3].map(|n| read(&registry, n)), [Verdict::Right, Verdict::Right, Verdict::Right]);
        assert_eq!(read(&registry, 4), Verdict::Wrong(sum(1)));
        a.end(true);
        b.end(true);
        assert_eq!([2, 3].map(|n| read(&registry, n)), [Verdict::Right, Verdict::Right]);
        assert_eq!(read(&registry, 1), Verdict::Wrong(sum(3)));
        put(&registry, 5).end(true);
        assert_eq!(read(&registry, 2), Verdict::Wrong(sum(5)));
    }

    #[test]
    fn a_put_that_failed_or_was_dropped_may_be_left_for_ever() {
        let registry = Registry::new(10);
        put(&registry, 1).end(true);
        put(&registry, 2).end(false);
        drop(put(&registry, 3));
        assert_eq!([1, 2, 3].map(|n| read(&registry, n)), [Verdict::Right, Verdict::Right, Verdict::Right]);
        assert_eq!(read(&registry, 4), Verdict::Wrong(sum(1)));
        put(&registry, 5).end(true);
        registry.removed(&key(1));
        put(&registry, 6).end(true);
        assert_eq!([3, 6].map(|n| read(&registry, n)), [Verdict::Right, Verdict::Right], "its work may end late");
        assert_eq!(read(&registry, 5), Verdict::Wrong(sum(6)));
    }

    #[test]
    fn a_put_whose_checksum_is_not_known_yet_raises_no_alarm() {
        let registry = Registry::new(10);
        put(&registry, 1).end(true);
        let unhashed = registry.put_begins(&key(1));
        let sum_later = unhashed.sum();
        assert_eq!(read(&registry, 9), Verdict::Unknown);
        drop(unhashed);
        assert_eq!(read(&registry, 9), Verdict::Unknown);
        sum_later.set(sum(2)).unwrap();
        assert_eq!((read(&registry, 2), read(&registry, 9)), (Verdict::Right, Verdict::Wrong(sum(1))));
    }

    #[test]
    fn a_read_that_saw_a_change_is_not_judged() {
        let registry = Registry::new(10);
        put(&registry, 1).end(true);
        let before = registry.read_begins(&key(1));
        put(&registry, 2).end(true);
        put(&registry, 3).end(true);
        assert_eq!(registry.read_ended(&key(1), before, sum(1)), Verdict::Unknown);
        let before = registry.read_begins(&key(2));
        registry.put_begins(&key(2)).end(true);
        assert_eq!(registry.read_ended(&key(2), before, sum(1)), Verdict::Unknown, "it was there before the put");
    }

    #[test]
    fn the_memory_is_bounded_and_a_key_in_flight_is_not_forgotten() {
        let registry = Registry::new(3);
        let flying = put(&registry, 1);
        for n in 2..50 {
            let put = registry.put_begins(&key(n));
            put.sum().set(sum(0)).unwrap();
            put.end(true);
            assert!(registry.len() <= 4);
        }
        flying.end(true);
        assert_eq!((read(&registry, 2), registry.len()), (Verdict::Wrong(sum(1)), 3));
    }
}
