//! `kvconn.resp` `RESPConnector`: chunks on a redis or valkey server, one plain value each, as LMCache's `resp://` keeps
//! them.
//!
//! **What it stores.** Under the key's text, the chunk's bytes and nothing else. Shape, dtype and format come from the
//! engine's metadata, the number of tokens from the value's length: a partial chunk is a shorter value. Without metadata a
//! chunk is BINARY. (LMCache stores full chunks only, under the same keys.)
//!
//! **How it connects.** `resp://[user[:password]@]host[:port][/database]`, where user and password are percent-encoded; or
//! `external://host:port/kvconn.resp/?connector_name=RESPConnector`. With `cluster=true` the hosts are nodes of a cluster.
//! Opening the store makes one connection; calls make the others. The next call replaces a connection that broke, also after
//! the server restarted.
//!
//! **Options.** [`RespOptions`].
//!
//! **Limits.** 512 MiB a chunk, redis' own limit. A call that is dropped in the middle of a chunk closes its connection. `list`
//! uses SCAN, which looks at every key of the database. It gives each chunk once, so it remembers the keys that it gave. It
//! skips other names.

mod connector;
mod exchanges;
mod options;
mod settings;

pub use connector::RESPConnector;
pub use options::RespOptions;
pub use settings::PlainSettings;
