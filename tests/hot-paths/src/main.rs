//! Runs one hot path: `kvconn-hot-paths PATH ROUNDS [URL]`. `tests/counts` counts its instructions and system calls.
//!
//! All work is on one thread, so that the counts depend little on the scheduler.
#![forbid(unsafe_code)]

use std::hint::black_box;

use connectors::{CacheKey, ChunkHeader, ChunkLayout, Dtype, KeyKind, MemoryFormat, MemoryObj, MemoryObjMut};
use connectors::{Result, Shape, registry};

/// The chunks of a batch.
const BATCH: usize = 32;

fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(rounds)) = (args.next(), args.next().and_then(|rounds| rounds.parse::<usize>().ok())) else {
        panic!("usage: kvconn-hot-paths PATH ROUNDS [URL [LENGTH]]");
    };
    let Some(url) = args.next() else {
        return (0..rounds).for_each(|_| without_store(&path));
    };
    let len = args.next().map_or(4 << 10, |len| len.parse().expect("the length of a chunk"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    // On the runtime's thread, as in a program.
    let calls = async { tokio::spawn(of_store(url, path, rounds, len)).await.expect("no panic") };
    runtime.expect("a runtime starts").block_on(calls);
}

fn without_store(path: &str) {
    match path {
        "key" => {
            let key = CacheKey::parse(black_box("facebook/opt-125m@1@0@1f2e3d4c5b6a7988@bfloat16"), KeyKind::Engine);
            black_box(key.expect("a key").to_string());
        }
        "header" => {
            let shape = Shape::new(&[2, 32, 256, 1024]).expect("a shape");
            let layout = ChunkLayout::new(MemoryFormat::Kv2ltd, shape, Dtype::Bfloat16).expect("a layout");
            let header = ChunkHeader::new(black_box(&layout)).expect("a header");
            assert_eq!(ChunkHeader::read(black_box(header.as_bytes())).expect("a layout").len, layout.len);
        }
        "lookup" => {
            black_box(registry::find(black_box("kvconn.redis"), black_box("RedisConnector")).expect("an entry"));
        }
        other => panic!("no path `{other}` without a store"),
    }
}

async fn of_store(url: String, path: String, rounds: usize, len: usize) {
    let store = connectors::open(&url).await.unwrap_or_else(|e| panic!("the store opens: {e}"));
    let keys: Vec<CacheKey> = (0..BATCH).map(key).collect();
    let chunk = MemoryObj::from((0..len).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
    let items: Vec<_> = keys.iter().map(|key| (key.clone(), chunk.clone())).collect();
    let mut memory: Vec<_> = keys.iter().map(|key| (key.clone(), MemoryObjMut::zeroed(len))).collect();
    each(store.batched_put(&items).await, |()| true);
    for _ in 0..rounds {
        match path.as_str() {
            "get" => each([store.get(&keys[0]).await], |chunk| chunk.is_some_and(|chunk| chunk.len() == len)),
            "put" => each([store.put(&keys[0], chunk.clone()).await], |()| true),
            "get_into" => each([store.get_into(&keys[0], &mut memory[0].1).await], |n| n == Some(len)),
            "exists" => each([store.exists(&keys[0]).await], |there| there),
            "batched_get" => each(store.batched_get(&keys).await, |chunk| chunk.is_some()),
            "batched_put" => each(store.batched_put(&items).await, |()| true),
            "batched_get_into" => each(store.batched_get_into(&mut memory).await, |n| n == Some(len)),
            "batched_exists" => each(store.batched_exists(&keys).await, |there| there),
            other => panic!("no path `{other}` of a store"),
        }
    }
}

fn key(n: usize) -> CacheKey {
    CacheKey::parse(
        &format!("facebook/opt-125m@1@0@{:x}@bfloat16", 0x1f2e_3d4c_5b6a_0000_u64 + n as u64),
        KeyKind::Engine,
    )
    .expect("a key")
}

/// Checks each answer of a call.
#[track_caller]
fn each<T>(answers: impl IntoIterator<Item = Result<T>>, is_right: impl Fn(T) -> bool) {
    for answer in answers {
        assert!(is_right(answer.unwrap_or_else(|e| panic!("the call fails: {e}"))), "a wrong answer");
    }
}
