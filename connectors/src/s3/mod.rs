//! `kvconn.s3` `S3Connector`: one object a chunk, in a bucket of S3 or of a server that speaks its protocol.
//!
//! **What it stores.** One object a chunk: the chunk's bytes. Its name is the prefix and the key's text, as LMCache's
//! connector (`/` as `_`) and LMCache's server write it. With `save_chunk_meta`, the object's metadata has the chunk's
//! layout.
//!
//! **How it connects.** [`S3Options`] has the server, the region and the credentials. URLs: `s3://bucket/prefix`,
//! `s3://bucket.s3.region.amazonaws.com/prefix`, `s3://bucket.host:port/prefix`; `plugin://s3`; or
//! `external://host:port/kvconn.s3/?connector_name=S3Connector&bucket=bucket`.
//!
//! **Options.** [`S3Options`].
//!
//! **Limits.** 1024 bytes of prefix and name. An HTTP client would change some names: those with a leading `/`, an outer
//! space, an empty part, or `.` or `..` as a part. kvconn percent-encodes them, and LMCache does not find these objects.

mod address;
mod connector;
mod credentials;
mod options;
#[cfg(test)]
mod tests;

pub use connector::S3Connector;
pub use options::{S3Options, Style};

pub use crate::cloud::CloudSettings;
