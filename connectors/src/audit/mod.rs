//! `kvconn.audit` `AuditConnector`: logs another store's calls, and checks that reads return the chunks that were
//! put.
//!
//! **What it stores.** Nothing: every call goes to the store behind. With `verify_checksum` it keeps the checksum of each
//! chunk that is put, in this process.
//!
//! **How it connects.** `audit://host:port` with the URL of the store behind in LMCache's configuration
//! (`audit_actual_remote_url`, there or in `extra_config`), or in the URL itself, percent-encoded:
//! `audit://?actual_remote_url=fs%3A%2F%2F%2Fkv`. Host and port mean nothing. Also `plugin://audit[.instance]` and
//! `external://localhost:0/kvconn.audit/?connector_name=AuditConnector&actual_remote_url=..`.
//!
//! **What it logs.** One `tracing` event for each call, target `kvconn::audit`. Its fields are `operation`,
//! `outcome`, `cost_ms`, and, if the call has them, `key`, `size` (bytes) and `checksum` (its first eight hex
//! digits). A batch is one event with `keys`, `hits`, `failed` and `size`. `outcome` is `SUCCESS`, `MISS` or
//! `DROPPED` (level info), `FAILED` with `error` (error), or `MISMATCH` with `expected` (error). `DROPPED` is a call
//! whose future was dropped before it ended.
//!
//! **What it verifies.** A chunk is hashed before it is put and after it was read. If another chunk was put, the read
//! fails with `Corrupt`, and the error holds both checksums. A read is not judged if the connector does not have the
//! key's checksum, or if the key changed during the read. If puts of one key overlap, each chunk is right. After a
//! put that failed or was dropped, the old chunk and the new one are right.
//!
//! **Options.** [`AuditOptions`].
//!
//! **Limits.** This connector does not see what another process puts: verify only where one process writes. It keeps about
//! 300 bytes for each of the `max_checksums` keys that were put last.

mod checksum;
mod connector;
mod known;
mod log;
mod options;

pub use connector::AuditConnector;
pub use options::{AuditOptions, ChecksumKind};
