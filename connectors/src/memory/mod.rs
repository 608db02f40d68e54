//! `kvconn.memory` `MemoryConnector`: chunks in this process's memory.
//!
//! **What it stores.** A copy of each chunk with its layout, under its key. All connectors of one process that are opened
//! with one name share one store, which lives as long as the last of them. When the store is full, the chunk that was
//! used longest ago goes first.
//!
//! **How it connects.** `memory://name`, or `external://name:0/kvconn.memory/?connector_name=MemoryConnector`; the host is
//! the store's name. `memory://` without a name is a store of its own.
//!
//! **Options.** [`MemoryOptions`].
//!
//! **Limits.** `get` gives out the stored memory itself: a chunk that is read while it is replaced or evicted lives on
//! until its readers have dropped it, and then counts towards no capacity.

mod connector;
mod options;
mod store;

pub use connector::MemoryConnector;
pub use options::MemoryOptions;
