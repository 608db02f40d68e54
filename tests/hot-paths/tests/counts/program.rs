//! The program that is counted, and its paths.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::stores::Stores;

/// The program, as users build it.
pub(crate) struct Program(PathBuf);

/// A hot path: a call of a store, or work without a store.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    /// Empty without a store.
    pub(crate) store: &'static str,
    pub(crate) call: &'static str,
    /// How often the program runs it: enough that the first run does not matter.
    pub(crate) rounds: usize,
    /// The bytes of a chunk.
    pub(crate) len: usize,
}

impl Path {
    /// The name in tables and in the record: `resp batched_get`.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.store, self.call).trim_start().to_owned()
    }

    /// The chunks or keys of a round.
    pub(crate) fn chunks(&self) -> usize {
        if self.call.starts_with("batched_") { 32 } else { 1 }
    }
}

impl Program {
    pub(crate) fn build() -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let name = env!("CARGO_PKG_NAME");
        let built = Command::new(cargo)
            .args(["build", "--release", "--quiet", "--message-format", "json", "--package", name])
            // With the same features as the command, both share one build of kvconn.
            .args(["--package", "kvconn"])
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo starts");
        assert!(built.status.success(), "cargo does not build `{name}`");
        let messages = built.stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let executable = messages.into_iter().find_map(|message: Value| {
            (message["target"]["name"] == name).then_some(message["executable"].as_str()?.to_owned())
        });
        Self(executable.expect("cargo names the program").into())
    }

    /// The program's command line for `times` times the rounds of the path. The difference of two counts leaves out the start,
    /// and the opening of the store.
    pub(crate) fn command_line(&self, stores: &Stores, path: &Path, times: usize) -> Vec<String> {
        let mut words = vec![self.0.display().to_string(), path.call.to_owned(), (path.rounds * times).to_string()];
        if !path.store.is_empty() {
            words.extend([stores.url(path.store), path.len.to_string()]);
        }
        words
    }
}
