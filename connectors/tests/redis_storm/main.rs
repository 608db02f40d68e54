//! Thousands of operations while masters fail over, nodes die and pause, and slots move: no wrong byte, no hang, no lost chunk
//! that the servers kept, and the store is back when the servers are.
//!
//! The long storms have 100,000 operations. `./tests/run --full` runs them.
#![forbid(unsafe_code)]

mod caller;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../checked/mod.rs"]
mod checked;
mod cluster;
mod sentinel;
mod storm;
