//! The named stores of this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use connector_core::runtime::PerProcess;
use connector_core::{Error, ErrorKind, Result};

use super::MemoryOptions;
use crate::lru_chunks::LruChunks;

/// A child of `fork` starts without any.
static NAMED: PerProcess<Mutex<HashMap<String, Weak<LruChunks>>>> = PerProcess::new();

/// The store with this name, or a new one if it is not open. `None` always gives a new store.
pub(super) fn open(name: Option<&str>, capacity: Option<u64>) -> Result<Arc<LruChunks>> {
    let new = || Arc::new(LruChunks::new(capacity.unwrap_or(MemoryOptions::DEFAULT_CAPACITY)));
    let Some(name) = name else { return Ok(new()) };
    // Nothing panics while the lock is held.
    let mut named = NAMED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(store) = named.get(name).and_then(Weak::upgrade) {
        return match capacity {
            Some(wanted) if wanted != store.capacity() => Err(Error::new(
                ErrorKind::InvalidOption,
                format!("`memory://{name}` is open with a capacity of {} bytes, not {wanted}", store.capacity()),
            )
            .with_hint("leave `capacity` out, or use another name")),
            _ => Ok(store),
        };
    }
    let store = new();
    named.retain(|_, store| store.strong_count() > 0);
    named.insert(name.to_owned(), Arc::downgrade(&store));
    Ok(store)
}
