//! Gives the command its commit, its target, its compiler and its features, for `kvconn --version`.
//!
//! The commit comes from `KVCONN_COMMIT`, else from the file that `cargo package` adds, else from git. Without any of them,
//! the version has no commit.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=KVCONN_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let given = env::var("KVCONN_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(of_the_package).or_else(of_git).unwrap_or_default();
    let commit: String = commit.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let shown = if commit.is_empty() { version } else { format!("{version} ({commit})") };
    let features = env::vars().filter_map(|(name, _)| Some(name.strip_prefix("CARGO_FEATURE_")?.to_ascii_lowercase()));
    let mut features: Vec<String> = features.filter(|name| name != "default").collect();
    features.sort();
    let rustc = env::var("RUSTC").ok().and_then(|rustc| output(Command::new(rustc).arg("--version")));
    println!("cargo::rustc-env=KVCONN_VERSION={shown}");
    println!("cargo::rustc-env=KVCONN_COMMIT={commit}");
    println!("cargo::rustc-env=KVCONN_TARGET={}", env::var("TARGET").unwrap_or_default());
    println!("cargo::rustc-env=KVCONN_RUSTC={}", rustc.as_deref().and_then(number_of_rustc).unwrap_or_default());
    println!("cargo::rustc-env=KVCONN_FEATURES={}", features.join(","));
}

/// `{"git": {"sha1": "297a129.."}}`, in a crate from the registry.
fn of_the_package() -> Option<String> {
    let text = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    Some(rest.split('"').nth(1)?.to_owned())
}

/// The commit of the checkout that this folder belongs to. A folder in another project's checkout has another commit.
fn of_git() -> Option<String> {
    if !Path::new("../.git").exists() {
        return None;
    }
    if let Some(log) = output(Command::new("git").args(["rev-parse", "--git-path", "logs/HEAD"])) {
        println!("cargo::rerun-if-changed={log}");
    }
    output(Command::new("git").args(["rev-parse", "HEAD"]))
}

fn number_of_rustc(text: &str) -> Option<&str> {
    text.split_whitespace().nth(1)
}

fn output(command: &mut Command) -> Option<String> {
    let done = command.output().ok().filter(|done| done.status.success())?;
    Some(String::from_utf8(done.stdout).ok()?.trim().to_owned())
}
