//! Stores on a redis server that speaks TLS.
#![forbid(unsafe_code)]

#[path = "../checked/mod.rs"]
mod checked;
mod conformance;
mod files;
mod handshake;
mod transfers;
