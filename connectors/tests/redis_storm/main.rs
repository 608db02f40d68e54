//! Thousands of operations while masters fail over, nodes die and pause, and slots move. No byte is wrong, no call hangs, and
//! the store loses no chunk that the servers kept. The store answers again when the servers do.
//!
//! The long storms have 100,000 operations. `./tests/run --full` runs all of them. On a busy machine, a node may look dead to
//! the others.
#![forbid(unsafe_code)]

mod caller;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../checked/mod.rs"]
mod checked;
mod cluster;
mod sentinel;
mod storm;
