//! The `kvconn` command, as a library for its binary and for the Python package.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod escape;
mod exit;
mod file;
mod interrupt;
mod output;
mod setup;
mod size;
mod stores;
mod usage;
mod value;
mod version;

use std::ffi::OsString;
use std::io::Write;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use clap::Parser;
use connectors::Audience;
use connectors::runtime::close_open_stores;
use tracing_subscriber::EnvFilter;

use args::{Cli, Command};
use exit::{Answer, Failure};
use interrupt::Interrupt;
use output::{Out, mode};
use setup::Setup;

/// Runs the command and gives its exit code. The first argument is the command's name. Call it only from a process that does
/// nothing else: it takes over stdout, stderr, logging and signals.
pub fn command(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    Audience::Shell.set();
    mode::set_early(&args);
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => return usage::report(e),
    };
    mode::set(cli.global.json, cli.global.quiet, cli.global.color);
    log_to_stderr(cli.global.verbose);
    let built = connectors::runtime::threads().and_then(|threads| {
        let built = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
        built.map_err(|e| connectors::Error::io(e, "start threads"))
    });
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(e) => return Failure::Error(e).report(),
    };
    let code = runtime.block_on(answer(cli));
    // A drop would wait for a blocking thread that an interrupted command left behind. The process ends now.
    std::mem::forget(runtime);
    code
}

async fn answer(cli: Cli) -> u8 {
    let interrupt = Interrupt::listen();
    let mut out = Out::new(interrupt.clone());
    let answer = run(cli, &mut out, interrupt.clone()).await;
    // Flushes stdout before stderr gets the error.
    let shown = out.flush().map_err(Failure::from);
    let code = match answer.and_then(|answer| shown.map(|()| answer)) {
        Ok(answer) => answer.exit_code(),
        Err(failure) => failure.report(),
    };
    if interrupt.is_set() {
        // Reports lost chunks if a store could not be closed in time.
        close_open_stores(Duration::ZERO);
    }
    code
}

async fn run(cli: Cli, out: &mut Out, interrupt: Interrupt) -> Result<Answer, Failure> {
    let setup = Setup::new(cli.global, interrupt)?;
    match cli.command {
        Command::Connectors => commands::connectors::run(out),
        Command::Stores => commands::stores::run(&setup, out),
        Command::Describe(args) => commands::describe::run(&args, out),
        Command::Put(args) => commands::chunk::put(&setup, &args, out).await,
        Command::Get(args) => commands::chunk::get(&setup, &args, out).await,
        Command::Exists(args) => commands::keys::exists(&setup, &args, out).await,
        Command::Stat(args) => commands::stat::run(&setup, &args, out).await,
        Command::Rm(args) => commands::remove::run(&setup, &args, out).await,
        Command::Ls(args) => commands::ls::run(&setup, &args, out).await,
        Command::Du(args) => commands::du::run(&setup, &args, out).await,
        Command::Cp(args) => commands::copy::run(&setup, &args, out).await,
        #[cfg(feature = "fs")]
        Command::Scrub(args) => commands::scrub::run(&setup, &args, out).await,
        Command::Ping(args) => commands::ping::run(&setup, &args, out).await,
        Command::Doctor(args) => commands::doctor::run(&setup, &args, out).await,
        Command::Check(args) => commands::check::run(&setup, &args, out).await,
        Command::Bench(args) => commands::bench::run(&setup, &args, out).await,
        Command::Demo(args) => commands::demo::run(&setup, &args, out).await,
        Command::New(args) => commands::new::run(&args, out),
        Command::Completions(args) => commands::shell::completions(&args, out),
        Command::Man(args) => commands::shell::man(&args, out),
        Command::Version => version::run(out),
    }
}

/// Logs warnings even without `-v` and `RUST_LOG`, because they show a configuration key that kvconn ignores.
fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 if mode::is_quiet() => "error",
        0 => "warn",
        // The HTTP client logs each of its steps.
        1 => "debug,hyper_util=warn",
        _ => "trace",
    };
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // Chunks that are lost at the end are more than a log line.
    if let Ok(always) = "connector_core::runtime::exit=warn".parse() {
        filter = filter.add_directive(always);
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(AutoStream::choice(&std::io::stderr()) != ColorChoice::Never)
        .init();
}
