//! RESP, the protocol of redis and valkey, for the stores `redis`, `resp` and `valkey`. Chunks go straight between the socket and
//! their memory.
//!
//! | file | content |
//! |---|---|
//! | `exchange` | [`Exchange`]: a request and its answer; [`Wire`], which runs one or many |
//! | `batch` | many exchanges at once, over several connections of each server |
//! | `topology` | the servers of a store, and the server of each name |
//! | `sentinel` | the master that sentinels name, and its replicas |
//! | `cluster` | the nodes of a cluster, and the shard of each slot |
//! | `cluster/refresh` | fetches the slots |
//! | `slots` | the slot of a name; the answer of `CLUSTER SLOTS` |
//! | `address_map` | the real addresses of nodes that announce others |
//! | `server` | one server, and its pools of connections |
//! | `server/ahead` | opens connections ahead of the calls that use them |
//! | `connection` | one connection: requests, replies, chunks, timeouts |
//! | `memory` | reads a payload into a chunk's memory |
//! | `reach` | whether the server can be reached; one attempt to connect at a time while it cannot |
//! | `task` | tasks in the background: their panics and their end |
//! | `connect` | opens a connection and authenticates |
//! | `transport` | the socket, and TLS over it |
//! | `session` | a TLS session |
//! | `tls` | the options and the files of TLS |
//! | `name` | the names of a chunk's values |
//! | `remove` | removes values |
//! | `meters` | the counters of each server |
//! | `describe` | what each server says about itself |
//! | `diagnose` | the settings and the state of each server that an operator should know |
//! | `request` | commands in the bytes of the wire |
//! | [`reply`], `line` | replies from the bytes of the wire |
//! | `scan` | the keys in the database |
//! | `errors` | the meaning of a server's errors |
//! | `options`, `ttl` | the options that the stores share |
//! | `hosts` | the servers that a URL names |

mod address_map;
mod batch;
mod cluster;
mod connect;
mod connection;
mod describe;
mod diagnose;
mod errors;
mod exchange;
mod hosts;
mod line;
mod memory;
mod meters;
mod name;
mod options;
mod reach;
mod remove;
#[cfg_attr(not(feature = "__fuzz"), expect(unreachable_pub, reason = "only the feature `__fuzz` exports it"))]
pub mod reply;
mod request;
pub(crate) mod scan;
mod sentinel;
mod server;
mod session;
mod slots;
mod task;
mod tls;
mod topology;
mod transport;
mod ttl;

pub(crate) use connection::Connection;
pub(crate) use errors::{expect_int, expect_word, server_error};
#[cfg(feature = "redis")]
pub(crate) use errors::{refusal, unexpected};
#[cfg(feature = "redis")]
pub(crate) use exchange::of_valid;
pub(crate) use exchange::{Exchange, Wire};
#[cfg(feature = "redis")]
pub(crate) use hosts::all_addresses;
pub(crate) use memory::Destination;
pub(crate) use name::Name;
#[cfg(feature = "redis")]
pub(crate) use options::{PORT, Sentinels, Servers, cluster_of};
pub(crate) use options::{WireOptions, WireSettings, database_in};
pub(crate) use remove::Remover;
#[cfg(feature = "redis")]
pub(crate) use remove::Suffixes;
pub(crate) use reply::{Reply, ReplyStart};
pub(crate) use request::{Arg, Request};
#[cfg(feature = "redis")]
pub(crate) use tls::plain_scheme;
#[cfg(feature = "redis")]
pub(crate) use transport::Address;
pub(crate) use ttl::TtlSettings;
