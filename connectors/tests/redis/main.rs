//! The redis store on real servers, beyond the contract of every store.
#![forbid(unsafe_code)]

mod cluster;
mod conformance;
mod halves;
mod layout;
mod listing;
mod lives;
mod namespace;
mod options;
mod servers;
#[path = "../threaded/mod.rs"]
mod threaded;
mod threads;

use connectors::{CacheKey, ChunkHeader, ChunkLayout, Connector, Dtype, MemoryFormat, MemoryObj, Shape};
use futures::StreamExt;
use kvconn_redis_server::{RedisServer, Reply};

fn key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().expect("a key")
}

fn object_key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@01000100@0@{n:08x}").parse().expect("a key")
}

/// A chunk with a shape: 96 bytes a token.
fn kv(tokens: usize, seed: usize) -> MemoryObj {
    let shape = Shape::new(&[2, 3, tokens, 8]).expect("a shape");
    let layout = ChunkLayout::new(MemoryFormat::Kv2ltd, shape, Dtype::Bfloat16).expect("a layout");
    let bytes = (0..layout.len).map(|i| ((i + 1) * (seed + 7) % 251) as u8).collect();
    MemoryObj::from_vec(bytes, layout).expect("it fits")
}

fn metadata(key: &CacheKey) -> String {
    format!("{key}metadata")
}

fn kv_bytes(key: &CacheKey) -> String {
    format!("{key}kv_bytes")
}

async fn open(url: &str) -> Connector {
    connectors::open(url).await.unwrap_or_else(|e| panic!("the store opens: {e}"))
}

async fn keys(connector: &Connector, prefix: &str) -> Vec<String> {
    let mut all: Vec<String> = connector.list(prefix).map(|k| k.expect("it lists").to_string()).collect().await;
    all.sort();
    all
}

/// A value as another client sees it.
fn raw(server: &RedisServer, name: &str) -> Option<Vec<u8>> {
    server.cli(&["GET", name]).bytes().map(<[u8]>::to_vec)
}

/// Writes a value as LMCache does.
fn set(server: &RedisServer, name: &str, value: &[u8]) {
    assert_eq!(server.cli(&[b"SET", name.as_bytes(), value]), Reply::Simple("OK".into()));
}

fn header(chunk: &MemoryObj) -> Vec<u8> {
    ChunkHeader::new(chunk.layout()).expect("a header").as_bytes().to_vec()
}

fn names(server: &RedisServer) -> Vec<String> {
    let Reply::Array(names) = server.cli(&["KEYS", "*"]) else { panic!("KEYS gives names") };
    let mut names: Vec<String> =
        names.iter().map(|name| String::from_utf8_lossy(name.bytes().expect("a name")).into_owned()).collect();
    names.sort();
    names
}
