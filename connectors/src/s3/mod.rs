//! `kvconn.s3` `S3Connector`: one object a chunk, in a bucket of S3 or of a server that speaks its protocol.

mod connector;
mod options;

pub use connector::S3Connector;
pub use options::S3Options;

pub use crate::cloud::CloudSettings;
