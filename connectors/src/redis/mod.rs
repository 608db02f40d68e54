//! `kvconn.redis` `RedisConnector`: chunks on a redis or valkey server, two keys each, byte for byte as LMCache writes them.
//!
//! **What it stores.** Under the key's text and a suffix ([`layout`]): the chunk header, which keeps shape, dtype and
//! format, and the chunk's bytes. One atomic step writes both, and one reads both. LMCache writes the bytes first and
//! the header in a second step. A reader that sees halves of two versions reads once more, and then fails with
//! `Corrupt`.
//!
//! A chunk with one half is a miss, because the server evicted the other. The store then removes a header without its
//! bytes, unless a writer restored the bytes meanwhile. It removes bytes without a header after a grace period,
//! because LMCache writes the header last.
//!
//! **How it connects.** `redis://[user[:password]@]host[:port][/database]`, `unix:///path/to/socket`, where user, password
//! and path are percent-decoded; `plugin://redis`; or `external://host:port/kvconn.redis/?connector_name=RedisConnector`.
//! TCP without TLS, IPv4 or IPv6, or a unix socket. Opening the store makes one connection; calls make the others. The next
//! call replaces a connection that broke.
//!
//! **Options.** [`RedisOptions`].
//!
//! **Limits.** 512 MiB a chunk, redis' own limit. A call that is dropped in the middle of a chunk closes its
//! connection. `list` uses SCAN, which looks at every key of the database, and gives the chunks with both halves. In a
//! cluster the two values lie on two nodes, so atomicity is per value; `kvconn.resp` has one value a chunk.

mod apart;
mod connector;
mod exchanges;
pub mod layout;
mod listing;
mod missing;
mod options;
mod sentinels;

pub use connector::RedisConnector;
pub use options::RedisOptions;
pub use sentinels::SentinelSettings;
