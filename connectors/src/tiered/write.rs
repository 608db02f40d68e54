//! Puts and removes. Each holds its key's lock from its first step to its last.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use connector_core::{CacheKey, Error, ErrorKind, MemoryObj, Result};
use tokio::sync::OwnedMutexGuard;

use super::buffer::Buffer;
use super::keys::Change;
use super::tiers::Tiers;
use super::writer;

/// A locked key with its change. The fields drop in this order: the change must end before the lock is free. A read
/// that took the lock in between would count as current, and fill the front with an old chunk.
struct Locked {
    change: Change,
    _lock: OwnedMutexGuard<()>,
}

impl Tiers {
    async fn locked(&self, key: &CacheKey) -> Locked {
        let change = self.keys.change(key);
        let lock = change.guard.lock.clone().lock_owned().await;
        Locked { change, _lock: lock }
    }

    /// Removes the key from the front, puts the chunk into the back, and then into the front. If the future is dropped,
    /// the front does not have the key, or has the chunk that the back has.
    pub(super) async fn write_through(self: &Arc<Self>, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let mut locked = self.locked(key).await;
        self.remove_from_front(key).await;
        locked.change.ask_back();
        self.back.put(key, chunk.clone()).await?;
        locked.change.done_in_back();
        self.fill_front(vec![((key.clone(), chunk), locked)]).await;
        Ok(())
    }

    /// As [`write_through`](Self::write_through), for several chunks in one batch of the back.
    pub(super) async fn write_all_through(self: &Arc<Self>, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let (mut locked, keys) = self.locked_all(items.iter().map(|(key, _)| key)).await;
        self.remove_all_from_front(&keys).await;
        locked.values_mut().for_each(|locked| locked.change.ask_back());
        let answers = self.back.batched_put(items).await;
        locked.values_mut().for_each(|locked| locked.change.done_in_back());
        let mut puts: HashMap<&CacheKey, usize> = HashMap::new();
        for ((key, _), answer) in items.iter().zip(&answers) {
            *puts.entry(key).or_default() += 1;
            if let (Err(_), Some(locked)) = (answer, locked.get_mut(key)) {
                locked.change.ask_back();
            }
        }
        let mut fills = Vec::new();
        for ((key, chunk), answer) in items.iter().zip(&answers) {
            // Of two chunks under one key, the back may have either.
            if answer.is_ok()
                && puts.get(key) == Some(&1)
                && let Some(locked) = locked.remove(key)
            {
                fills.push(((key.clone(), chunk.clone()), locked));
            }
        }
        self.fill_front(fills).await;
        answers
    }

    /// Puts the chunk into the buffer and into the front. A background task writes it to the back.
    pub(super) async fn write_back(self: &Arc<Self>, buffer: &Buffer, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.check(key, &chunk)?;
        let reservation = buffer.reserve(&chunk, || writer::start(self)).await?;
        let locked = self.locked(key).await;
        let copy = buffer.copy(&chunk)?;
        drop(chunk);
        self.remove_from_front(key).await;
        if buffer.insert(key, copy.clone(), reservation) {
            writer::start(self);
        }
        self.fill_front(vec![((key.clone(), copy), locked)]).await;
        Ok(())
    }

    /// Refuses a chunk that the back declares not to take: in the background, the error would not reach the caller.
    fn check(&self, key: &CacheKey, chunk: &MemoryObj) -> Result<()> {
        let can = self.back.capabilities();
        let refused =
            |kind, message: String| Err(Error::new(kind, format!("the back store cannot take it: {message}")));
        let bytes = key.as_str().len();
        if let Some(most) = can.max_key_bytes.filter(|most| bytes > *most) {
            return refused(ErrorKind::InvalidKey, format!("the key has {bytes} bytes, of at most {most}"));
        }
        let bytes = chunk.len() as u64;
        if let Some(most) = can.max_chunk_bytes.filter(|most| bytes > *most) {
            let refused = refused(ErrorKind::TooLarge, format!("the chunk has {bytes} bytes, of at most {most}"));
            return refused
                .map_err(|e| e.with_hint(format!("raise the `capacity` of `back`, if it sets one: `{}`", self.url)));
        }
        let storable =
            |dtypes: &[_]| chunk.layout().groups.iter().all(|g| g.dtype.is_some_and(|d| dtypes.contains(&d)));
        if can.keeps_layout_of(key.kind()) && !can.dtypes.is_none_or(storable) {
            return refused(ErrorKind::Unsupported, format!("it does not store a dtype of {}", chunk.layout()));
        }
        Ok(())
    }

    /// Locks the keys of a batch, and gives each once. All batches lock in one order, so that two cannot deadlock.
    async fn locked_all<'k>(
        &self,
        keys: impl Iterator<Item = &'k CacheKey> + Send,
    ) -> (BTreeMap<&'k CacheKey, Locked>, Vec<CacheKey>) {
        let mut locked = BTreeMap::new();
        for key in keys.collect::<BTreeSet<_>>() {
            locked.insert(key, self.locked(key).await);
        }
        let keys = locked.keys().map(|key| (*key).clone()).collect();
        (locked, keys)
    }

    /// As [`remove`](Self::remove), with one batch of each store. Of a key that occurs twice, the first removes it.
    pub(super) async fn remove_all(self: &Arc<Self>, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let (mut locked, unique) = self.locked_all(keys.iter()).await;
        let mut stored = Vec::with_capacity(unique.len());
        for key in &unique {
            stored.push(match &self.buffer {
                Some(buffer) => buffer.cancel(key).await,
                None => false,
            });
        }
        let in_front = self.remove_all_from_front(&unique).await;
        stored.iter_mut().zip(in_front).for_each(|(stored, in_front)| *stored |= in_front);
        locked.values_mut().for_each(|locked| locked.change.ask_back());
        let in_back = self.back.batched_remove(&unique).await;
        let mut answers = HashMap::new();
        for ((key, stored), in_back) in unique.iter().zip(stored).zip(in_back) {
            let answer = self.back_answer(in_back);
            if let (Ok(_), Some(locked)) = (&answer, locked.get_mut(key)) {
                locked.change.done_in_back();
            }
            answers.insert(key, answer.map(|in_back| in_back || stored));
        }
        let answer = |key| match answers.get_mut(key) {
            Some(Ok(stored)) => Ok(std::mem::take(stored)),
            Some(Err(e)) => Err(e.clone()),
            None => Err(Error::new(ErrorKind::Other, "the back store gave too few answers")),
        };
        keys.iter().map(answer).collect()
    }

    /// Removes the key from the buffer, the front and the back, and says whether one of them had it.
    pub(super) async fn remove(self: &Arc<Self>, key: &CacheKey) -> Result<bool> {
        let mut locked = self.locked(key).await;
        let in_buffer = match &self.buffer {
            Some(buffer) => buffer.cancel(key).await,
            None => false,
        };
        let in_front = self.remove_from_front(key).await;
        locked.change.ask_back();
        let in_back = self.back_answer(self.back.remove(key).await)?;
        locked.change.done_in_back();
        Ok(in_back || in_front || in_buffer)
    }
}
