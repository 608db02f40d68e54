//! Puts and removes. Each holds its key's lock from its first step to its last.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use connector_core::{CacheKey, Error, ErrorKind, MemoryObj, Result};
use futures::future::join_all;
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
        self.fill_front(key, chunk, locked).await;
        Ok(())
    }

    /// As [`write_through`](Self::write_through), for several chunks in one batch of the back.
    pub(super) async fn write_all_through(self: &Arc<Self>, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let mut locked = BTreeMap::new();
        // Every batch locks its keys in this order, so that two batches cannot deadlock.
        for key in items.iter().map(|(key, _)| key).collect::<BTreeSet<_>>() {
            locked.insert(key, self.locked(key).await);
        }
        join_all(locked.keys().map(|key| self.remove_from_front(key))).await;
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
                fills.push(self.fill_front(key, chunk.clone(), locked));
            }
        }
        join_all(fills).await;
        answers
    }

    /// Puts the chunk into the buffer and into the front. A background task writes it to the back.
    pub(super) async fn write_back(self: &Arc<Self>, buffer: &Buffer, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.check(key, &chunk)?;
        let reservation = buffer.reserve(&chunk).await?;
        let locked = self.locked(key).await;
        let copy = buffer.copy(&chunk)?;
        drop(chunk);
        self.remove_from_front(key).await;
        if buffer.insert(key, copy.clone(), reservation) {
            self.handle.spawn(writer::run(self.clone()));
        }
        self.fill_front(key, copy, locked).await;
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
            return refused(ErrorKind::TooLarge, format!("the chunk has {bytes} bytes, of at most {most}"));
        }
        let storable = |dtypes: &[_]| chunk.layout().groups.iter().all(|g| g.dtype.is_some_and(|d| dtypes.contains(&d)));
        if can.keeps_layout_of(key.kind()) && !can.dtypes.is_none_or(storable) {
            return refused(ErrorKind::Unsupported, format!("it does not store a dtype of {}", chunk.layout()));
        }
        Ok(())
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
