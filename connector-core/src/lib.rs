//! The traits of a remote KV-cache connector, and the registry that opens one by URL.
//!
//! A server for large language models keeps the attention keys and values of text it has seen. LMCache cuts them into
//! chunks, names each chunk by a hash of the tokens before it, and stores it through a *remote connector*. It loads the
//! connector by URL at run time: `external://host:port/module_path/?connector_name=ConnectorName`. This crate is that
//! system for connectors that are compiled in.
//!
//! # An author writes a connector
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::Mutex;
//!
//! use connector_core::{CacheKey, ConnectorContext, FromContext, MemoryObj, RemoteConnector, Result, external_connector};
//!
//! /// Keeps chunks in a map.
//! #[external_connector(module = "acme.kv", name = "AcmeConnector", scheme = "acme")]
//! pub struct AcmeConnector {
//!     chunks: Mutex<HashMap<CacheKey, MemoryObj>>,
//! }
//!
//! impl FromContext for AcmeConnector {
//!     async fn from_context(_ctx: ConnectorContext) -> Result<Self> {
//!         Ok(Self { chunks: Mutex::default() })
//!     }
//! }
//!
//! impl RemoteConnector for AcmeConnector {
//!     async fn exists(&self, key: &CacheKey) -> Result<bool> {
//!         Ok(self.chunks.lock().unwrap().contains_key(key))
//!     }
//!
//!     async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
//!         Ok(self.chunks.lock().unwrap().get(key).cloned())
//!     }
//!
//!     async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
//!         // The chunk may be a view of another pool, so a store in memory keeps a copy.
//!         let copy = MemoryObj::from_vec(chunk.to_vec(), chunk.layout().clone())?;
//!         self.chunks.lock().unwrap().insert(key.clone(), copy);
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! // A program that links the crate opens the connector by URL.
//! let connector =
//!     connector_core::open("external://localhost:0/acme.kv/?connector_name=AcmeConnector").await?;
//! let key: CacheKey = "meta-llama/Llama-3.1-8B@1@0@1f2e3d@bfloat16".parse()?;
//! connector.put(&key, MemoryObj::from(b"hello".to_vec())).await?;
//! assert_eq!(connector.get(&key).await?.as_deref(), Some(&b"hello"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! # Where things are
//! - [`connector`]: [`RemoteConnector`], which authors implement, and [`Connector`], which callers hold.
//! - [`key`]: the names of chunks. [`chunk`]: their bytes and memory. [`LocalCpuBackend`]: where that memory comes from.
//! - [`open`] and [`builder`]: from a URL to a connector. [`registry`]: the connectors that are linked into this binary.
//! - [`ConnectorAdapter`]: a scheme that chooses between connectors, or wraps one.
//! - [`layer`]: timeouts, retries, limits. [`observe`]: the spans and metrics of every connector.
//! - [`ConnectorContext`]: everything a connector is made from. [`Location`]: its place. [`options`]: its own options. [`LMCacheEngineConfig`] and
//!   [`LMCacheMetadata`]: LMCache's configuration and the engine's description of its cache.
//! - [`Error`]: the one error type.
//! - `conformance` (feature `conformance`): the contract as checks, to run against a connector.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | `conformance` | the module `conformance` and the macro `conformance_tests!` |
//!
//! Rust 1.95 or newer, on Linux. macOS is not tested.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

#[cfg(not(unix))]
compile_error!("kvconn needs a Unix system: it uses file descriptors and handles `fork`");

mod adapter;
mod allocator;
mod builder;
pub mod chunk;
mod config;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod connector;
mod context;
mod error;
pub mod key;
pub mod layer;
mod metadata;
mod namespace;
pub mod observe;
pub mod options;
pub mod registry;
#[doc(hidden)]
pub mod runtime;
mod url;

pub use adapter::ConnectorAdapter;
pub use allocator::{ChunkAllocator, LocalCpuBackend, PoolAllocator, PoolStats};
#[doc(hidden)]
pub use builder::open as create_connector;
pub use builder::{ContextBuilder, builder, open};
pub use chunk::{ChunkHeader, ChunkLayout, Dtype, Group, MemoryFormat, MemoryObj, MemoryObjMut, Region, Shape};
pub use config::LMCacheEngineConfig;
pub use connector::{
    BlockingConnector, Capabilities, Connector, Diagnosis, FromContext, ListEntry, ListPage, RemoteConnector,
    ServerInfo, Verdict,
};
pub use connector_macros::{connector_adapter, connector_options, external_connector};
pub use context::{Connect, ConnectorContext, Location};
pub use error::{Audience, Error, ErrorKind, ErrorStatus, Hint, Result};
pub use key::{CacheEngineKey, CacheKey, KeyKind, LayerCacheEngineKey, ObjectKey};
pub use metadata::{LMCacheMetadata, LayerGroup, RawLayout, raw_layout};
pub use namespace::Namespace;
pub use options::ConnectorOptions;
pub use url::{HostPort, RemoteUrl, redact};

/// The items that the attributes' code names.
#[doc(hidden)]
pub mod __private {
    pub use crate::observe::MetricList;
    pub use crate::registry::{
        ADAPTERS, AdapterEntry, CONNECTORS, ConnectorEntry, ConnectorHint, HINTS, Index, METRIC_LISTS, Origin,
    };
    pub use linkme;

    /// Adds one element to one of the lists. With a macro, a wrong `crate = path` is one error: the compiler reads the
    /// attributes inside only after it has found the path.
    #[doc(hidden)]
    #[macro_export]
    macro_rules! __kvconn_element {
        ($list:ident: $ty:ident = $entry:expr) => {
            #[$crate::__private::linkme::distributed_slice($crate::__private::$list)]
            #[linkme(crate = $crate::__private::linkme)]
            static ELEMENT: $crate::__private::$ty = $entry;
        };
    }
    pub use __kvconn_element as element;
}

/// The type of [`RemoteConnector::list`] and [`RemoteConnector::list_entries`].
pub use futures::stream::BoxStream;
/// The versions that this crate's interface uses: an author needs no direct dependency on these crates.
///
/// - [`futures`]: streams for `list` (`futures::stream::iter`), and `join_all`.
/// - [`tokio`]: timers, locks, channels, tasks, blocking threads and `select!`. Its other features, such as `net`, are on if your
///   own dependency turns them on. After `use connector_core::tokio;`, `#[tokio::test]` works.
/// - [`tracing`] for log lines, [`metrics`] for counters of your own.
/// - [`serde`], [`schemars`] and [`serde_json`] for options. `#[connector_options]` needs none of them in your code.
pub use {futures, metrics, schemars, serde, serde_json, tokio, tracing};

/// The program in the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
