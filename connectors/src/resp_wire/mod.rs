//! RESP, the protocol of redis and valkey: what `redis` and `resp` share. Chunks go straight from the socket into their
//! memory and back; everything is asked over a few connections that are replaced when they break.
//!
//! | file | what |
//! |---|---|
//! | [`reply`], `token`, `partial` | reads replies out of bytes; no socket |
//! | `request` | commands with payloads that are not copied |
//! | `stream`, `reactor` | sockets, and which runtime waits for them |
//! | `connection`, `handshake` | one connection, its timeouts and its first words |
//! | `pool` | the connections of one store |
//! | `exchange` | [`Exchange`]: one thing to ask, alone or many at once |
//! | `chunks` | what reads and writes chunks |
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
mod stream;
mod token;

pub(crate) use chunks::{Get, GetInto, Memory, Set};
pub(crate) use options::{Protocol, WireOptions, decoded};
pub(crate) use pool::Wire;
pub(crate) use reply::{Limits, Reply};
pub(crate) use stream::Address;
