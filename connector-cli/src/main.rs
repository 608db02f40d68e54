//! `kvconn`: lists, inspects, copies, checks and benchmarks remote KV-cache stores.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    kvconn::command(std::env::args_os()).into()
}
