//! Servers of object stores, for kvconn's tests: servers that others wrote, and an S3 server that fails on demand.
//!
//! | server | protocol | checks |
//! |---|---|---|
//! | [`S3sFs`] | S3 | signatures and checksums; a key's name must fit a file's name |
//! | [`Moto`] | S3 | no signatures; it has many of Amazon's error codes |
//! | [`Azurite`] | Azure Blob | signatures |
//! | [`FakeGcs`] | Google Cloud Storage, JSON | no credentials |
//! | [`TlsFront`] | TLS, before another server | nothing; [`Certificates`](kvconn_redis_server::Certificates) sign its certificate |
//! | [`Proxy`] | HTTP's `CONNECT` | a login |
//! | [`FakeS3`] | S3 | signatures, regions, clocks, checksums; it fails as a [`Fault`] says, and records requests |
//!
//! ```
//! use kvconn_cloud_servers::{FakeS3, Fault, Operation};
//!
//! let fake = FakeS3::start();
//! fake.bucket("chunks");
//! fake.next(Fault::slow_down().on([Operation::Get]));
//! assert!(fake.requests().is_empty());
//! ```
//!
//! `tests/servers/install` installs the servers of other projects. This crate panics instead of returning
//! errors, because a test without its server tests nothing.
#![forbid(unsafe_code)]

mod fake;
mod http;
mod proxy;
mod relay;
mod servers;
mod tls;

pub use fake::{Credentials, FakeS3, Fault, Object, Operation, Request, Then};
pub use http::request;
pub use proxy::Proxy;
pub use servers::{Azurite, FakeGcs, Moto, S3sFs, python_with_boto3};
pub use tls::TlsFront;
