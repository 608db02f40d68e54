//! `resp://` on a real redis server.
#![forbid(unsafe_code)]

mod conformance;
mod connecting;
mod fake;
mod runtimes;
mod server;
mod values;
