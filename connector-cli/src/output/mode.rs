//! The global options of the output: `--json`, `--quiet` and `--color`.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anstream::ColorChoice;
use clap::ValueEnum;

static JSON: AtomicBool = AtomicBool::new(false);
static QUIET: AtomicBool = AtomicBool::new(false);

/// `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    // No doc comments here: clap would add them to the help of every command.
    Auto,
    Always,
    Never,
}

/// Whether stdout and stderr have JSON.
pub(crate) fn is_json() -> bool {
    JSON.load(Relaxed)
}

/// Whether stderr has errors alone.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Relaxed)
}

/// Sets the mode of this process.
pub(crate) fn set(json: bool, quiet: bool, color: Color) {
    JSON.store(json, Relaxed);
    QUIET.store(quiet, Relaxed);
    // `Auto` looks at the stream, and at NO_COLOR, CLICOLOR, CLICOLOR_FORCE and TERM.
    let choice = match color {
        Color::Auto => ColorChoice::Auto,
        Color::Always => ColorChoice::Always,
        Color::Never => ColorChoice::Never,
    };
    choice.write_global();
}

/// Sets the mode from arguments that the parser has not read yet, because the mode also holds for its errors.
pub(crate) fn set_early(args: &[OsString]) {
    let options = || args.iter().skip(1).take_while(|arg| *arg != "--").filter_map(|arg| arg.to_str());
    let has = |name: &str| options().any(|arg| arg == name);
    let after = options().skip_while(|arg| *arg != "--color").nth(1);
    let color = options().find_map(|arg| arg.strip_prefix("--color=")).or(after);
    let color = color.and_then(|text| Color::from_str(text, false).ok()).unwrap_or(Color::Auto);
    set(has("--json"), has("--quiet") || has("-q"), color);
}
