//! The client at its limits, without Python: `cargo bench -p connectors --all-features --bench limits -- burst latency`.
//!
//! | word | measures |
//! |---|---|
//! | `burst` | batches of 16 chunks after a pause of 0.3 s; the first one opens the connections |
//! | `big` | batches of 4, 16 and 32 MiB chunks |
//! | `latency` | 64 chunks of 1 MiB over a wire with latency in each direction; `bare` is the wire's own time |
//! | `cores` | the client on 1, 2, 4, .. cores |
//! | `scale` | 100,000 chunks of 1 KiB: a listing, 10,000 keys in one call, a first put below a capacity, and eviction |
//!
//! Without a word, all of them. Starts its own redis servers, and keeps files in `TMPDIR`. Each row is a process of its own
//! (`limits/child.rs`), so threads and connections start in it. `bare` is the system calls alone, from one thread, on
//! eight connections.

#[path = "limits/bare.rs"]
mod bare;
#[path = "limits/child.rs"]
mod child;

use std::process::Command;
use std::thread::available_parallelism;
use std::time::Duration;

use kvconn_redis_server::{Proxy, RedisServer};
use tempfile::TempDir;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// The connections of each client.
const CONNECTIONS: usize = 8;

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench").peekable();
    if args.next_if(|arg| arg == child::WORD).is_some() {
        return child::run(&args.collect::<Vec<_>>());
    }
    let words: Vec<String> = args.collect();
    let all: [(&str, fn()); 5] =
        [("burst", burst), ("big", big), ("latency", latency), ("cores", cores), ("scale", scale)];
    if let Some(unknown) = words.iter().find(|word| all.iter().all(|(name, _)| name != word)) {
        panic!("{unknown:?} is not one of burst, big, latency, cores, scale");
    }
    for (name, measure) in all {
        if words.is_empty() || words.iter().any(|word| word == name) {
            println!("\n{name}");
            measure();
        }
    }
}

/// A server, a directory, and the clients on them.
struct Stores {
    server: RedisServer,
    dir: TempDir,
}

impl Stores {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("kvconn-bench-").tempdir().expect("a directory");
        Self { server: RedisServer::start(&[]), dir }
    }

    fn urls(&self) -> [(&'static str, String); 5] {
        let (address, dir) = (self.server.address(), self.dir.path().display());
        let of = |scheme: &str| format!("{scheme}://{address}?connections={CONNECTIONS}");
        [
            ("bare sockets", format!("sockets://{address}")),
            ("resp", of("resp")),
            ("redis", of("redis")),
            ("bare files", format!("files://{dir}/bare")),
            ("fs", format!("fs://{dir}/store")),
        ]
    }
}

/// Runs one row. The store is new.
fn row(stores: &Stores, name: &str, run: &child::Run) {
    stores.server.cli(&["FLUSHALL"]);
    for entry in std::fs::read_dir(stores.dir.path()).expect("a directory") {
        std::fs::remove_dir_all(entry.expect("an entry").path()).expect("it is removed");
    }
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program).arg(child::WORD).arg(name).args(run.args()).status().expect("it starts");
    assert!(status.success(), "{name} failed");
}

fn rows(stores: &Stores, what: &str, run: &child::Run) {
    for (name, url) in stores.urls() {
        row(stores, &format!("{name:<12} {what}"), &child::Run { url, ..run.clone() });
    }
}

fn burst() {
    let stores = Stores::start();
    for size in [64 * KIB, MIB] {
        let run = child::Run { size, chunks: 16, batches: 6, pause_ms: 300, ..child::Run::default() };
        rows(&stores, &format!("{} KiB", size / KIB), &run);
    }
}

fn big() {
    let stores = Stores::start();
    for size in [4 * MIB, 16 * MIB, 32 * MIB] {
        let run = child::Run { size, chunks: 256 * MIB / size, batches: 3, ..child::Run::default() };
        rows(&stores, &format!("{} MiB", size / MIB), &run);
    }
}

fn latency() {
    let stores = Stores::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for delay in [Duration::ZERO, Duration::from_micros(200), Duration::from_millis(1)] {
        let proxy = runtime.block_on(Proxy::start(stores.server.address()));
        proxy.latency(delay);
        for scheme in ["ahead", "resp", "redis"] {
            let url = format!("{}?connections={CONNECTIONS}", proxy.url(scheme));
            let run = child::Run { url, size: MIB, chunks: 64, batches: 4, ..child::Run::default() };
            let name = if scheme == "ahead" { "bare" } else { scheme };
            row(&stores, &format!("{name:<12} {delay:?}"), &run);
        }
    }
}

fn cores() {
    let stores = Stores::start();
    let machine = available_parallelism().map_or(1, usize::from);
    for cores in (0..).map(|i| 1 << i).take_while(|&cores| cores <= machine) {
        let run = child::Run { size: MIB, chunks: 64, batches: 4, cores, ..child::Run::default() };
        rows(&stores, &format!("{cores} of {machine} cores"), &run);
    }
}

fn scale() {
    let stores = Stores::start();
    for (name, url) in stores.urls() {
        if !name.starts_with("bare") {
            let run = child::Run { url, size: KIB, chunks: 100_000, ..child::Run::default() };
            row(&stores, &format!("{name:<12}"), &run);
        }
    }
}
