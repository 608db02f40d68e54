//! `kvconn.faulty` `FaultyConnector`: another store with latency, errors and misses, to test the code that uses a store.
//!
//! **What it stores.** Nothing: calls go to the store behind.
//!
//! **How it connects.** `faulty://?back=URL&error_rate=0.1&miss_rate=0.2&latency_ms=5&seed=1`, with the URL of the store
//! behind percent-encoded. Also `plugin://faulty[.instance]` and
//! `external://localhost:0/kvconn.faulty/?connector_name=FaultyConnector&back=..`.
//!
//! **Errors.** Before a call reaches the store behind, it fails with the probability `error_rate`. In a batch, each key
//! fails on its own. So a put that fails leaves the old chunk.
//!
//! **Misses.** `get` and `exists` do not find a key with the probability `miss_rate`. The chunk stays in the store behind.
//! `get_into`, `get_prefix` and batches are the same operations.
//!
//! **Latency.** Each call waits first, on tokio's clock. A batch or a listing is one call.
//!
//! **The same faults in every run.** The seed, the operation, the key, and the number of earlier calls of that operation on
//! that key decide. So faults do not depend on the order of calls on other keys. A retry may succeed.
//!
//! **Options.** [`FaultyOptions`].
//!
//! **Limits.** The calls are counted in 65,536 counters of four bytes. Two keys may share one: then the order of
//! their calls counts, too.

mod connector;
mod faults;
mod options;

pub use connector::FaultyConnector;
pub use options::{FaultKind, FaultyOptions};
