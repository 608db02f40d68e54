//! Real redis servers and a network that fails on demand, for kvconn's tests.
//!
//! ```
//! use kvconn_redis_server::{RedisServer, Reply};
//!
//! let server = RedisServer::start(&["--maxmemory", "64mb"]);
//! assert_eq!(server.cli(&["SET", "key", "value"]), Reply::Simple("OK".into()));
//! assert_eq!(server.url("redis"), format!("redis://127.0.0.1:{}", server.port()));
//! ```
//!
//! This crate panics instead of returning errors, because a test without its server tests nothing.
#![forbid(unsafe_code)]

mod certificates;
mod client;
mod cluster;
pub mod fake;
mod launch;
pub mod process;
pub mod proxy;
mod sentinel;
mod server;

pub use certificates::{Certificate, Certificates};
pub use client::{Client, Reply};
pub use cluster::RedisCluster;
pub use launch::{Launch, Program};
pub use proxy::{Corruption, Fault, Proxy};
pub use sentinel::SentinelGroup;
pub use server::RedisServer;
