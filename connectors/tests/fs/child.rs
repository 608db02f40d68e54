//! Child processes that can be killed: this test program, started again to do one job.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use connectors::{CacheKey, Connector, MemoryObj};

use super::Random;

/// The environment variable of a child's job: name, number, URL.
const JOB: &str = "KVCONN_FS_TEST_JOB";

/// The number of keys that the writers share.
pub(crate) const KEYS: u32 = 32;

/// A key that the store takes: an engine key, or for other engines' files an object key.
pub(crate) fn key(store: &Connector, n: u32) -> CacheKey {
    match store.capabilities().object_keys_only {
        true => format!("m_0123456789ab@00000000@0@{n:08x}").parse().unwrap(),
        false => super::key(n),
    }
}

/// A chunk that can be checked: its version, and words that follow from key and version.
pub(crate) fn chunk(key: u32, version: u64) -> MemoryObj {
    let mut state = Random(version.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(key) | 1);
    let len = 100 + state.below(8000) as usize;
    let words = (1..len).map(|_| state.below(u64::MAX));
    MemoryObj::from(std::iter::once(version).chain(words).flat_map(u64::to_le_bytes).collect::<Vec<u8>>())
}

/// The version of a chunk; fails if the chunk is torn.
pub(crate) fn version(of: u32, found: &MemoryObj) -> u64 {
    let version = u64::from_le_bytes(found[..8].try_into().unwrap());
    assert!(**found == *chunk(of, version), "the chunk of key {of} is torn");
    version
}

pub(crate) fn command(work: &str, url: &str, number: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    job(&mut command, work, url, number);
    command
}

/// Gives a command that starts this program its job.
pub(crate) fn job(command: &mut Command, work: &str, url: &str, number: u64) {
    command
        .args(["--exact", "child::does_the_job_of_a_child", "--nocapture"])
        .env(JOB, format!("{work} {number} {url}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
}

/// The lines that the child writes after it is ready.
pub(crate) fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("ready")), "the process ended before it began");
    lines
}

#[tokio::test]
async fn does_the_job_of_a_child() {
    let Ok(job) = std::env::var(JOB) else { return };
    let [work, number, url] = job.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{job}") };
    let number = number.parse().unwrap();
    let store = connectors::open(url).await.unwrap();
    println!("ready");
    match work {
        "put_until_killed" => put_until_killed(&store, number).await,
        "put_and_get" => put_and_get(&store, number).await,
        "put_one" => put_one(&store, number).await,
        "put_elsewhere" => {
            std::env::set_current_dir("/").unwrap();
            put_one(&store, number).await;
        }
        "put_without_descriptors" => {
            let mut open = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                open.push(file);
            }
            put_one(&store, number).await;
            drop(open);
            put_one(&store, number).await;
        }
        "put_many" => {
            for n in 0..number as u32 {
                store.put(&key(&store, n), MemoryObj::from(vec![7; 100 << 10])).await.unwrap();
                // The order of use is that of the puts, also for a clock of coarse steps.
                tokio::time::sleep(std::time::Duration::from_millis(15)).await;
            }
            let mut kept = Vec::new();
            for n in 0..number as u32 {
                kept.extend(store.get(&key(&store, n)).await.unwrap().map(|_| n.to_string()));
            }
            println!("{}", kept.join(" "));
        }
        "remove_one" => {
            let removed = store.remove(&key(&store, number as u32)).await;
            println!("{removed:?}");
        }
        "exist" => {
            let keys = [key(&store, number as u32), key(&store, number as u32 + 1)];
            let said: Vec<_> = store.batched_exists(&keys).await.into_iter().map(|e| e.map_err(|e| e.kind())).collect();
            println!("{said:?}");
        }
        _ => panic!("{job}"),
    }
}

/// Writes `put KEY VERSION` after each put.
async fn put_until_killed(store: &Connector, first_version: u64) {
    for version in first_version.. {
        let of = (version % u64::from(KEYS)) as u32;
        store.put(&key(store, of), chunk(of, version)).await.unwrap();
        // One write, so that a line is whole or missing.
        std::io::stdout().write_all(format!("put {of} {version}\n").as_bytes()).unwrap();
    }
}

/// Puts many chunks, and gets others in between.
async fn put_and_get(store: &Connector, seed: u64) {
    let mut random = Random::new(seed);
    for n in 0..200 {
        let of = random.below(500) as u32;
        store.put(&key(store, of), chunk(of, seed * 1000 + n)).await.unwrap();
        let of = random.below(500) as u32;
        if let Some(found) = store.get(&key(store, of)).await.unwrap() {
            version(of, &found);
        }
    }
    store.close().await.unwrap();
}

/// Puts one chunk of `bytes` bytes, and writes the result.
async fn put_one(store: &Connector, bytes: u64) {
    let put = store.put(&key(store, 1), MemoryObj::from(vec![7; bytes as usize])).await;
    let temporary = |e: &connectors::Error| if e.is_temporary() { " (temporary)" } else { "" };
    let answer = put.map_or_else(|e| format!("{}{}: {e}", e.kind(), temporary(&e)), |()| "done".into());
    println!("{answer}");
}
