//! `resp://` on a real redis server.
#![forbid(unsafe_code)]

mod conformance;
mod server;
