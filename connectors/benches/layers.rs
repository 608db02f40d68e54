//! The cost of `audit` before `fs`: 4 MiB, in one directory.
//!
//! The two of a pair alternate in blocks, so that a drift of the machine affects both. The ratio is the median of the
//! blocks' ratios of throughput: 1.00 is as fast as without `audit`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, LocalCpuBackend, MemoryObj};
use criterion::{Criterion, criterion_group, criterion_main};
use futures::future::join_all;
use tokio::runtime::Runtime;

const CHUNK: usize = 4 << 20;
const BLOCKS: usize = 20;
const BLOCK: usize = 20;

/// The mean time of `BLOCK` runs.
fn block(work: &mut impl FnMut()) -> Duration {
    // These runs do not count: the caches hold the other side's data, and threads sleep.
    work();
    work();
    let start = Instant::now();
    (0..BLOCK).for_each(|_| work());
    start.elapsed() / BLOCK as u32
}

fn pair(name: &str, chunks: usize, mut plain: impl FnMut(), mut audited: impl FnMut()) {
    let mut all: Vec<(f64, Duration, Duration)> = (0..BLOCKS)
        .map(|_| {
            let (a, b) = (block(&mut plain), block(&mut audited));
            (a.as_secs_f64() / b.as_secs_f64(), a, b)
        })
        .collect();
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    let (ratio, a, b) = all[BLOCKS / 2];
    let speed = |time: Duration| (chunks * CHUNK) as f64 / time.as_secs_f64() / f64::from(1 << 30);
    println!("{name:<28} plain {:>6.2} GiB/s, audited {:>6.2} GiB/s, ratio {ratio:.2}", speed(a), speed(b));
}

fn audit(_: &mut Criterion) {
    // TMPDIR chooses the file system.
    let dir = tempfile::Builder::new().prefix("kvconn-bench-").tempdir().expect("a directory");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let backend = LocalCpuBackend::with_capacity(256 << 20);
    let fs = format!("fs://{}", dir.path().join("store").display());
    let open = |url: &str| {
        let _inside = runtime.enter();
        runtime.block_on(connectors::builder(url).local_cpu_backend(backend.clone()).open()).expect("a store")
    };
    let plain = open(&fs);
    let keys: Vec<CacheKey> =
        (0..4).map(|n| format!("facebook/opt-125m@1@0@{n:x}@half").parse().expect("a key")).collect();
    let chunk = MemoryObj::from((0..CHUNK).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>());
    let behind: String = fs.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for kind in ["blake3", "xxh3"] {
        let audited = open(&format!("audit://?actual_remote_url={behind}&verify_checksum=true&checksum={kind}"));
        for callers in [1, keys.len()] {
            let puts = |c: &Connector, rt: &Runtime| {
                let puts = keys[..callers].iter().map(|key| {
                    let (c, key, chunk) = (c.clone(), key.clone(), chunk.clone());
                    rt.spawn(async move { c.put(&key, chunk).await.expect("a put") })
                });
                black_box(rt.block_on(join_all(puts)));
            };
            let gets = |c: &Connector, rt: &Runtime| {
                let gets = keys[..callers].iter().map(|key| {
                    let (c, key) = (c.clone(), key.clone());
                    rt.spawn(async move { c.get(&key).await.expect("a get").map(|chunk| chunk.len()) })
                });
                black_box(rt.block_on(join_all(gets)));
            };
            puts(&audited, &runtime);
            pair(
                &format!("{kind}/put, {callers} at once"),
                callers,
                || puts(&plain, &runtime),
                || puts(&audited, &runtime),
            );
            pair(
                &format!("{kind}/get, {callers} at once"),
                callers,
                || gets(&plain, &runtime),
                || gets(&audited, &runtime),
            );
        }
    }
}

criterion_group!(benches, audit);
criterion_main!(benches);
