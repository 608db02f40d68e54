//! `kvconn.valkey` `ValkeyConnector`: chunks on a valkey or redis server, one plain value each, as LMCache's `valkey://` and
//! its `valkey` adapter keep them.
//!
//! **What it stores.** The names and the values of [`kvconn.resp`](crate::resp). With `key_prefix=NAME`, `NAME@` stands
//! before each name, as in LMCache's adapter.
//!
//! **How it connects.** `valkey://[user[:password]@]host[:port][/database]`, where user and password are percent-encoded; or
//! `external://host:port/kvconn.valkey/?connector_name=ValkeyConnector`. With `cluster=true` the hosts are nodes of a cluster.
//!
//! **Options.** [`ValkeyOptions`]: those of `resp://`, and LMCache's names for some of them.
//!
//! **Limits.** Those of [`kvconn.resp`](crate::resp).

mod connector;
mod options;

pub use connector::ValkeyConnector;
pub use options::{Mode, ValkeyOptions};
