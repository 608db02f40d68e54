//! Shared reads.

use std::sync::Arc;

use connector_core::{CacheKey, Error, ErrorKind, MemoryObj, Result};
use futures::future::{Either, join_all, select};

use super::keys::{SharedRead, Waiter};
use super::tiers::{Tiers, same_error};

/// A chunk that a read found.
type Found = Result<Option<MemoryObj>>;

impl Tiers {
    /// Reads keys that the front does not have. The call joins reads that are in flight, and starts one batch on a new
    /// task for all other keys. The task continues if this future is dropped, as long as a caller waits for one of the
    /// keys.
    pub(super) async fn read(self: &Arc<Self>, keys: &[&CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let pass = match self.gate.enter() {
            Ok(pass) => pass,
            Err(e) => return same_error(&e, keys.len()),
        };
        let (waiters, reads): (Vec<Waiter>, Vec<Option<SharedRead>>) =
            keys.iter().map(|key| self.keys.join(key)).unzip();
        let reads: Vec<SharedRead> = reads.into_iter().flatten().collect();
        if !reads.is_empty() {
            let tiers = self.clone();
            self.spawn(async move {
                tiers.run_reads(reads).await;
                drop(tiers);
                drop(pass);
            });
        }
        join_all(waiters.into_iter().map(Waiter::answer)).await
    }

    async fn run_reads(self: &Arc<Self>, reads: Vec<SharedRead>) {
        let found = {
            let mut find = std::pin::pin!(self.find(&reads));
            loop {
                let all_gone = std::pin::pin!(async {
                    for read in &reads {
                        read.all_waiters_gone().await;
                    }
                });
                match select(find.as_mut(), all_gone).await {
                    Either::Left((found, _)) => break found,
                    Either::Right(_) => {
                        // Checks every read, because the check stops callers from joining an abandoned one.
                        let abandoned = reads.iter().filter(|read| read.is_abandoned()).count();
                        if abandoned == reads.len() {
                            return;
                        }
                    }
                }
            }
        };
        self.finish_reads(reads.into_iter().zip(found).collect()).await;
    }

    /// Asks the front again, because another read may have filled it, then the buffer, and then the back. Also says for
    /// each chunk whether the front lacks it.
    async fn find(&self, reads: &[SharedRead]) -> Vec<(Found, bool)> {
        if let [read] = reads {
            let key = &read.guard.key;
            if let Some(chunk) = self.front_get(key).await {
                return vec![(Ok(Some(chunk)), false)];
            }
            if let Some(chunk) = self.buffered(key) {
                return vec![(Ok(Some(chunk)), true)];
            }
            return vec![(self.back_answer(self.back.get(key).await), true)];
        }
        let keys: Vec<CacheKey> = reads.iter().map(|read| read.guard.key.clone()).collect();
        let found = self.front_batch(&keys).await;
        if self.must_release(&keys, &found) {
            drop(found);
            return self.find_in_reserved(keys).await;
        }
        let mut found: Vec<Option<(Found, bool)>> =
            found.into_iter().map(|chunk| chunk.map(|c| (Ok(Some(c)), false))).collect();
        let (mut places, mut missing) = (Vec::new(), Vec::new());
        for (n, key) in keys.into_iter().enumerate().filter(|(n, _)| found[*n].is_none()).collect::<Vec<_>>() {
            match self.buffered(&key) {
                Some(chunk) => found[n] = Some((Ok(Some(chunk)), true)),
                None => {
                    places.push(n);
                    missing.push(key);
                }
            }
        }
        if !missing.is_empty() {
            for (n, answer) in places.into_iter().zip(self.back.batched_get(&missing).await) {
                found[n] = Some((self.back_answer(answer), true));
            }
        }
        let lost = || Error::new(ErrorKind::Other, "the back store gave too few answers");
        found.into_iter().map(|f| f.unwrap_or_else(|| (Err(lost()), false))).collect()
    }

    /// Whether a batch must give back the front's chunks before it reads the others from the back. It would hold memory
    /// while it waits for memory, and two such batches would wait for each other.
    pub(super) fn must_release(&self, keys: &[CacheKey], found: &[Option<MemoryObj>]) -> bool {
        let hits = found.iter().flatten().count();
        self.waiting_memory.is_some()
            && (1..keys.len()).contains(&hits)
            && keys.iter().all(|key| key.layer_id().is_none())
    }

    /// As [`find`](Self::find), into memory that is reserved for all keys at once.
    async fn find_in_reserved(&self, keys: Vec<CacheKey>) -> Vec<(Found, bool)> {
        let mut found: Vec<(Found, bool)> = keys.iter().map(|_| (Ok(None), true)).collect();
        let Some((backend, full)) = &self.waiting_memory else { return found };
        let memory = backend.reserve(&vec![full.clone(); keys.len()]).await;
        let (mut near, mut far) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
        for (n, (key, memory)) in keys.into_iter().zip(memory).enumerate() {
            match (self.buffered(&key), memory) {
                (Some(chunk), _) => found[n] = (Ok(Some(chunk)), true),
                (None, Err(e)) => found[n] = (Err(e), false),
                (None, Ok(memory)) => {
                    let (places, requests) = if self.keys.may_ask_front(&key) { &mut near } else { &mut far };
                    places.push(n);
                    requests.push((key, memory));
                }
            }
        }
        let (places, mut requests) = near;
        let answers = self.front.batched_get_into(&mut requests).await;
        for ((n, (key, memory)), answer) in places.into_iter().zip(requests).zip(answers) {
            match answer.inspect_err(|e| self.front_failed("batched_get_into", e)) {
                Ok(Some(_)) => found[n] = (Ok(Some(memory.freeze())), false),
                Err(e) if memory.is_taken() => found[n] = (Err(e), false),
                _ => {
                    far.0.push(n);
                    far.1.push((key, memory));
                }
            }
        }
        let (places, mut requests) = far;
        let answers = self.back.batched_get_into(&mut requests).await;
        for ((n, (key, memory)), answer) in places.into_iter().zip(requests).zip(answers) {
            found[n].0 = match self.back_answer(answer) {
                Ok(length) => Ok(length.map(|_| memory.freeze())),
                // Longer than a full chunk.
                Err(e) if e.kind() == ErrorKind::SizeMismatch => self.back.get(&key).await,
                Err(e) => Err(e),
            };
        }
        found
    }

    /// Reads from the front, in one batch, the keys that are not stale.
    pub(super) async fn front_batch(&self, keys: &[CacheKey]) -> Vec<Option<MemoryObj>> {
        let mut found = vec![None; keys.len()];
        let places: Vec<usize> = (0..keys.len()).filter(|n| self.keys.may_ask_front(&keys[*n])).collect();
        if places.is_empty() {
            return found;
        }
        let asked: Vec<CacheKey> = places.iter().map(|n| keys[*n].clone()).collect();
        for (n, answer) in places.into_iter().zip(self.front.batched_get(&asked).await) {
            found[n] = answer.unwrap_or_else(|e| {
                self.front_failed("batched_get", &e);
                None
            });
        }
        found
    }

    /// Fills the front, and then answers the waiters.
    async fn finish_reads(self: &Arc<Self>, reads: Vec<(SharedRead, (Found, bool))>) {
        let mut fills = Vec::new();
        for (read, (found, is_new)) in &reads {
            // If a change holds the lock, the chunk will soon be old, and the read does not wait. A change that started
            // during the read has removed the key from the front, or waits for the lock to do so.
            if let Ok(Some(chunk)) = found
                && *is_new
                && let Ok(lock) = read.guard.lock.clone().try_lock_owned()
                && read.is_current()
            {
                fills.push(((read.guard.key.clone(), chunk.clone()), lock));
            }
        }
        self.fill_front(fills).await;
        reads.into_iter().for_each(|(read, (found, _))| read.end(found));
    }
}
