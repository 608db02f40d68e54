//! Runs the `kvconn` binary and checks its stdout, its stderr and its exit code.

mod archiving;
mod checking;
mod chunks;
mod configuration;
mod copying;
mod creating;
mod demonstration;
mod ending;
mod examining;
mod measuring;
mod modes;
mod named_stores;
mod names;
mod object_stores;
mod pinging;
mod printing;
mod removing;
mod scrubbing;
mod shells;
mod topologies;
mod writing;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Keys of a small model.
const KEY: &str = "opt@1@0@1f2e@half";
const OTHER: &str = "opt@1@0@3d4c@half";

/// The result of a command.
#[derive(Debug)]
struct Finished {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

impl Finished {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("the output is text")
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Checks the exit code, and gives the result for further checks.
    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", String::from_utf8_lossy(&self.out), self.err);
        self
    }

    /// Checks the exit code of a store or a file that failed, and the words of the error.
    #[track_caller]
    fn fails_with(self, words: &[&str]) {
        self.exits(3).prints_one_error(words);
    }

    /// Checks the exit code of a wrong argument, name, URL, option, key or configuration, and the words of the error.
    #[track_caller]
    fn refuses_with(self, words: &[&str]) {
        self.exits(2).prints_one_error(words);
    }

    /// Checks that the command printed one line on stderr with these words, and nothing on stdout.
    #[track_caller]
    fn prints_one_error(self, words: &[&str]) {
        assert!(self.err.starts_with("kvconn: ") && self.err.lines().count() == 1, "{}", self.err);
        assert!(self.out.is_empty(), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "`{word}` is missing in: {}", self.err);
        }
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let err = String::from_utf8(output.stderr).expect("stderr is text");
        assert!(!err.contains("panicked"), "{err}");
        Self { code: output.status.code(), out: output.stdout, err }
    }
}

/// The command with an empty environment, because variables change its behaviour.
fn kvconn(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvconn"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Finished {
    kvconn(args).output().expect("the command starts").into()
}

/// A fresh directory, and the URL of a store in it.
fn store() -> (TempDir, String) {
    let dir = TempDir::new().expect("a directory can be made");
    let url = fs_url(dir.path());
    (dir, url)
}

fn fs_url(dir: &Path) -> String {
    format!("fs://{}", dir.display())
}

/// A file with these bytes, in a directory of its own.
fn file(bytes: &[u8]) -> (TempDir, String) {
    let dir = TempDir::new().expect("a directory can be made");
    let path = dir.path().join("chunk.bin");
    std::fs::write(&path, bytes).expect("the file can be written");
    let path = path.to_str().expect("temporary paths are UTF-8").to_owned();
    (dir, path)
}

fn put(url: &str, key: &str, bytes: &[u8]) {
    let (_dir, path) = file(bytes);
    run(&["put", url, key, &path]).exits(0);
}

/// Fills the directory of an fs store with `n` keys, by copies of one chunk's file.
fn fill(dir: &Path, n: usize) {
    put(&fs_url(dir), "many@1@0@0@half", &[7; 4096]);
    for i in 1..n {
        let name = |i: usize| dir.join(format!("many@1@0@{i:x}@half.data"));
        std::fs::copy(name(0), name(i)).expect("the file can be copied");
    }
}

/// The store at `url` with slow calls, so that a command still runs when a signal comes.
fn slow(url: &str, latency_ms: u64) -> String {
    format!("faulty://?latency_ms={latency_ms}&back={}", url.replace(':', "%3A").replace('/', "%2F"))
}

/// Sends a signal: `Signal::INT` as Ctrl-C does, or `Signal::TERM` as a service manager does.
fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("the command runs until it gets the signal");
}

/// Waits until `done`. The command must still run then.
fn wait_until(child: &mut Child, done: impl Fn() -> bool) {
    while !done() {
        let ended = child.try_wait().expect("the command can be asked");
        assert!(ended.is_none(), "the command ended too early: {ended:?}");
        std::thread::yield_now();
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let name = |e: std::io::Result<std::fs::DirEntry>| {
        e.expect("the directory can be read").file_name().to_string_lossy().into_owned()
    };
    std::fs::read_dir(dir).map(|all| all.map(name).collect()).unwrap_or_default()
}
