//! `kvconn.redis` `RedisConnector`: chunks on a redis or valkey server, two keys each, byte for byte as LMCache writes them.
//!
//! **What it stores.** Under the key's text and a suffix ([`layout`]), the chunk header, which keeps shape, dtype and
//! format, and the chunk's bytes. Both are written in one atomic step and read in one. (LMCache writes the bytes first and
//! the header in a second step: a reader that comes between two versions of one chunk reads once more, then calls it
//! `Corrupt`.) A chunk of which the server evicted one half is a miss. A header without its bytes is then removed, unless
//! somebody wrote them meanwhile; so are bytes without a header, once they have been seen so for longer than LMCache
//! takes between its two steps.
//!
//! **How it connects.** `redis://[user[:password]@]host[:port][/database]`, `unix:///path/to/socket`, where user, password
//! and path are percent-decoded; `plugin://redis`; or `external://host:port/kvconn.redis/?connector_name=RedisConnector`.
//! TCP without TLS, IPv4 or IPv6, or a unix socket. A first connection is made when the store is opened, the others when
//! they are needed. A connection that breaks is replaced by the next call.
//!
//! **Options.** [`RedisOptions`].
//!
//! **Limits.** 512 MiB a chunk, redis' own limit. A call that is dropped while a chunk is on its way closes that
//! connection. `list` asks the server by SCAN, which looks at every key of the database, and gives the chunks that have
//! both halves.

mod connector;
mod exchanges;
pub mod layout;
mod listing;
mod missing;
mod options;

pub use connector::RedisConnector;
pub use options::RedisOptions;
