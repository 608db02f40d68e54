//! Opens remote KV-cache stores by URL, from connectors that are compiled in.
//!
//! ```
//! # #[cfg(feature = "memory")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> connectors::Result<()> {
//! let connector = connectors::open("memory://example").await?;
//! let key: connectors::CacheKey = "meta-llama/Llama-3.1-8B@1@0@1f2e3d@bfloat16".parse()?;
//! connector.put(&key, connectors::MemoryObj::from(b"hello".to_vec())).await?;
//! assert_eq!(connector.get(&key).await?.as_deref(), Some(&b"hello"[..]));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "memory"))]
//! # fn main() {}
//! ```
//!
//! Calling [`open`] or [`builder`] links every store whose feature is on. A connector of another crate is linked as soon
//! as the program names that crate: `use acme_kv as _;`. Everything of `connector-core` is re-exported here, so a
//! program needs this one dependency.
//!
//! # Features
//!
//! | feature | store | URLs |
//! |---|---|---|
//! | `memory` | [`kvconn.memory`](memory): chunks in this process's memory | `memory://name` |
//! | `fs` | [`kvconn.fs`](fs): one file a chunk, LMCache's layout | `fs:///path`, `fs://host:port/path[,path..]` |
//! | `redis` | [`kvconn.redis`](redis): header and bytes of a chunk on a redis or valkey server | `redis://host:port/database`, `unix:///path` |
//! | `resp` | [`kvconn.resp`](resp): plain values on a redis or valkey server | `resp://host:port` |
//! | `tiered` | [`kvconn.tiered`](tiered): a small store near by in front of another | `tiered://?front=URL&back=URL` |
//! | `audit` | [`kvconn.audit`](audit): logs and checksums what another store does | `audit://?actual_remote_url=URL` |
//! | `mock` | [`kvconn.mock`](mock): memory with a stated latency and throughput | `mock://GB` |
//! | `blackhole` | [`kvconn.blackhole`](blackhole): nothing | `blackhole://` |
//!
//! | bundle | features |
//! |---|---|
//! | `local` (default) | `audit`, `blackhole`, `fs`, `memory`, `mock`, `tiered` |
//! | `remote` | `redis`, `resp` |
//! | `full` | every store |
//!
//! `conformance` (off by default) adds `conformance`: the contract of every connector as checks that can be run.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]
// A store that is not named is not linked, in silence: an unused dependency must not compile. (Tests have more of them.)
#![cfg_attr(not(test), deny(unused_crate_dependencies))]

#[cfg(feature = "audit")]
pub mod audit;
#[cfg(feature = "blackhole")]
pub mod blackhole;
#[cfg(feature = "fs")]
pub mod fs;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "mock")]
pub mod mock;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "resp")]
pub mod resp;
#[cfg(feature = "tiered")]
pub mod tiered;

mod compiled_out;
#[cfg(any(feature = "memory", feature = "mock", feature = "tiered"))]
mod copies;
#[cfg(any(feature = "memory", feature = "mock"))]
mod lru_chunks;
#[cfg(any(feature = "redis", feature = "resp"))]
mod resp_wire;

pub use connector_core::*;

/// What the fuzzer drives.
#[cfg(any(feature = "redis", feature = "resp"))]
#[doc(hidden)]
pub mod __fuzz {
    pub use crate::resp_wire::reply;
}

/// Opens the store that `url` names, with LMCache's defaults for everything else.
///
/// # Errors
/// `NotFound` if no connector of that scheme, module or name is linked, with the nearest name and what to do;
/// `InvalidUrl`, `InvalidOption`; and whatever keeps the store from working.
pub async fn open(url: &str) -> Result<Connector> {
    builder(url).open().await
}

/// Sets the local CPU backend, engine config, metadata, plugin name or tokio handle, then opens `url`.
///
/// ```no_run
/// # async fn f() -> connectors::Result<()> {
/// use connectors::{LMCacheEngineConfig, LocalCpuBackend};
/// let config = LMCacheEngineConfig::load()?;
/// let connector = connectors::builder("fs:///var/cache/kv")
///     .local_cpu_backend(LocalCpuBackend::from_config(&config))
///     .config(config)
///     .open()
///     .await?;
/// # Ok(())
/// # }
/// ```
pub fn builder(url: &str) -> ContextBuilder {
    connector_core::builder(url)
}
