//! System calls, counted by strace.

use std::collections::BTreeMap;
use std::process::Command;

use tempfile::NamedTempFile;

use crate::program::{Path, Program};
use crate::stores::Stores;

/// The most system calls of a chunk in a batch of 32 with 4 KiB each: get, put, get_into, exists.
const LIMITS: [(&str, [f64; 4]); 5] = [
    ("redis", [2.0, 1.0, 2.0, 0.2]),
    ("resp", [2.0, 1.0, 2.0, 0.2]),
    ("resp+tls", [1.0, 1.0, 1.0, 0.2]),
    ("fs", [7.0, 8.0, 7.0, 6.0]),
    ("s3", [2.5, 2.5, 2.5, 2.5]),
];
/// Calls that wait, or that manage memory: the scheduler decides their number. The table shows them, and no limit counts them.
const NOT_LIMITED: [&str; 8] = ["brk", "epoll_wait", "futex", "madvise", "mmap", "mprotect", "munmap", "sched_yield"];
const CALLS: [&str; 4] = ["batched_get", "batched_put", "batched_get_into", "batched_exists"];

/// Compares with the limits, and gives the failures.
pub(crate) fn check(program: &Program, stores: &Stores, is_chosen: impl Fn(&str) -> bool) -> Vec<String> {
    let mut failures = Vec::new();
    println!("system calls of a chunk       counted      limit");
    for (store, limits) in LIMITS {
        for (call, limit) in CALLS.into_iter().zip(limits) {
            // Many rounds: the two runs may open other numbers of connections, which the counts must not show.
            let path = Path { store, call, rounds: 64, len: 4 << 10 };
            if !is_chosen(&path.name()) {
                continue;
            }
            let counts = counts(program, stores, &path);
            let limited = counts.iter().filter(|(name, _)| !NOT_LIMITED.contains(&name.as_str()));
            let sum: f64 = limited.map(|(_, n)| n).sum();
            let mut parts: Vec<_> = counts.into_iter().filter(|(_, n)| *n >= 0.01).collect();
            parts.sort_by(|a, b| b.1.total_cmp(&a.1));
            let parts: Vec<String> = parts.into_iter().map(|(name, n)| format!("{name} {n:.2}")).collect();
            let (name, parts) = (path.name(), parts.join(", "));
            println!("{name:<25} {sum:>11.2} {limit:>10}   {parts}");
            if sum > limit {
                failures
                    .push(format!("`{name}` takes {sum:.2} system calls a chunk, over its limit of {limit}: {parts}"));
            }
        }
    }
    failures
}

/// The system calls of a chunk, by name.
fn counts(program: &Program, stores: &Stores, path: &Path) -> BTreeMap<String, f64> {
    let [once, mut twice] = [1, 2].map(|times| count(&program.command_line(stores, path, times)));
    for (name, n) in once {
        *twice.entry(name).or_default() -= n;
    }
    twice.values_mut().for_each(|n| *n /= (path.rounds * path.chunks()) as f64);
    twice
}

/// All system calls of a process, by name.
fn count(command_line: &[String]) -> BTreeMap<String, f64> {
    let summary = NamedTempFile::new().expect("a file can be made");
    let output = Command::new("strace")
        .args(["-f", "-c", "-U", "name,calls", "-o"])
        .arg(summary.path())
        .args(command_line)
        .env("KVCONN_THREADS", "1")
        .output()
        .expect("strace is installed (Debian's package `strace`)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command_line:?} fails under strace:\n{said}");
    let text = std::fs::read_to_string(summary.path()).expect("strace writes its summary");
    let row = |line: &str| {
        let (name, calls) = line.trim().rsplit_once(' ')?;
        Some((name.trim().to_owned(), calls.parse().ok()?))
    };
    text.lines().filter_map(row).filter(|(name, _)| name != "total").collect()
}
