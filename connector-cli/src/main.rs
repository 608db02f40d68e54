//! `kvconn`: remote KV-cache stores from a shell.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    connector_cli::command(std::env::args_os()).into()
}
