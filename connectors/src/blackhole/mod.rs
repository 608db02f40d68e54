//! `kvconn.blackhole` `BlackholeConnector`: an empty store, to measure and test the code that uses a store.
//!
//! **What it stores.** Nothing. Puts succeed, and every key is a miss.
//!
//! **How it connects.** `blackhole://`, `blackhole://host:port`, or
//! `external://localhost:0/kvconn.blackhole/?connector_name=BlackholeConnector`. It ignores host and port.
//!
//! **Options.** None ([`BlackholeOptions`]).
//!
//! **Limits.** It never gives a chunk back, so it fails the conformance kit.

mod connector;
mod options;

pub use connector::BlackholeConnector;
pub use options::BlackholeOptions;
