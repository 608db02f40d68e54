//! The named stores of this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use connector_core::runtime::PerProcess;
use connector_core::{Error, ErrorKind, Namespace, Result};

use super::MemoryOptions;
use crate::lru_chunks::LruChunks;

/// A name and a namespace.
type Name = (String, Option<Namespace>);

/// A child of `fork` starts without any.
static NAMED: PerProcess<Mutex<HashMap<Name, Weak<LruChunks>>>> = PerProcess::new();

/// The store with this name and namespace, or a new one if it is not open. Without a name, always a new store.
pub(super) fn open(name: Option<&str>, options: MemoryOptions) -> Result<Arc<LruChunks>> {
    let MemoryOptions { capacity, namespace } = options;
    let new = || Arc::new(LruChunks::new(capacity.unwrap_or(MemoryOptions::DEFAULT_CAPACITY)));
    let Some(name) = name else { return Ok(new()) };
    let key = (name.to_owned(), namespace);
    // Nothing panics while the lock is held.
    let mut named = NAMED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(store) = named.get(&key).and_then(Weak::upgrade) {
        return match capacity {
            Some(wanted) if wanted != store.capacity() => Err(Error::new(
                ErrorKind::InvalidOption,
                format!("`memory://{name}` is open with a capacity of {} bytes, not {wanted}", store.capacity()),
            )
            .with_hint("leave `capacity` out, or use another name or namespace")),
            _ => Ok(store),
        };
    }
    let store = new();
    named.retain(|_, store| store.strong_count() > 0);
    named.insert(key, Arc::downgrade(&store));
    Ok(store)
}
