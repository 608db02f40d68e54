//! Reads that several share.

use std::sync::Arc;

use connector_core::{CacheKey, Error, MemoryObj, Result};
use futures::future::{Either, join_all, select};

use super::keys::{Flight, Waiter};
use super::tiers::{Tiers, lost};

/// What a read found.
type Found = Result<Option<MemoryObj>, Arc<Error>>;

impl Tiers {
    /// The chunks of keys that the front was seen not to have. Keys that others read already are waited for; the others
    /// are read as one batch, on a task of their own: it goes on when this future is dropped, as long as anybody waits.
    pub(super) async fn read(self: &Arc<Self>, keys: &[&CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let pass = match self.gate.enter() {
            Ok(pass) => pass,
            Err(e) => return super::tiers::to_all(&e, keys.len()),
        };
        let (waiters, flights): (Vec<Waiter>, Vec<Option<Flight>>) = keys.iter().map(|key| self.keys.join(key)).unzip();
        let flights: Vec<Flight> = flights.into_iter().flatten().collect();
        if !flights.is_empty() {
            let tiers = self.clone();
            self.handle.spawn(async move {
                tiers.fly(flights).await;
                drop(tiers);
                drop(pass);
            });
        }
        join_all(waiters.into_iter().map(Waiter::answer)).await
    }

    async fn fly(self: &Arc<Self>, flights: Vec<Flight>) {
        let found = {
            let mut look = std::pin::pin!(self.look(&flights));
            loop {
                let alone = std::pin::pin!(async {
                    for flight in &flights {
                        flight.alone().await;
                    }
                });
                match select(look.as_mut(), alone).await {
                    Either::Left((found, _)) => break found,
                    Either::Right(_) => {
                        // All are looked at: one that is abandoned is closed to those who come later.
                        let abandoned = flights.iter().filter(|flight| flight.is_abandoned()).count();
                        if abandoned == flights.len() {
                            return;
                        }
                    }
                }
            }
        };
        join_all(flights.into_iter().zip(found).map(|(flight, found)| self.land(flight, found))).await;
    }

    /// Asks the front once more, because it may have been filled since it was asked; then the buffer; then the back. Says of
    /// each chunk also whether the front lacks it.
    async fn look(&self, flights: &[Flight]) -> Vec<(Found, bool)> {
        if let [flight] = flights {
            let key = flight.key();
            if let Some(chunk) = self.front_get(key).await {
                return vec![(Ok(Some(chunk)), false)];
            }
            if let Some(chunk) = self.buffered(key) {
                return vec![(Ok(Some(chunk)), true)];
            }
            return vec![(self.behind(self.back.get(key).await).map_err(Arc::new), true)];
        }
        let keys: Vec<CacheKey> = flights.iter().map(|flight| flight.key().clone()).collect();
        let mut found: Vec<Option<(Found, bool)>> =
            self.front_batch(&keys).await.into_iter().map(|chunk| chunk.map(|c| (Ok(Some(c)), false))).collect();
        let mut missing = Vec::new();
        for (n, key) in keys.into_iter().enumerate() {
            if found[n].is_none() {
                match self.buffered(&key) {
                    Some(chunk) => found[n] = Some((Ok(Some(chunk)), true)),
                    None => missing.push((n, key)),
                }
            }
        }
        if !missing.is_empty() {
            let (places, keys): (Vec<usize>, Vec<CacheKey>) = missing.into_iter().unzip();
            for (n, answer) in places.into_iter().zip(self.back.batched_get(&keys).await) {
                found[n] = Some((self.behind(answer).map_err(Arc::new), true));
            }
        }
        found.into_iter().map(|f| f.unwrap_or_else(|| (Err(Arc::new(lost())), false))).collect()
    }

    /// One batch for the front, of those keys that it is trusted with.
    pub(super) async fn front_batch(&self, keys: &[CacheKey]) -> Vec<Option<MemoryObj>> {
        let mut found = vec![None; keys.len()];
        let trusted: Vec<usize> = (0..keys.len()).filter(|n| self.keys.trusts_front(&keys[*n])).collect();
        if trusted.is_empty() {
            return found;
        }
        let asked: Vec<CacheKey> = trusted.iter().map(|n| keys[*n].clone()).collect();
        for (n, answer) in trusted.into_iter().zip(self.front.batched_get(&asked).await) {
            found[n] = answer.unwrap_or_else(|e| {
                self.front_failed("batched_get", &e);
                None
            });
        }
        found
    }

    /// Fills the front, then tells everybody.
    async fn land(self: &Arc<Self>, flight: Flight, (found, is_new): (Found, bool)) {
        if let Ok(Some(chunk)) = &found
            && is_new
        {
            // Whoever holds the lock changes the key: what was read is old soon, and nobody waits here for that.
            // A put or remove that began since has taken the key out of the front, or waits for the lock to do so.
            if let Ok(lock) = flight.lock().try_lock_owned()
                && flight.is_current()
            {
                self.fill(flight.key(), chunk.clone(), lock).await;
            }
        }
        flight.end(found);
    }
}
