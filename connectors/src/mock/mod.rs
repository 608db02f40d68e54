//! `kvconn.mock` `MockConnector`: a store in memory that takes as long as a store far away.
//!
//! **What it stores.** A copy of each chunk with its layout, in a store of its own that is gone with the connector. When it
//! is full, the chunk that was used longest ago goes first. The bytes are real: what comes back is what was put.
//! (LMCache's mock keeps the sizes alone, and gives back whatever was in the memory.)
//!
//! **How it connects.** `mock://GB/?peeking_latency=ms&read_throughput=GB/s&write_throughput=GB/s`, `plugin://mock[.instance]`
//! or `external://localhost:0/kvconn.mock/?connector_name=MockConnector&capacity=GB`. As LMCache counts, a GB is 2^30
//! bytes; a fraction (`mock://0.5`) is taken, too.
//!
//! **How long it takes**, on tokio's clock, so that a test on paused time is quick and exact:
//! - `exists`, `remove`, `list`, `ping`: the latency, once for each call. A batch is one call, as it is one round trip of a
//!   real store; LMCache's mock waits once for each key up to the first miss.
//! - `get` and `put`: bytes divided by throughput, and no latency. All reads share one line and go one after the other, in
//!   the order they came; so do all writes, on a line of their own. A miss takes no time.
//! - A call whose future is dropped leaves the line at once, and those behind it move up.
//! - tokio's clock ticks once a millisecond, and a call ends with the first tick after it is due. The line counts from when
//!   the call was due, so that the throughput of many calls is the stated one.
//!
//! **Options.** [`MockOptions`].
//!
//! **Limits.** The capacity is taken from this process's memory as chunks come in.

mod connector;
mod line;
mod options;

pub use connector::MockConnector;
pub use options::MockOptions;
