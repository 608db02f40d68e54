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
//! A call of [`open`] or [`builder`] links every store whose feature is on. A program links a connector of another crate when
//! it names that crate: `use acme_kv as _;`. This crate re-exports all of `connector-core`, so a program needs no other
//! dependency.
//!
//! # Features
//!
//! Each store is a feature. [`stores`] has their URLs.
//!
//! | bundle | features |
//! |---|---|
//! | `local` (default) | `fs` and `memory` on this machine; `tiered`, `audit` and `faulty` around another store; `mock` and `blackhole` for measurements |
//! | `remote` | `redis`, `resp` and `valkey`, on a redis or valkey server |
//! | `cloud` | the object stores `s3`, `gcs` and `azure` |
//! | `full` | every store |
//!
//! `conformance` (off by default) adds the module `conformance`: the contract of every connector as checks.
//!
//! Rust 1.95 or newer, on Linux. macOS is not tested.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]
// rustc links no crate that the code does not name, so an unused dependency is an error. Tests have more dependencies.
#![cfg_attr(not(test), deny(unused_crate_dependencies))]

/// Declares each store's module. Without a store's feature, adds a hint: a failed lookup then names the feature to enable.
macro_rules! stores {
    ($($store:ident $feature:literal: $name:literal [$($scheme:literal),*] $urls:literal, $about:literal;)*) => {
        $(
            #[cfg(feature = $feature)]
            pub mod $store;

            #[cfg(not(feature = $feature))]
            const _: () = {
                connector_core::__private::element! {
                    HINTS: ConnectorHint = connector_core::__private::ConnectorHint {
                        module: concat!("kvconn.", $feature),
                        name: $name,
                        schemes: &[$($scheme),*],
                        package: "connectors",
                        feature: $feature,
                    }
                }
            };
        )*

        /// All stores of this crate, the features that they need, and their URLs.
        ///
        /// | feature | connector | URLs | store |
        /// |---|---|---|---|
        $(#[doc = concat!("| `", $feature, "` | [`kvconn.", $feature, "`](crate::", $feature, ") `", $name, "` | ", $urls, " | ", $about, " |")])*
        pub mod stores {}
    };
}

stores! {
    audit "audit": "AuditConnector" ["audit"] "`audit://?actual_remote_url=URL`", "logs another store's calls and checks its chunks";
    azure "azure": "AzureConnector" ["azure"] "`azure://container/prefix`", "one blob a chunk, in Azure Blob Storage";
    blackhole "blackhole": "BlackholeConnector" ["blackhole"] "`blackhole://`", "accepts every chunk and keeps none";
    faulty "faulty": "FaultyConnector" ["faulty"] "`faulty://?back=URL`", "another store with latency, errors and misses, for tests";
    fs "fs": "FSConnector" ["fs"] "`fs:///path`, `fs://host:port/path[,path..]`", "one file a chunk, in LMCache's layout";
    gcs "gcs": "GCSConnector" ["gs", "gcs"] "`gs://bucket/prefix`", "one object a chunk, in Google Cloud Storage";
    memory "memory": "MemoryConnector" ["memory"] "`memory://name`", "chunks in this process's memory";
    mock "mock": "MockConnector" ["mock"] "`mock://GB`", "memory with the latency and throughput that you set";
    redis "redis": "RedisConnector" ["redis", "rediss", "redis-cluster", "rediss-cluster", "redis-sentinel", "rediss-sentinel", "unix"] "`redis://host:port/database`, `rediss://..` with TLS, `redis-sentinel://host:port,host:port/service`, `redis-cluster://host:port,host:port`, `unix:///path`", "header and bytes of a chunk on a redis or valkey server";
    resp "resp": "RESPConnector" ["resp", "resps"] "`resp://host:port/database`, `resps://..` with TLS, `resp://host:port,host:port?cluster=true`", "plain values on a redis or valkey server";
    s3 "s3": "S3Connector" ["s3"] "`s3://bucket/prefix`", "one object a chunk, in S3 or a server that speaks its protocol";
    tiered "tiered": "TieredConnector" ["tiered"] "`tiered://?front=URL&back=URL`", "a small, near store in front of another";
    valkey "valkey": "ValkeyConnector" ["valkey", "valkeys"] "`valkey://host:port/database`, `valkeys://..` with TLS, `valkey://host:port,host:port?cluster=true`", "the plain values of `resp`, with LMCache's options for valkey";
}

#[cfg(feature = "__cloud")]
mod cloud;
#[cfg(any(feature = "memory", feature = "mock", feature = "tiered"))]
mod copies;
#[cfg(any(feature = "memory", feature = "mock"))]
mod lru_chunks;
#[cfg(any(feature = "__cloud", feature = "redis", feature = "resp"))]
mod places;
#[cfg(any(feature = "redis", feature = "resp"))]
mod resp_wire;
#[cfg(any(feature = "redis", feature = "resp", feature = "tiered"))]
mod seen;
#[cfg(any(feature = "__cloud", feature = "redis", feature = "resp"))]
mod tls;

pub use connector_core::*;

/// The parsers that the fuzzer drives.
#[cfg(feature = "__fuzz")]
#[doc(hidden)]
pub mod __fuzz {
    pub use crate::resp_wire::reply;
}

/// Opens the store that `url` names, with LMCache's defaults for everything else.
///
/// # Errors
/// `NotFound` if no linked connector serves the URL, with the nearest name, or the feature that this build lacks. `InvalidUrl`
/// and `InvalidOption` for a URL that cannot be read. Otherwise the store's own error.
pub async fn open(url: &str) -> Result<Connector> {
    builder(url).open().await
}

/// A builder for `url`. It sets memory, configuration, metadata, layers, plugin name or tokio handle, and opens the store.
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

/// The program in the README compiles and runs.
#[cfg(all(doctest, feature = "memory"))]
#[doc = include_str!("../README.md")]
mod readme {}
