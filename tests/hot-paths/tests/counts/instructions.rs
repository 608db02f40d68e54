//! Instructions, counted by callgrind.

use std::process::Command;

use tempfile::NamedTempFile;

use crate::program::{Path, Program};
use crate::record::{HOW_TO_RECORD, Record, Setting};
use crate::stores::Stores;

const PATHS: [Path; 14] = [
    path("resp", "batched_get_into", 20),
    path("resp", "batched_put", 20),
    path("resp", "batched_exists", 40),
    path("redis", "get", 300),
    path("redis", "put", 300),
    path("fs", "get", 1_000),
    path("fs", "put", 500),
    path("fs", "batched_exists", 20),
    path("s3", "get_into", 100),
    path("s3", "put", 100),
    path("layers", "get", 1_000),
    path("", "key", 4_000),
    path("", "header", 10_000),
    path("", "lookup", 10_000),
];

/// A path with small chunks, so that the count is about kvconn's work and not about copies.
const fn path(store: &'static str, call: &'static str, rounds: usize) -> Path {
    Path { store, call, rounds, len: 4 << 10 }
}

/// The percent that a count may be above its record. Fewer instructions are a reason to record, and not a failure.
const TOLERANCE: f64 = 5.0;
/// The counts of a path. Threads that wake each other cost a few percent more or less, so one count within the tolerance is
/// enough.
const TRIES: usize = 3;

/// The instructions of a chunk on every path: the median of the counts.
pub(crate) fn count_all(program: &Program, stores: &Stores) -> Vec<(String, f64)> {
    let median = |path: &Path| {
        let mut counts = [(); TRIES].map(|()| count(program, stores, path));
        counts.sort_by(f64::total_cmp);
        counts[TRIES / 2]
    };
    PATHS.iter().map(|path| (path.name(), median(path))).collect()
}

/// Compares with the record, and gives the failures.
pub(crate) fn check(program: &Program, stores: &Stores, is_chosen: impl Fn(&str) -> bool) -> Vec<String> {
    let (record, here) = (Record::read(), Setting::here());
    let differences = here.differences(&record.setting);
    let mut failures = Vec::new();
    println!("instructions of a chunk       counted     record  percent");
    for path in PATHS.iter().filter(|path| is_chosen(&path.name())) {
        let name = path.name();
        let Some(recorded) = record.instructions(&name) else {
            failures.push(format!("`{name}` has no record. {HOW_TO_RECORD}"));
            continue;
        };
        let percent = |counted: f64| (counted / recorded - 1.0) * 100.0;
        let tries = if differences.is_empty() { TRIES } else { 1 };
        let is_within = |counted: f64| percent(counted) <= TOLERANCE;
        let mut counted = count(program, stores, path);
        for _ in 1..tries {
            if is_within(counted) {
                break;
            }
            counted = count(program, stores, path);
        }
        println!("{name:<25} {counted:>11.0} {recorded:>10.0} {:>+8.1}", percent(counted));
        if differences.is_empty() && !is_within(counted) {
            failures.push(format!(
                "`{name}` takes {counted:.0} instructions a chunk, and the record has {recorded:.0}. Mend it, or say why \
                 in your change and record it. {HOW_TO_RECORD}"
            ));
        }
    }
    if !differences.is_empty() {
        println!(
            "NOT compared, because the record is from elsewhere: {}. To see what a change of yours costs, record before \
             it. {HOW_TO_RECORD}",
            differences.join(", ")
        );
    }
    failures
}

/// The instructions of a chunk.
fn count(program: &Program, stores: &Stores, path: &Path) -> f64 {
    let counts = [1, 2].map(|times| of_process(&program.command_line(stores, path, times)));
    (counts[1] - counts[0]) / (path.rounds * path.chunks()) as f64
}

/// All instructions of a process.
fn of_process(command_line: &[String]) -> f64 {
    let profile = NamedTempFile::new().expect("a file can be made");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={}", profile.path().display())])
        .args(command_line)
        .env("KVCONN_THREADS", "1")
        .output()
        .expect("valgrind is installed (Debian's package `valgrind`)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command_line:?} fails under valgrind:\n{said}");
    let total = said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    total.unwrap_or_else(|| panic!("valgrind gives no count:\n{said}"))
}
