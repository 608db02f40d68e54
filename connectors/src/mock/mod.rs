//! `kvconn.mock` `MockConnector`: a store in memory that is as slow as a remote store.
//!
//! **What it stores.** A copy of each chunk with its layout. Each connector has its own store, which is lost with the
//! connector. A full store evicts the least recently used chunk. `get` gives the bytes that were put. (LMCache's mock
//! keeps only the sizes, and gives back uninitialised memory.)
//!
//! **How it connects.** `mock://GB/?peeking_latency=ms&read_throughput=GB/s&write_throughput=GB/s`,
//! `plugin://mock[.instance]` or `external://localhost:0/kvconn.mock/?connector_name=MockConnector&capacity=GB`. A GB
//! is 2^30 bytes, as in LMCache. Fractions (`mock://0.5`) are valid.
//!
//! **How long it takes**, on tokio's clock, so that a test on paused time is fast and exact:
//! - `exists`, `remove`, `list`, `ping`: the latency, once for each call. A batch is one call, because it is one round
//!   trip of a real store. LMCache's mock waits once for each key up to the first miss.
//! - `get` and `put`: bytes divided by throughput, without latency. All reads share one bandwidth and run one after
//!   another, in the order of the calls. All writes share another bandwidth in the same way. A miss takes no time.
//! - If a call's future is dropped, the calls after it move up at once.
//! - tokio's clock ticks once a millisecond, so a call ends up to a millisecond late. The next call makes up for that:
//!   many calls together have exactly the configured throughput.
//!
//! **Options.** [`MockOptions`].
//!
//! **Limits.** The chunks take memory of this process, up to the capacity.

mod bandwidth;
mod connector;
mod options;

pub use connector::MockConnector;
pub use options::MockOptions;
