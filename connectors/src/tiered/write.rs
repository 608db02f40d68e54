//! Puts and removes. Each holds its key's lock from its first step to its last.

use std::sync::Arc;

use connector_core::{CacheKey, Error, ErrorKind, MemoryObj, Result};
use futures::future::join_all;
use tokio::sync::OwnedMutexGuard;

use super::buffer::Buffer;
use super::keys::Change;
use super::tiers::Tiers;
use super::writer;

/// A key that is being changed, locked. The change ends before the lock is free, as the fields are dropped in this order: a
/// read that took the lock in between would believe to be current, and fill the front with what it read before.
struct Locked {
    change: Change,
    _lock: OwnedMutexGuard<()>,
}

impl Tiers {
    async fn locked(&self, key: &CacheKey) -> Locked {
        let change = self.keys.change(key);
        let lock = change.lock().lock_owned().await;
        Locked { change, _lock: lock }
    }

    /// Out of the front, to the back, into the front. Dropped anywhere, the front has nothing of it, or what the back has.
    pub(super) async fn put_through(self: &Arc<Self>, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let mut locked = self.locked(key).await;
        self.take_out(key).await;
        locked.change.ask_back();
        self.back.put(key, chunk.clone()).await?;
        locked.change.done_in_back();
        self.fill(key, chunk, locked).await;
        Ok(())
    }

    /// The same for several, with one batch for the back.
    pub(super) async fn put_all_through(self: &Arc<Self>, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let mut keys: Vec<&CacheKey> = items.iter().map(|(key, _)| key).collect();
        keys.sort();
        keys.dedup();
        // In one order, so that two batches never each hold what the other waits for.
        let mut locks = Vec::with_capacity(keys.len());
        for &key in &keys {
            locks.push((key, Some(self.locked(key).await), 0));
        }
        join_all(keys.iter().map(|key| self.take_out(key))).await;
        let changes = |locks: &mut Vec<(_, Option<Locked>, _)>, what: fn(&mut Change)| {
            locks.iter_mut().filter_map(|(_, locked, _)| locked.as_mut()).for_each(|locked| what(&mut locked.change));
        };
        changes(&mut locks, Change::ask_back);
        let answers = self.back.batched_put(items).await;
        changes(&mut locks, Change::done_in_back);
        for ((key, _), answer) in items.iter().zip(&answers) {
            if let Ok(n) = locks.binary_search_by(|(k, ..)| (*k).cmp(key)) {
                locks[n].2 += 1;
                if let (Err(_), Some(locked)) = (answer, &mut locks[n].1) {
                    locked.change.ask_back();
                }
            }
        }
        let mut fills = Vec::new();
        for ((key, chunk), answer) in items.iter().zip(&answers) {
            let Ok(n) = locks.binary_search_by(|(k, ..)| (*k).cmp(key)) else { continue };
            // Of two chunks under one key, nobody knows which the back has.
            if answer.is_ok()
                && locks[n].2 == 1
                && let Some(locked) = locks[n].1.take()
            {
                fills.push(self.fill(key, chunk.clone(), locked));
            }
        }
        join_all(fills).await;
        answers
    }

    /// Into the buffer and the front. The back gets it later.
    pub(super) async fn put_later(self: &Arc<Self>, buffer: &Buffer, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.check(key, &chunk)?;
        let room = buffer.room(&chunk).await?;
        let locked = self.locked(key).await;
        let copy = buffer.copy(&chunk)?;
        drop(chunk);
        self.take_out(key).await;
        if buffer.insert(key, copy.clone(), room) {
            self.handle.spawn(writer::write_on(self.clone()));
        }
        self.fill(key, copy, locked).await;
        Ok(())
    }

    /// Refuses at once what the back would refuse later, when nobody could be told.
    fn check(&self, key: &CacheKey, chunk: &MemoryObj) -> Result<()> {
        let can = self.back.capabilities();
        let refused =
            |kind, message: String| Err(Error::new(kind, format!("the store behind cannot take it: {message}")));
        let bytes = key.as_str().len();
        if let Some(most) = can.max_key_bytes.filter(|most| bytes > *most) {
            return refused(ErrorKind::InvalidKey, format!("the key has {bytes} bytes, of at most {most}"));
        }
        let bytes = chunk.len() as u64;
        if let Some(most) = can.max_chunk_bytes.filter(|most| bytes > *most) {
            return refused(ErrorKind::TooLarge, format!("the chunk has {bytes} bytes, of at most {most}"));
        }
        let storable = |dtypes: &[_]| chunk.groups().iter().all(|g| g.dtype.is_some_and(|d| dtypes.contains(&d)));
        if can.keeps_layout_of(key.kind()) && !can.dtypes.is_none_or(storable) {
            return refused(ErrorKind::Unsupported, format!("it has no name for a dtype of {}", chunk.layout()));
        }
        Ok(())
    }

    /// Out of the buffer, the front and the back; says whether it was in any of them.
    pub(super) async fn remove(self: &Arc<Self>, key: &CacheKey) -> Result<bool> {
        let mut locked = self.locked(key).await;
        let waited = match &self.buffer {
            Some(buffer) => buffer.cancel(key).await,
            None => false,
        };
        let in_front = self.take_out(key).await;
        locked.change.ask_back();
        let in_back = self.behind(self.back.remove(key).await)?;
        locked.change.done_in_back();
        Ok(in_back || in_front || waited)
    }
}
