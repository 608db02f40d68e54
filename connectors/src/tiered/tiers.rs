//! The two stores, and what is known of the one in front.

use std::sync::Arc;

use connector_core::connector::Gate;
use connector_core::{CacheKey, Connector, Error, ErrorKind, MemoryObj, Result};
use tokio::runtime::Handle;

use super::buffer::Buffer;
use super::heal::heal;
use super::keys::Keys;

pub(super) struct Tiers {
    pub(super) front: Connector,
    pub(super) back: Connector,
    pub(super) keys: Arc<Keys>,
    /// `None` with `write_through`.
    pub(super) buffer: Option<Buffer>,
    pub(super) handle: Handle,
    /// Reads and fills outlive the futures that started them.
    pub(super) gate: Gate,
}

impl Tiers {
    /// Logs what the front failed to do: the back has the chunk all the same.
    pub(super) fn front_failed(&self, operation: &'static str, error: &Error) {
        tracing::warn!(operation, %error, "the store in front failed: it is passed by");
    }

    /// Looks into the front. A failure is a miss.
    pub(super) async fn front_get(&self, key: &CacheKey) -> Option<MemoryObj> {
        if !self.keys.trusts_front(key) {
            return None;
        }
        self.front.get(key).await.unwrap_or_else(|e| {
            self.front_failed("get", &e);
            None
        })
    }

    /// What the back answers. With `write_back`, a key that it cannot even name may have been put all the same, and be gone
    /// from the front: then it is a miss.
    pub(super) fn behind<T: Default>(&self, answer: Result<T>) -> Result<T> {
        match answer {
            Err(e) if e.kind() == ErrorKind::InvalidKey && self.buffer.is_some() => Ok(T::default()),
            other => other,
        }
    }

    /// The chunk that waits for the back.
    pub(super) fn buffered(&self, key: &CacheKey) -> Option<MemoryObj> {
        self.buffer.as_ref()?.get(key)
    }

    /// Puts a chunk into the front. `held` is the key's lock, and the change if it is one: both are held until the front has
    /// ended, also if this future is dropped: a put that ended late would lie over a newer one.
    pub(super) async fn fill(self: &Arc<Self>, key: &CacheKey, chunk: MemoryObj, held: impl Send + 'static) {
        if self.keys.front_is_off() {
            return;
        }
        let Ok(pass) = self.gate.enter() else { return };
        let (tiers, key) = (self.clone(), key.clone());
        let filled = self.handle.spawn(async move {
            match tiers.front.put(&key, chunk).await {
                Ok(()) => tiers.keys.trust(&key),
                // The old chunk or none: none, because the key was not there, or was taken out before.
                Err(e) => tiers.front_failed("put", &e),
            }
            drop(tiers);
            drop((held, pass));
        });
        if filled.await.is_err() {
            tracing::error!("filling the store in front panicked, or the tokio runtime is shutting down");
        }
    }

    /// Takes a key out of the front, and says whether it was there; the caller holds the key's lock. A front that fails may
    /// keep the chunk, and is not asked about this key until it is right again.
    pub(super) async fn take_out(self: &Arc<Self>, key: &CacheKey) -> bool {
        self.try_take_out(key).await.unwrap_or(false)
    }

    /// The same, with the front's error, which is logged.
    pub(super) async fn try_take_out(self: &Arc<Self>, key: &CacheKey) -> Result<bool> {
        // Also of a future that is dropped in here.
        let mut doubt = Doubt { tiers: self, key, gone: false };
        let there = match self.front.remove(key).await {
            // What the front cannot name, it cannot have.
            Err(e) if matches!(e.kind(), ErrorKind::InvalidKey | ErrorKind::InvalidInput) => false,
            Err(e) => {
                self.front_failed("remove", &e);
                return Err(e);
            }
            Ok(there) => there,
        };
        doubt.gone = true;
        self.keys.trust(key);
        Ok(there)
    }
}

/// A key that the front may have wrong, unless it is gone from there.
struct Doubt<'a> {
    tiers: &'a Arc<Tiers>,
    key: &'a CacheKey,
    gone: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        let tiers = self.tiers;
        if let Some(healing) = tiers.keys.distrust(self.key, tiers.front.capabilities().list) {
            tiers.handle.spawn(heal(Arc::downgrade(tiers), healing));
        }
    }
}

/// The error of work that did not come back.
pub(super) fn lost() -> Error {
    Error::new(ErrorKind::Closed, "the tokio runtime is shutting down")
}

/// One answer for each of several.
pub(super) fn to_all<T>(error: &Error, n: usize) -> Vec<Result<T>> {
    (0..n).map(|_| Err(error.clone())).collect()
}
