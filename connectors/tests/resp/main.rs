//! `resp://` on a real redis server.
#![forbid(unsafe_code)]

mod conformance;
mod connecting;
mod connections;
mod greeting;
mod runtimes;
mod values;

/// The text of a key, by number.
fn key(n: usize) -> connectors::CacheKey {
    format!("org/model@1@0@{n:x}@bfloat16").parse().expect("a key")
}
