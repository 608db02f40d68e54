//! Counts the instructions and the system calls of kvconn's hot paths, so that no change makes them slower unseen.
//!
//! ```console
//! $ cargo test -p kvconn-hot-paths                            # compares with `record.txt`
//! $ cargo test -p kvconn-hot-paths resp                       # only the paths of `resp`
//! $ cargo test -p kvconn-hot-paths --test counts -- --record  # writes `record.txt`
//! ```
//!
//! Instructions depend on the compiler, on valgrind, on the C library and on the processor. The record names them. Where one of
//! them differs, the test prints the counts beside the record, and does not compare them. It always checks system calls.
#![forbid(unsafe_code)]
#![allow(unused_crate_dependencies, reason = "some belong to the program that is counted")]

mod instructions;
mod program;
mod record;
mod stores;
mod system_calls;

use std::process::ExitCode;

use self::program::Program;
use self::record::Record;
use self::stores::Stores;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    if has("--ignored") || has("--list") {
        return ExitCode::SUCCESS;
    }
    let (program, stores) = (Program::build(), Stores::start());
    if has("--record") {
        Record::of(instructions::count_all(&program, &stores)).write();
        return ExitCode::SUCCESS;
    }
    let is_chosen = |name: &str| args.iter().all(|word| word.starts_with('-') || name.contains(word.as_str()));
    let failures =
        [instructions::check(&program, &stores, is_chosen), system_calls::check(&program, &stores, is_chosen)];
    let failures = failures.concat();
    failures.iter().for_each(|failure| println!("FAILED: {failure}"));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
