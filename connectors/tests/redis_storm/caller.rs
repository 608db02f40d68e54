//! A caller with keys of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use connectors::MemoryObj;

use crate::checked::{chunk, key, version};
use crate::storm::Storm;

/// The keys of a caller.
const KEYS: u64 = 8;

/// A caller. Only it writes its keys, one version after another.
pub(crate) struct Caller {
    pub(crate) storm: Arc<Storm>,
    n: u64,
    random: fastrand::Rng,
    entries: Vec<Entry>,
}

/// A key of the caller.
#[derive(Clone, Copy)]
struct Entry {
    key: u64,
    /// The last version. 0 before the first one.
    version: u64,
    /// [`Record::losses`](crate::storm::Record::losses) before its put.
    losses: u64,
}

/// The length of a version. Consecutive versions differ, so that halves of two versions do not fit.
fn len(n: u64, version: u64) -> usize {
    (1_000 + (n + version * 977) % 60_000) as usize
}

fn next_chunk(entry: Entry) -> MemoryObj {
    chunk(entry.key, entry.version + 1, len(entry.key, entry.version + 1))
}

impl Caller {
    pub(crate) fn new(storm: Arc<Storm>, n: u64) -> Self {
        let entries = (0..KEYS).map(|slot| Entry { key: first_key(n, slot), version: 0, losses: 0 }).collect();
        Self { storm, n, random: fastrand::Rng::with_seed(n), entries }
    }

    /// One operation.
    pub(crate) async fn call(&mut self) {
        let at = self.random.usize(..self.entries.len());
        match self.random.u8(..100) {
            0..40 => self.put(at).await,
            40..70 => {
                self.get(at).await;
            }
            70..80 => self.get_of_another().await,
            80..85 => self.exists(at).await,
            85..93 => self.batched_get().await,
            _ => self.batched_put().await,
        }
    }

    fn losses(&self) -> u64 {
        self.storm.record.losses.load(Ordering::SeqCst)
    }

    async fn put(&mut self, at: usize) {
        let (entry, losses) = (self.entries[at], self.losses());
        let put = async { self.storm.connector.put(&key(entry.key), next_chunk(entry)).await };
        let answer = self.storm.record.call("put", put).await;
        self.ended(at, losses, answer.is_ok());
    }

    /// After a put. A failed one may still reach the server, so nothing is certain about its key.
    fn ended(&mut self, at: usize, losses: u64, is_ok: bool) {
        let entry = &mut self.entries[at];
        *entry = match is_ok {
            true => Entry { version: entry.version + 1, losses, ..*entry },
            false => Entry { key: entry.key + 1, version: 0, losses },
        };
    }

    /// Whether the chunk was there.
    ///
    /// # Panics
    /// If the chunk is wrong, or is not the last version although the servers lost nothing.
    async fn get(&mut self, at: usize) -> bool {
        let entry = self.entries[at];
        let get = async { self.storm.connector.get(&key(entry.key)).await };
        let Ok(found) = self.storm.record.call("get", get).await else { return false };
        self.check(entry, found)
    }

    #[track_caller]
    fn check(&self, entry: Entry, found: Option<MemoryObj>) -> bool {
        let found = found.map(|found| version(entry.key, &found));
        if self.is_certain(entry) {
            assert_eq!(found.unwrap_or(0), entry.version, "{}: key {:x}", self.storm.url, entry.key);
        }
        assert!(found.is_none_or(|found| found <= entry.version), "{found:?} of {}", entry.version);
        found.is_some()
    }

    /// Whether the servers lost nothing since the last put of the key began.
    fn is_certain(&self, entry: Entry) -> bool {
        entry.losses.is_multiple_of(2) && entry.losses == self.losses()
    }

    async fn get_of_another(&mut self) {
        let n = first_key(self.random.u64(..32), self.random.u64(..KEYS)) + self.random.u64(..2);
        if let Ok(Some(found)) = self.storm.record.call("get", self.storm.connector.get(&key(n))).await {
            version(n, &found);
        }
    }

    async fn exists(&mut self, at: usize) {
        let entry = self.entries[at];
        let exists = async { self.storm.connector.exists(&key(entry.key)).await };
        if let Ok(exists) = self.storm.record.call("exists", exists).await
            && self.is_certain(entry)
        {
            assert_eq!(exists, entry.version > 0, "{}: key {:x}", self.storm.url, entry.key);
        }
    }

    async fn batched_get(&mut self) {
        let entries = self.entries.clone();
        let keys: Vec<_> = entries.iter().map(|entry| key(entry.key)).collect();
        let call = async { Ok(self.storm.connector.batched_get(&keys).await) };
        let answers = self.storm.record.call("batched_get", call).await.expect("a batch has answers");
        for (entry, answer) in entries.into_iter().zip(answers) {
            self.storm.record.ended("  one of them", Duration::ZERO, &answer);
            if let Ok(found) = answer {
                self.check(entry, found);
            }
        }
    }

    async fn batched_put(&mut self) {
        let losses = self.losses();
        let items: Vec<_> = self.entries.iter().map(|&entry| (key(entry.key), next_chunk(entry))).collect();
        let call = async { Ok(self.storm.connector.batched_put(&items).await) };
        let answers = self.storm.record.call("batched_put", call).await.expect("a batch has answers");
        for (at, answer) in answers.into_iter().enumerate() {
            self.storm.record.ended("  one of them", Duration::ZERO, &answer);
            self.ended(at, losses, answer.is_ok());
        }
    }

    /// The number of chunks that the servers must have and have.
    ///
    /// # Panics
    /// If one is missing, or a call fails.
    pub(crate) async fn finds_what_was_kept(&mut self) -> u64 {
        let mut kept = 0;
        for entry in self.entries.clone() {
            let found = self.storm.connector.get(&key(entry.key)).await;
            let found = found.unwrap_or_else(|e| panic!("{}: caller {}: {e:?}", self.storm.url, self.n));
            kept += u64::from(self.check(entry, found) && self.is_certain(entry));
        }
        kept
    }
}

/// The first key of a slot of a caller. Its next keys follow.
fn first_key(n: u64, slot: u64) -> u64 {
    (n + 1) << 40 | slot << 32
}
