//! One chunk of a listing.

use std::time::SystemTime;

use crate::key::CacheKey;

/// A chunk of a [listing](crate::Connector::list_entries): its key, its size and its time.
///
/// ```
/// # use connector_core::{CacheKey, ListEntry};
/// let key: CacheKey = "m@1@0@ff@half".parse().unwrap();
/// let entry = ListEntry::new(key).with_size(4096);
/// assert_eq!((entry.size, entry.modified), (Some(4096), None));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListEntry {
    /// The chunk's key.
    pub key: CacheKey,
    /// The bytes that the store keeps for the chunk, with its header if the store keeps one. `None` if the store cannot say.
    pub size: Option<u64>,
    /// The time of the last put, on the store's clock. `None` if the store cannot say.
    pub modified: Option<SystemTime>,
}

impl ListEntry {
    /// The entry of a chunk whose size and time are not known.
    pub fn new(key: CacheKey) -> Self {
        Self { key, size: None, modified: None }
    }

    /// The store keeps `bytes` bytes for the chunk.
    #[must_use]
    pub fn with_size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// The last put was at this time.
    #[must_use]
    pub fn with_modified(mut self, time: SystemTime) -> Self {
        self.modified = Some(time);
        self
    }
}
