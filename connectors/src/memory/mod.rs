//! `kvconn.memory` `MemoryConnector`: chunks in this process's memory.
//!
//! **What it stores.** A copy of each chunk with its layout, under its key. All connectors of a process that are opened
//! with the same name and namespace share one store. The store lives as long as the last of them. A full store evicts
//! the least recently used chunk.
//!
//! **How it connects.** `memory://name`, or `external://name:0/kvconn.memory/?connector_name=MemoryConnector`. The host
//! is the store's name. `memory://` without a name opens a store that no other connector shares.
//!
//! **Options.** [`MemoryOptions`].
//!
//! **Limits.** `get` gives out the stored memory. So a chunk that is replaced or evicted lives until its readers drop
//! it. Such chunks do not count towards the capacity.

mod connector;
mod options;
mod store;

pub use connector::MemoryConnector;
pub use options::MemoryOptions;
