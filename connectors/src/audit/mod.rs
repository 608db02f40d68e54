//! `kvconn.audit` `AuditConnector`: logs what another store does, and checks that it gives back what was put.
//!
//! **What it stores.** Nothing of its own: every call goes to the store behind. Of each chunk that is put it remembers the
//! checksum, in this process, if it is told to verify.
//!
//! **How it connects.** `audit://host:port` with the URL of the store behind in LMCache's configuration
//! (`audit_actual_remote_url`, there or in `extra_config`), or in the URL itself, percent-encoded:
//! `audit://?actual_remote_url=fs%3A%2F%2F%2Fkv`. Host and port mean nothing. Also `plugin://audit[.instance]` and
//! `external://localhost:0/kvconn.audit/?connector_name=AuditConnector&actual_remote_url=..`.
//!
//! **What it logs.** One `tracing` event for each call, target `kvconn::audit`, with the fields `operation`, `outcome`,
//! `cost_ms`, and `key`, `size` (bytes), `checksum` (its first eight hex digits) where there are any; a batch is one event
//! with `keys`, `hits`, `failed` and `size`. `outcome` is `SUCCESS`, `MISS` or `DROPPED` (level info), `FAILED` with
//! `error` (error), or `MISMATCH` with `expected` (error). `DROPPED` is a call whose future was dropped before it ended.
//!
//! **What it verifies.** A chunk that is read is hashed, and one that was never put is the error `Corrupt`, which names both
//! checksums. Nothing is verified that cannot be known: a key that was not put through this connector, or whose checksum
//! was forgotten; a chunk that is put, read and put again at once is right if it is any of these. After a put that failed or
//! was dropped, the old chunk and the new one are both right, because nobody knows which is left.
//!
//! Where the store behind reads in pieces (`fs` does), BLAKE3 hashes them as they arrive, on the threads that read them;
//! elsewhere, and XXH3 everywhere, the chunk when it has been read.
//!
//! **Options.** [`AuditOptions`].
//!
//! **Limits.** What another process puts cannot be known: verify only where one process writes. The memory for checksums is
//! bounded (about 300 bytes each); the key that was put longest ago goes first.

mod checksum;
mod connector;
mod log;
mod options;
mod registry;
mod seen;

pub use connector::AuditConnector;
pub use options::{AuditOptions, ChecksumKind};
