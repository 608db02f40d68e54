//! The process of one row: opens one client, and measures.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, MemoryObj, MemoryObjMut};
use futures::StreamExt;
use rustix::thread::CpuSet;
use rustix::time::ClockId;

use super::bare::{Files, Sockets};

/// The first argument of such a process.
pub(crate) const WORD: &str = "child";
const GIB: f64 = (1u64 << 30) as f64;
/// Chunks of a batch that fills a store.
const FILLED: usize = 5_000;

/// What to measure.
#[derive(Clone, Default)]
pub(crate) struct Run {
    /// A store's URL. For the bare calls, `sockets://`, `ahead://` (two requests on each connection) or `files://`.
    pub(crate) url: String,
    pub(crate) size: usize,
    /// The chunks of one batch, or of the store if there are no batches.
    pub(crate) chunks: usize,
    /// The measured batches; the first one opens the client, and is a figure of its own.
    pub(crate) batches: usize,
    /// The pause before each batch.
    pub(crate) pause_ms: u64,
    /// The number of cores of the process. 0 means all.
    pub(crate) cores: usize,
}

impl Run {
    pub(crate) fn args(&self) -> [String; 6] {
        let numbers = [self.size, self.chunks, self.batches, self.pause_ms as usize, self.cores];
        let [a, b, c, d, e] = numbers.map(|number| number.to_string());
        [self.url.clone(), a, b, c, d, e]
    }

    fn of(args: &[String]) -> Self {
        let [url, numbers @ ..] = args else { panic!("no URL") };
        let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
        let [size, chunks, batches, pause_ms, cores] = numbers[..] else { panic!("five numbers") };
        Self { url: url.clone(), size, chunks, batches, pause_ms: pause_ms as u64, cores }
    }
}

/// `args` are the row's name and [`Run::args`].
pub(crate) fn run(args: &[String]) {
    let (name, run) = (args[0].clone(), Run::of(&args[1..]));
    if run.cores > 0 {
        // Before the threads start, because they inherit it.
        let mut cores = CpuSet::new();
        (0..run.cores).for_each(|core| cores.set(core));
        rustix::thread::sched_setaffinity(None, &cores).expect("these cores");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    // On a thread of the runtime, as in a program.
    let row = runtime.block_on(async {
        tokio::spawn(async move { if run.batches > 0 { moved(&run).await } else { scaled(&run).await } }).await
    });
    println!("{name:<26} {}", row.expect("no panic"));
}

enum Client {
    Store(Connector),
    Sockets(Sockets),
    Files(Files),
}

impl Client {
    async fn open(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let address = || rest.split('?').next().and_then(|address| address.parse().ok()).expect("an address");
        match scheme {
            "sockets" | "ahead" => {
                let window = if scheme == "ahead" { 2 } else { 1 };
                let sockets = Sockets::connect(address(), super::CONNECTIONS, window);
                Self::Sockets(sockets.expect("the server is there"))
            }
            "files" => {
                std::fs::create_dir_all(rest).expect("a directory");
                Self::Files(Files(PathBuf::from(rest)))
            }
            _ => Self::Store(connectors::open(url).await.expect("a store")),
        }
    }

    async fn put(&mut self, items: &mut [(CacheKey, MemoryObj)]) {
        match self {
            Self::Store(store) => stored(store.batched_put(items).await),
            Self::Sockets(sockets) => sockets.set(items).expect("they are stored"),
            Self::Files(files) => files.set(items).expect("they are stored"),
        }
    }

    async fn get(&mut self, requests: &mut [(CacheKey, MemoryObjMut)], size: usize) {
        match self {
            Self::Store(store) => {
                let answers = store.batched_get_into(requests).await;
                assert!(answers.into_iter().all(|answer| answer.expect("it is read") == Some(size)));
            }
            Self::Sockets(sockets) => sockets.get(requests).expect("they are read"),
            Self::Files(files) => files.get(requests).expect("they are read"),
        }
    }
}

fn stored(answers: Vec<connectors::Result<()>>) {
    answers.into_iter().for_each(|answer| answer.expect("it is stored"));
}

fn key(n: usize) -> CacheKey {
    format!("bench@1@0@{n:x}@half").parse().expect("a key")
}

/// The clock since the last lap.
struct Clock(Instant, Duration);

impl Clock {
    fn start() -> Self {
        Self(Instant::now(), cpu())
    }

    /// Seconds, and CPU seconds of this process.
    fn lap(&self) -> (f64, f64) {
        (self.0.elapsed().as_secs_f64(), (cpu() - self.1).as_secs_f64())
    }
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

async fn moved(run: &Run) -> String {
    let chunk = |n: usize| MemoryObj::from((0..run.size).map(|i| ((i + n) * 31 % 251) as u8).collect::<Vec<_>>());
    let chunks: Vec<MemoryObj> = (0..run.chunks).map(chunk).collect();
    let mut memory: Vec<MemoryObjMut> = (0..run.chunks).map(|_| MemoryObjMut::from(vec![1; run.size])).collect();
    let keys = |batch: usize| (0..run.chunks).map(move |i| key(batch * run.chunks + i));
    let pause = || tokio::time::sleep(Duration::from_millis(run.pause_ms));
    let mut client = None;
    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    for batch in 0..=run.batches {
        let mut items: Vec<_> = keys(batch).zip(chunks.iter().cloned()).collect();
        pause().await;
        let clock = Clock::start();
        if client.is_none() {
            client = Some(Client::open(&run.url).await);
        }
        client.as_mut().expect("it is open").put(&mut items).await;
        puts.push(clock.lap());
    }
    let mut client = client.expect("it is open");
    for batch in 0..=run.batches {
        let mut requests: Vec<_> = keys(batch).zip(memory).collect();
        pause().await;
        let clock = Clock::start();
        client.get(&mut requests, run.size).await;
        gets.push(clock.lap());
        memory = requests.into_iter().map(|(_, memory)| memory).collect();
    }
    assert!(memory.iter().zip(&chunks).all(|(read, written)| read[..] == written[..]));
    let gib = (run.chunks * run.size) as f64 / GIB;
    let shown = [puts, gets].map(|figures: Vec<(f64, f64)>| {
        let ((first, _), later) = (figures[0], &figures[1..]);
        let (took, cpu) = later.iter().fold((0.0, 0.0), |sum, figure| (sum.0 + figure.0, sum.1 + figure.1));
        let moved = gib * later.len() as f64;
        format!("{:6.2} GiB/s {:6.3} CPU s/GiB, first {:8.2} ms", moved / took, cpu / moved, first * 1e3)
    });
    format!("put {}   get {}", shown[0], shown[1])
}

/// A store with very many small chunks.
async fn scaled(run: &Run) -> String {
    let store = connectors::open(&run.url).await.expect("a store");
    let chunk = MemoryObj::from(vec![7; run.size]);
    let keys: Vec<CacheKey> = (0..run.chunks).map(key).collect();
    for keys in keys.chunks(FILLED) {
        let items: Vec<_> = keys.iter().map(|key| (key.clone(), chunk.clone())).collect();
        stored(store.batched_put(&items).await);
    }
    let clock = Clock::start();
    let listed = store.list("").count().await;
    let list = clock.lap().0;
    assert_eq!(listed, run.chunks);
    let clock = Clock::start();
    let found = store.batched_exists(&keys[..10_000.min(keys.len())]).await;
    let exists = clock.lap().0;
    assert!(found.into_iter().all(|found| found.expect("an answer")));
    let mut shown = format!("list {:.0} ms, exists of 10,000 {:.1} ms", list * 1e3, exists * 1e3);
    if run.url.starts_with("fs://") {
        let bytes = run.size * run.chunks;
        for (what, capacity) in [("first put below a capacity", 4 * bytes), ("put that evicts half", bytes / 2)] {
            let store = connectors::open(&format!("{}?capacity={capacity}", run.url)).await.expect("a store");
            let clock = Clock::start();
            store.put(&key(run.chunks), chunk.clone()).await.expect("it is stored");
            shown += &format!(", {what} {:.1} ms", clock.lap().0 * 1e3);
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    format!("{shown}, most memory {}", peak.trim())
}
