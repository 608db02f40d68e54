//! `kvconn.blackhole` `BlackholeConnector`: nothing, for measuring and testing what stands before a store.
//!
//! **What it stores.** Nothing: a put succeeds and the chunk is gone; every key is a miss.
//!
//! **How it connects.** `blackhole://`, `blackhole://host:port`, or
//! `external://localhost:0/kvconn.blackhole/?connector_name=BlackholeConnector`; host and port mean nothing.
//!
//! **Options.** None ([`BlackholeOptions`]).
//!
//! **Limits.** The one store that does not give back what was put: it is no cache, and a conformance test of it fails.

mod connector;
mod options;

pub use connector::BlackholeConnector;
pub use options::BlackholeOptions;
