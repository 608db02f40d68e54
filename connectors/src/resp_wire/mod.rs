//! RESP, the protocol of redis and valkey: what `redis` and `resp` share. Chunks go straight from the socket into their
//! memory and back; everything is asked over a few connections that are replaced when they break.
//!
//! | file | what |
//! |---|---|
//! | [`reply`], `token`, `partial` | reads replies out of bytes; no socket |
//! | `request` | commands with payloads that are not copied |
//! | `transport`, `reactor` | a socket, and the runtime that waits for it |
//! | `connection`, `handshake` | one connection, its timeouts and its first words |
//! | `pool` | the connections of one store |
//! | `exchange` | [`Exchange`]: one thing to ask, alone or many at once |
//! | `chunks` | what reads and writes chunks |
//! | `scan` | names in the database |
//! | `errors` | what a server's errors mean |

mod chunks;
mod connection;
mod errors;
mod exchange;
mod handshake;
mod options;
mod partial;
mod pool;
mod reactor;
pub mod reply;
mod request;
mod scan;
mod token;
mod transport;

#[cfg(feature = "resp")]
pub(crate) use chunks::{Get, GetInto, Memory, Set};
#[cfg(feature = "redis")]
pub(crate) use chunks::{ok, read_payload, read_payload_into, said};
#[cfg(feature = "redis")]
pub(crate) use connection::Connection;
#[cfg(feature = "redis")]
pub(crate) use errors::server_error;
pub(crate) use errors::unexpected;
#[cfg(feature = "redis")]
pub(crate) use exchange::Exchange;
#[cfg(feature = "redis")]
pub(crate) use options::check_range;
pub(crate) use options::{MAX_VALUE, PORT, Settings, WireOptions, database_in, decoded, protocol_schema};
pub(crate) use pool::Wire;
#[cfg(feature = "redis")]
pub(crate) use reply::Head;
pub(crate) use reply::Reply;
#[cfg(feature = "redis")]
pub(crate) use request::{Arg, Request};
pub(crate) use scan::Scan;
pub(crate) use transport::Address;
