//! `registry/open_memory`: parse a URL, look up the connector and make it.
//!
//! `fs/get_4MiB` and `std/read_exact_4MiB` read the same file from the page cache into reused memory. `fs/put_4MiB` and
//! `std/write_rename_4MiB` write a file and rename it. The two of a pair alternate in blocks, so that a drift of the
//! machine affects both. The last line of a pair is the median of the blocks' ratios. Budgets: get 1.05, put 1.10.
//!
//! `fs_options`: the cost or gain of O_DIRECT and of a capacity, paired with a store without it.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use connectors::{CacheKey, LocalCpuBackend, MemoryObj};
use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const CHUNK: usize = 4 << 20;
const BLOCKS: usize = 40;

fn open(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let url = "external://bench:0/kvconn.memory/?connector_name=MemoryConnector";
    c.bench_function("registry/open_memory", |b| {
        b.iter(|| runtime.block_on(connectors::open(black_box(url))).map(|c| c.is_closed()));
    });
}

/// The number of runs in a block, and how many of them do not count: the caches hold the other side's data, and
/// threads sleep.
const BLOCK: usize = 50;
const WARM_UP: usize = 10;

/// Measures two pieces of work in alternating blocks, and prints their medians and ratio.
fn pair(names: [&str; 2], bytes: usize, blocks: usize, mut ours: impl FnMut(), mut theirs: impl FnMut()) {
    fn block(work: &mut impl FnMut()) -> Vec<Duration> {
        let mut times: Vec<Duration> = (0..BLOCK)
            .map(|_| {
                let start = Instant::now();
                work();
                start.elapsed()
            })
            .skip(WARM_UP)
            .collect();
        times.sort();
        times
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (mut all_ours, mut all_theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..blocks {
        let (a, b) = (block(&mut ours), block(&mut theirs));
        ratios.push(a[a.len() / 2].as_secs_f64() / b[b.len() / 2].as_secs_f64());
        all_ours.extend(a);
        all_theirs.extend(b);
    }
    ratios.sort_by(f64::total_cmp);
    for (name, time) in names.into_iter().zip([median(all_ours), median(all_theirs)]) {
        let gib_per_s = bytes as f64 / time.as_secs_f64() / f64::from(1 << 30);
        println!("{name:<26} median {:>8.1} µs  {gib_per_s:.2} GiB/s", time.as_secs_f64() * 1e6);
    }
    println!("{:<26} median {:>8.3}\n", "ratio of the blocks", ratios[blocks / 2]);
}

fn fs(_: &mut Criterion) {
    // TMPDIR chooses the file system.
    let dir = tempfile::Builder::new().prefix("kvconn-bench-").tempdir().expect("a directory");
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
        CHUNK,
        BLOCKS,
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
        CHUNK,
        BLOCKS,
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
        CHUNK,
        BLOCKS,
        || runtime.block_on(connector.put(&key, chunk.clone())).expect("a put"),
        || {
            File::create(&tmp).and_then(|mut f| f.write_all(&bytes)).expect("a write");
            std::fs::rename(&tmp, &done).expect("a rename");
        },
    );
}

fn fs_options(_: &mut Criterion) {
    let dir = tempfile::Builder::new().prefix("kvconn-bench-").tempdir().expect("a directory");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let backend = LocalCpuBackend::with_capacity(64 << 20);
    let open = |name: &str, options: &str| {
        let url = format!("fs://{}?{options}", dir.path().join(name).display());
        let _inside = runtime.enter();
        runtime.block_on(connectors::builder(&url).local_cpu_backend(backend.clone()).open()).expect("a store")
    };
    let key: CacheKey = "facebook/opt-125m@1@0@1f2e3d@half".parse().expect("a key");
    // Memory of the pool is aligned.
    let chunk = runtime.block_on(async {
        let mut chunk = backend.allocate(&connectors::ChunkLayout::binary(CHUNK)).await.expect("memory");
        chunk.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 31 % 251) as u8);
        chunk.freeze()
    });
    let put = |store: &connectors::Connector, chunk: &MemoryObj| {
        runtime.block_on(store.put(&key, chunk.clone())).expect("a put");
    };
    let get = |store: &connectors::Connector| {
        black_box(runtime.block_on(store.get(&key)).expect("a get").map(|c| c.len()));
    };
    let direct = open("direct", "save_chunk_meta=false&use_odirect=true");
    let cached = open("cached", "save_chunk_meta=false");
    let synced = open("synced", "save_chunk_meta=false&fsync=file");
    let unaligned = MemoryObj::from(chunk.to_vec());
    pair(
        ["fs/put_4MiB, O_DIRECT", "fs/put_4MiB, fsync=file"],
        CHUNK,
        8,
        || put(&direct, &chunk),
        || put(&synced, &chunk),
    );
    pair(
        ["fs/put_4MiB, O_DIRECT", ".. from unaligned memory"],
        CHUNK,
        8,
        || put(&direct, &chunk),
        || put(&direct, &unaligned),
    );
    put(&cached, &chunk);
    let file = File::open(dir.path().join("cached/facebook-SEP-opt-125m@1@0@1f2e3d@half.data")).expect("a file");
    file.sync_all().expect("a sync");
    let cold = || {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
        get(&cached);
    };
    pair(["fs/get_4MiB, O_DIRECT", "fs/get_4MiB, cold cache"], CHUNK, 8, || get(&direct), cold);
    let mut unaligned = connectors::MemoryObjMut::zeroed(CHUNK);
    let get_unaligned = || {
        black_box(runtime.block_on(direct.get_into(&key, &mut unaligned)).expect("a get_into"));
    };
    pair(["fs/get_4MiB, O_DIRECT", ".. into unaligned memory"], CHUNK, 8, || get(&direct), get_unaligned);

    let (bounded, free) = (open("bounded", "capacity=1073741824"), open("free", ""));
    let small = MemoryObj::from(vec![7; 4096]);
    for n in 0..1000 {
        let other: CacheKey = format!("m@1@0@{n:x}@half").parse().expect("a key");
        runtime.block_on(bounded.put(&other, small.clone())).expect("a put");
    }
    pair(["fs/put_4KiB, capacity", "fs/put_4KiB"], 4096, 20, || put(&bounded, &small), || put(&free, &small));
    pair(["fs/get_4KiB, capacity", "fs/get_4KiB"], 4096, 20, || get(&bounded), || get(&free));
}

criterion_group!(benches, open, fs, fs_options);
criterion_main!(benches);
