//! `resp://` against a running server: `cargo bench -p connectors --features resp --bench resp -- resp://host:port`.
//!
//! Prints GiB/s and the client's CPU seconds per GiB, for batches of chunks into existing memory and for eight
//! concurrent single calls. Also prints the keys per second of a batch of `exists`. Words after the URL choose
//! measurements (`"64 KiB" put`). The benchmark removes its keys at the end.

use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, MemoryObj, MemoryObjMut};

/// The time of each measurement.
const RUN: Duration = Duration::from_secs(2);
/// The bytes of all chunks in one batch.
const BATCH: usize = 128 << 20;

/// Repeats a round for the time of a measurement. A macro, because the compiler cannot prove that a closure's future is
/// `Send`.
macro_rules! measure {
    ($what:expr, $size:expr, $n:expr, $round:expr) => {
        if chosen($what, $size) {
            $round;
            let (begin, cpu_before) = (Instant::now(), cpu());
            let mut rounds = 0;
            while begin.elapsed() < RUN {
                $round;
                rounds += 1;
            }
            report($what, $size, rounds * $n * $size, begin.elapsed(), cpu() - cpu_before);
        }
    };
}

fn main() {
    // `cargo test` and `cargo bench` pass their own options.
    let Some(url) = std::env::args().skip(1).find(|arg| arg.contains("://")) else {
        println!("name a server: cargo bench -p connectors --features resp --bench resp -- resp://127.0.0.1:6379");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    // Runs on a thread of the runtime, as in a program.
    runtime.block_on(async { tokio::spawn(all(url)).await.expect("no panic") });
}

async fn all(url: String) {
    let store = connectors::open(&url).await.expect("the server is there");
    for size in [64 << 10, 1 << 20, 4 << 20] {
        chunks(&store, size).await;
    }
    if chosen("batched_exists", 0) {
        exists(&store).await;
    }
    store.close().await.expect("it closes");
}

async fn chunks(store: &Connector, size: usize) {
    let n = (BATCH / size).min(256);
    let keys: Vec<CacheKey> = (0..n).map(|i| key(size, i)).collect();
    let chunk = MemoryObj::from((0..size).map(|i| (i % 251) as u8).collect::<Vec<u8>>());
    let items: Vec<_> = keys.iter().map(|key| (key.clone(), MemoryObj::from(chunk.to_vec()))).collect();
    measure!("batched_put", size, n, {
        store.batched_put(&items).await.into_iter().for_each(|answer| answer.expect("it is stored"));
    });
    // The caller may not have chosen the measurement of `batched_put`.
    store.batched_put(&items).await.into_iter().for_each(|answer| answer.expect("it is stored"));
    let mut requests: Vec<_> = keys.iter().map(|key| (key.clone(), MemoryObjMut::from(vec![1; size]))).collect();
    measure!("batched_get_into", size, n, {
        let answers = store.batched_get_into(&mut requests).await;
        assert!(answers.into_iter().all(|n| n.expect("it is read") == Some(size)));
    });
    assert!(!chosen("batched_get_into", size) || requests.iter().all(|(_, memory)| memory[..] == chunk[..]));
    measure!("8 tasks, get_into", size, n, {
        let tasks: Vec<_> = (0..8)
            .map(|i| {
                let (store, mut part) = (store.clone(), requests.split_off(requests.len() - requests.len() / (8 - i)));
                tokio::spawn(async move {
                    for (key, memory) in &mut part {
                        store.get_into(key, memory).await.expect("it is read");
                    }
                    part
                })
            })
            .collect();
        for task in tasks {
            requests.extend(task.await.expect("no panic"));
        }
    });
    measure!("get", size, n, {
        for key in &keys {
            store.get(key).await.expect("it is read");
        }
    });
    store.batched_remove(&keys).await;
}

async fn exists(store: &Connector) {
    let keys: Vec<CacheKey> = (0..1000).map(|i| key(1, i)).collect();
    let (begin, cpu) = (Instant::now(), cpu());
    let mut keys_asked = 0;
    while begin.elapsed() < RUN {
        store.batched_exists(&keys).await.into_iter().for_each(|answer| assert!(!answer.expect("an answer")));
        keys_asked += keys.len();
    }
    let per_second = keys_asked as f64 / begin.elapsed().as_secs_f64();
    println!(
        "batched_exists of 1000: {per_second:.0}/s, {:.2} CPU s per million",
        (self::cpu() - cpu) / keys_asked as f64 * 1e6
    );
}

/// Whether the measurement's name contains every word after the URL.
fn chosen(what: &str, size: usize) -> bool {
    let name = format!("{} KiB {what}", size >> 10);
    std::env::args()
        .skip_while(|arg| !arg.contains("://"))
        .skip(1)
        .filter(|arg| arg != "--bench")
        .all(|word| name.contains(&word))
}

fn report(what: &str, size: usize, bytes: usize, took: Duration, cpu: f64) {
    let gib = bytes as f64 / (1u64 << 30) as f64;
    let speed = gib / took.as_secs_f64();
    println!("{:>5} KiB {what:<17} {speed:6.2} GiB/s {:6.3} CPU s/GiB", size >> 10, cpu / gib);
}

/// CPU seconds of this process so far.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    // The fields after the process's name, which may contain spaces.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap_or(0.0) + fields[12].parse::<f64>().unwrap_or(0.0)) / 100.0
}

fn key(size: usize, i: usize) -> CacheKey {
    format!("bench/model@1@0@{:x}@half", size * 100_000 + i).parse().expect("a key")
}
