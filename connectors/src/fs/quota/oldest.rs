//! The files used longest ago, of all that a scan finds.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::super::files::Place;

/// The most files in memory. A name of 100 bytes takes about 160 bytes with its places in the set, so these are 10 MB.
const MOST: usize = 1 << 16;

/// A file, and its last use when the scan found it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) used: SystemTime,
    base: u32,
    path: Box<str>,
}

/// Every file that the set left out was used later than each file in it. A use after the scan only makes a file younger.
/// So an eviction looks at each file again, and skips those that were used meanwhile.
#[derive(Debug)]
pub(super) struct Oldest {
    files: BTreeSet<Candidate>,
    most: usize,
    /// The last use of the oldest file that the set left out.
    left_out: Option<SystemTime>,
    /// The number of files at the end of the scan.
    found: usize,
}

impl Default for Oldest {
    fn default() -> Self {
        Self { files: BTreeSet::new(), most: MOST, left_out: None, found: 0 }
    }
}

impl Candidate {
    pub(super) fn place(&self) -> Place {
        Place { base: self.base as usize, path: self.path.to_string() }
    }
}

impl Oldest {
    /// Adds a file, unless enough older ones are known.
    pub(super) fn offer(&mut self, used: SystemTime, base: usize, path: &str) {
        if self.left_out.is_some_and(|left_out| used >= left_out) {
            return;
        }
        // A store has fewer base paths than `u32` has values.
        let base = u32::try_from(base).unwrap_or(u32::MAX);
        self.files.insert(Candidate { used, base, path: path.into() });
        if self.files.len() > self.most {
            self.left_out = self.files.pop_last().map(|youngest| youngest.used);
        }
    }

    /// Takes out the oldest file, of one base path or of all.
    pub(super) fn pop(&mut self, base: Option<usize>) -> Option<Candidate> {
        let Some(base) = base else { return self.files.pop_first() };
        let found = self.files.iter().find(|file| file.base as usize == base)?;
        let found = Candidate { used: found.used, base: found.base, path: found.path.clone() };
        self.files.take(&found)
    }

    /// Notes that the scan has ended.
    pub(super) fn complete(mut self) -> Self {
        self.found = self.files.len();
        self
    }

    /// Whether few files are left, so that evictions soon need the next scan.
    pub(super) fn is_low(&self) -> bool {
        self.files.len() <= self.found / 4
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_files_stay_in_every_order_of_offers_and_after_each_pop() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..50 {
            let mut times: Vec<u64> = (0..200).collect();
            random.shuffle(&mut times);
            let mut oldest = Oldest { most: 20, ..Oldest::default() };
            let mut popped = Vec::new();
            for (n, time) in times.iter().enumerate() {
                oldest.offer(SystemTime::UNIX_EPOCH + Duration::from_secs(*time), 0, &time.to_string());
                // An eviction during the scan takes the oldest so far.
                if n % 40 == 39 {
                    popped.push(oldest.pop(None).unwrap().place().path.parse::<u64>().unwrap());
                }
            }
            let rest: Vec<u64> =
                std::iter::from_fn(|| oldest.pop(None)).map(|c| c.place().path.parse().unwrap()).collect();
            assert!(rest.len() >= 15 && rest.is_sorted());
            // No file outside the set is older than one inside.
            let youngest = *rest.last().unwrap();
            let outside = times.iter().filter(|time| !rest.contains(time) && !popped.contains(time));
            assert!(outside.into_iter().all(|time| *time > youngest), "{rest:?}");
        }
    }

    #[test]
    fn a_pop_of_one_base_path_leaves_the_others() {
        let mut oldest = Oldest::default();
        for n in 0..6_u64 {
            oldest.offer(SystemTime::UNIX_EPOCH + Duration::from_secs(n), (n % 2) as usize, "x");
        }
        let bases: Vec<usize> = std::iter::from_fn(|| oldest.pop(Some(1))).map(|c| c.place().base).collect();
        assert_eq!(bases, [1, 1, 1]);
        assert_eq!(oldest.pop(None).unwrap().place().base, 0);
    }
}
