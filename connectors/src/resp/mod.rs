//! `kvconn.resp` `RESPConnector`: chunks on a redis or valkey server, one plain value each, as LMCache's `resp://` keeps
//! them.
//!
//! **What it stores.** Under the key's text, the chunk's bytes and nothing else. Shape, dtype and format come from the
//! engine's metadata, the number of tokens from the value's length: a partial chunk is a shorter value. Without metadata a
//! chunk is BINARY. (LMCache stores full chunks only, under the same keys.)
//!
//! **How it connects.** `resp://[user[:password]@]host:port[/database]`, where user and password are percent-encoded; or
//! `external://host:port/kvconn.resp/?connector_name=RESPConnector`. TCP without TLS, IPv4 or IPv6. A first connection is
//! made when the store is opened, the others when they are needed. A connection that breaks is replaced by the next call;
//! a server that was started again is not noticed.
//!
//! **Options.** [`RespOptions`].
//!
//! **Limits.** 512 MiB a chunk, redis' own limit. A call that is dropped while a chunk is on its way closes that
//! connection. `list` asks the server by SCAN: it looks at every key of the database, gives each of ours once, and keeps
//! those it gave in memory. Other keys are left alone and not listed.

mod connector;
mod exchanges;
mod listing;
mod options;

pub use connector::RESPConnector;
pub use options::RespOptions;
