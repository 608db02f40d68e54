//! The keys that a listing has given, so that it gives each key once.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use connector_core::CacheKey;

/// Remembers the last keys as hashes of 64 bits, which take 10 to 21 bytes each. Two of a million keys share a hash in one
/// of 40 million listings. Such a listing lacks one key. The next listing has it, because each listing hashes differently.
pub(crate) struct Seen {
    hasher: RandomState,
    newer: HashSet<u64>,
    older: HashSet<u64>,
    /// The most keys in each of the two.
    half: usize,
}

impl Seen {
    /// Remembers about `most` keys, and at least the last `most / 2`.
    pub(crate) fn new(most: usize) -> Self {
        Self { hasher: RandomState::new(), newer: HashSet::new(), older: HashSet::new(), half: most / 2 }
    }

    pub(crate) fn contains(&self, key: &CacheKey) -> bool {
        let hash = self.hasher.hash_one(key);
        self.newer.contains(&hash) || self.older.contains(&hash)
    }

    /// Remembers the key. `false` if it is remembered already.
    pub(crate) fn insert(&mut self, key: &CacheKey) -> bool {
        if self.contains(key) {
            return false;
        }
        self.newer.insert(self.hasher.hash_one(key));
        if self.newer.len() > self.half {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.clear();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_keys_are_remembered_and_older_ones_forgotten() {
        let key = |n: usize| -> CacheKey { format!("m@1@0@{n:x}@half").parse().unwrap() };
        let mut seen = Seen::new(100);
        for n in 0..1000 {
            assert!(seen.insert(&key(n)), "{n}");
            let first = n.saturating_sub(49);
            assert!((first..=n).all(|n| seen.contains(&key(n))), "{n}");
            assert!(!seen.insert(&key(first)));
            assert!(seen.newer.len() + seen.older.len() <= 102);
        }
        assert!(!seen.contains(&key(0)) && seen.insert(&key(0)));
    }
}
