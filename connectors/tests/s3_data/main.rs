//! How `s3` moves chunks: lent memory, parts, layouts, connections.
#![allow(unused_crate_dependencies, reason = "the dependencies belong to all tests of this package")]

mod connections;
mod layouts;
mod memory;
mod parts;
mod raw;
#[path = "../threaded/mod.rs"]
mod threaded;
mod threads;

use connectors::{CacheKey, Connector, KeyKind, MemoryObj};
use kvconn_cloud_servers::{Credentials, FakeS3};

const BUCKET: &str = "kvconn";
const MIB: usize = 1 << 20;

/// A server with an empty bucket.
fn server() -> FakeS3 {
    let fake = FakeS3::start();
    fake.bucket(BUCKET);
    fake
}

/// A store's URL at an endpoint, with further options: `&name=value`.
fn url_at(endpoint: &str, options: &str) -> String {
    let Credentials { access_key_id, secret_access_key, .. } = Credentials::example();
    format!(
        "s3://{BUCKET}?endpoint={endpoint}&region=us-east-1&access_key_id={access_key_id}&\
         secret_access_key={secret_access_key}{options}"
    )
}

async fn store_at(endpoint: &str, options: &str) -> Connector {
    connectors::open(&url_at(endpoint, options)).await.unwrap_or_else(|e| panic!("the store opens: {e}"))
}

async fn store(fake: &FakeS3, options: &str) -> Connector {
    store_at(&fake.endpoint(), options).await
}

fn key(n: u64) -> CacheKey {
    CacheKey::parse(&format!("m@1@0@{n:x}@half"), KeyKind::Engine).expect("a key")
}

/// Bytes that differ from their neighbours, and never are [`OVERWRITTEN`]. They repeat after a prime number of bytes, so
/// that no part of a chunk looks like another one.
fn bytes(len: usize, seed: usize) -> Vec<u8> {
    let pattern: Vec<u8> = (0..65_521).map(|i| ((i / 7 + seed * 31) % 200) as u8).collect();
    let mut bytes = pattern.repeat(len / pattern.len() + 1);
    bytes.truncate(len);
    bytes
}

/// The byte of overwritten memory.
const OVERWRITTEN: u8 = 0xee;

/// Writes into memory that only this handle has.
///
/// # Panics
/// If the store still has a handle.
#[track_caller]
fn overwrite(chunk: MemoryObj) {
    let mut memory = chunk.try_into_mut().expect("the store has given the memory back");
    memory.fill(OVERWRITTEN);
}

async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if done() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("this did not happen: {what}");
}
