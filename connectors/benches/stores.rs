//! `registry/open_memory`: parse a URL, look the connector up, make it.
//!
//! `fs/get_4MiB` beside `std/read_exact_4MiB`, and `fs/put_4MiB` beside `std/write_rename_4MiB`: the same file in the page
//! cache, opened and read whole into memory that is reused; a file written under one name and renamed to another. The two of
//! a pair run in turn within each sample, so that a machine that drifts drifts for both; the last line of a pair is the
//! ratio of their medians. Budgets: get 1.05, put 1.10.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use connectors::{CacheKey, LocalCpuBackend, MemoryObj};
use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const CHUNK: usize = 4 << 20;

fn open(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let url = "external://bench:0/kvconn.memory/?connector_name=MemoryConnector";
    c.bench_function("registry/open_memory", |b| {
        b.iter(|| runtime.block_on(connectors::open(black_box(url))).map(|c| c.is_closed()));
    });
}

/// The medians of two pieces of work that run in turn, and the median of their ratios.
fn pair(names: [&str; 2], rounds: usize, mut ours: impl FnMut(), mut theirs: impl FnMut()) {
    fn time(work: &mut impl FnMut()) -> Duration {
        let start = Instant::now();
        work();
        start.elapsed()
    }
    for _ in 0..rounds / 10 {
        ours();
        theirs();
    }
    let mut samples: Vec<(Duration, Duration)> = (0..rounds)
        .map(|i| {
            // Who goes first changes, so that neither always finds the cache as the other left it.
            if i % 2 == 0 {
                let a = time(&mut ours);
                (a, time(&mut theirs))
            } else {
                let b = time(&mut theirs);
                (time(&mut ours), b)
            }
        })
        .collect();
    let mut ratios: Vec<f64> = samples.iter().map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    samples.sort();
    let ours = samples[rounds / 2].0;
    let mut theirs: Vec<Duration> = samples.iter().map(|(_, b)| *b).collect();
    theirs.sort();
    let gib = |d: Duration| CHUNK as f64 / d.as_secs_f64() / f64::from(1 << 30);
    let theirs = theirs[rounds / 2];
    println!("{:<26} median {ours:>10.1?}  {:.2} GiB/s", names[0], gib(ours));
    println!("{:<26} median {theirs:>10.1?}  {:.2} GiB/s", names[1], gib(theirs));
    println!(
        "{:<26} medians {:.3}, median of the pairs {:.3}\n",
        "ratio",
        ours.as_secs_f64() / theirs.as_secs_f64(),
        ratios[rounds / 2]
    );
}

fn fs(_: &mut Criterion) {
    // On a tmpfs where there is one: the disk below is not what is compared.
    let base = ["/dev/shm", "/tmp"].into_iter().find(|d| std::path::Path::new(d).is_dir()).unwrap_or(".");
    let dir = tempfile::Builder::new().prefix("kvconn-bench-").tempdir_in(base).expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let backend = LocalCpuBackend::with_capacity(64 << 20);
    let url = format!("fs://{}", path("store").display());
    let connector = {
        let _inside = runtime.enter();
        runtime.block_on(connectors::builder(&url).local_cpu_backend(backend).open()).expect("a store")
    };
    let key: CacheKey = "facebook/opt-125m@1@0@1f2e3d@half".parse().expect("a key");
    let bytes: Vec<u8> = (0..CHUNK).map(|i| (i * 31 % 251) as u8).collect();
    let chunk = MemoryObj::from(bytes.clone());
    runtime.block_on(connector.put(&key, chunk.clone())).expect("a put");

    let plain = path("plain");
    std::fs::write(&plain, &bytes).expect("a file");
    let mut buffer = vec![0; CHUNK];
    pair(
        ["fs/get_4MiB", "std/read_exact_4MiB"],
        2000,
        || {
            black_box(runtime.block_on(connector.get(&key)).expect("a get").map(|c| c.len()));
        },
        || {
            File::open(&plain).and_then(|mut f| f.read_exact(&mut buffer)).expect("a read");
            black_box(&buffer);
        },
    );
    let mut memory = connectors::MemoryObjMut::zeroed(CHUNK);
    pair(
        ["fs/get_into_4MiB", "std/read_exact_4MiB"],
        2000,
        || {
            black_box(runtime.block_on(connector.get_into(&key, &mut memory)).expect("a get_into"));
        },
        || {
            File::open(&plain).and_then(|mut f| f.read_exact(&mut buffer)).expect("a read");
            black_box(&buffer);
        },
    );
    let (tmp, done) = (path("tmp"), path("done"));
    pair(
        ["fs/put_4MiB", "std/write_rename_4MiB"],
        1000,
        || runtime.block_on(connector.put(&key, chunk.clone())).expect("a put"),
        || {
            File::create(&tmp).and_then(|mut f| f.write_all(&bytes)).expect("a write");
            std::fs::rename(&tmp, &done).expect("a rename");
        },
    );
}

criterion_group!(benches, open, fs);
criterion_main!(benches);
