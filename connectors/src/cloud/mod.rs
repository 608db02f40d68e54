//! The part that `s3`, `gcs` and `azure` share: one object a chunk, over an OpenDAL service.
//!
//! | file | its part |
//! |---|---|
//! | `store.rs` | an open bucket, and the way to its service |
//! | `bucket.rs` | the bucket and the prefix of a URL, and the URL of a server |
//! | `names.rs` | the name of a key's object, and the key of a name |
//! | `lookup.rs` | whether chunks exist, and removals |
//! | `listing.rs` | the chunks of the store |
//! | `read.rs`, `write.rs` | chunks |
//! | `checksum.rs` | a checksum of a chunk's bytes, beside its object |
//! | `entries.rs` | entries of metadata, which come with a GET |
//! | `task.rs` | work on the store's runtime that ends with its call |
//! | `transport.rs` | HTTP requests of OpenDAL: the store's connections, repeated and refused requests |
//! | `connection.rs` | one connection: a request and its response, and the time in which it moves nothing |
//! | `connect.rs` | new connections: addresses, TLS, proxies |
//! | `lend.rs` | a chunk as the body of a request, without a copy |
//! | `diagnose.rs` | the place and the rights of the store, for an operator |
//! | `settings.rs` | the options that all object stores share |
//! | `renew.rs` | the service, and a new one when its credentials have expired |
//! | `refusal.rs` | a server's refusal of a request: its status, code and message |
//! | `meaning.rs` | the meaning of each refusal: kind and hint |
//! | `errors.rs` | kvconn's errors for those of OpenDAL |

#[cfg_attr(not(any(feature = "azure", feature = "gcs")), allow(dead_code))]
mod bucket;
mod checksum;
mod connect;
mod connection;
mod diagnose;
mod entries;
mod errors;
mod lend;
mod listing;
mod lookup;
mod meaning;
mod names;
mod read;
mod refusal;
mod renew;
mod settings;
mod store;
mod task;
mod transport;
mod write;

pub(crate) use bucket::wrong_options;
#[cfg(any(feature = "azure", feature = "gcs"))]
pub(crate) use bucket::{Bucket, server_url};
#[cfg(feature = "s3")]
pub(crate) use bucket::{prefix, twice};
#[cfg(feature = "s3")]
pub(crate) use errors::NoCredentials;
pub(crate) use errors::{Place, Service};
pub(crate) use names::Names;
pub use settings::CloudSettings;
#[cfg(feature = "s3")]
pub(crate) use store::serve_roles;
pub(crate) use store::{Store, remote_connector};
