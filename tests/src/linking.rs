//! Builds the small crates in `linking/` and runs them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::package_dir;

/// The command that updates `linking/Cargo.lock` after the project's dependencies have changed.
pub const REFRESH_LOCK: &str = "cp Cargo.lock tests/linking/ && cargo metadata --format-version 1 --manifest-path \
                                tests/linking/Cargo.toml >/dev/null";

/// The workspace in `linking/`, with its target folder and profile.
#[derive(Debug, Clone)]
pub struct Workspace {
    target: PathBuf,
    profile: &'static str,
}

/// The features of a package of the project, as cargo reads them from its manifest.
#[derive(Debug)]
pub struct Features(BTreeMap<String, Vec<String>>);

impl Features {
    /// The features of this package.
    ///
    /// # Panics
    /// If cargo cannot read the project, or the project has no such package.
    pub fn of(package: &str) -> Self {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(package_dir());
        let metadata = text(run(command, "cargo reads the project's manifests").stdout);
        let metadata: Value = serde_json::from_str(&metadata).expect("cargo prints JSON");
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let found = packages.into_iter().find(|p| p["name"] == package).unwrap_or_else(|| panic!("no `{package}`"));
        Self(serde_json::from_value(found["features"].clone()).expect("features are lists of texts"))
    }

    /// All features, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// A feature and all features that it enables.
    pub fn closure(&self, feature: &str) -> BTreeSet<&str> {
        let mut enabled = BTreeSet::new();
        let mut next: Vec<&str> = self.0.get_key_value(feature).map(|(name, _)| name.as_str()).into_iter().collect();
        while let Some(feature) = next.pop() {
            if enabled.insert(feature) {
                let more = self.0.get(feature).into_iter().flatten();
                next.extend(more.map(String::as_str).filter(|name| self.0.contains_key(*name)));
            }
        }
        enabled
    }
}

/// The output of a binary that calls `linking/probe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed(String);

impl Workspace {
    /// Builds below `tmp`, the test's `CARGO_TARGET_TMPDIR`. All tests share the compiled crates.
    pub fn new(tmp: &str) -> Self {
        Self { target: Path::new(tmp).join("linking"), profile: "dev" }
    }

    /// Sets the profile.
    #[must_use]
    pub fn with_profile(mut self, profile: &'static str) -> Self {
        self.profile = profile;
        self
    }

    /// Runs cargo in the workspace: `cargo(&["build", "--package", "linked"], &[])`. `to_rustc` goes only to the compiler of
    /// the last crate, so that cargo does not compile the dependencies again.
    ///
    /// # Panics
    /// If cargo fails. The message has its output.
    pub fn cargo(&self, args: &[&str], to_rustc: &[&str]) -> Output {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        let (subcommand, args) = args.split_first().expect("a subcommand");
        command.arg(subcommand).args(["--locked", "--quiet", "--profile", self.profile, "--target-dir"]);
        command.arg(&self.target).args(args).current_dir(package_dir().join("linking"));
        if !to_rustc.is_empty() {
            command.arg("--").args(to_rustc);
        }
        run(command, &format!("if a lock file is out of date: {REFRESH_LOCK}"))
    }

    /// The path of a file that cargo made: `linked`, `libloaded.so`, `examples/alpha`.
    pub fn made(&self, name: &str) -> PathBuf {
        let folder = if self.profile == "dev" { "debug" } else { self.profile };
        self.target.join(folder).join(name)
    }

    /// Runs a binary with `urls` to open.
    ///
    /// # Panics
    /// If the binary fails. The message has its output.
    pub fn run(&self, name: &str, urls: &[&str]) -> Printed {
        let mut command = Command::new(self.made(name));
        command.args(urls);
        Printed(text(run(command, "a probe prints errors and exits with 0").stdout))
    }
}

impl Printed {
    /// The rest of every line that starts with `word`: `lines("connector")` gives the linked connectors.
    pub fn lines(&self, word: &str) -> Vec<&str> {
        self.0.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(' ')).collect()
    }

    /// The result for this URL: `opened module/Name`, or `failed kind and the whole error`.
    ///
    /// # Panics
    /// If the URL was not among the binary's arguments.
    pub fn of(&self, url: &str) -> String {
        let answer = |word: &str| {
            let rest = self.lines(word).into_iter().find_map(|line| line.strip_prefix(url)?.strip_prefix(' '));
            rest.map(|rest| format!("{word} {rest}"))
        };
        answer("opened").or_else(|| answer("failed")).unwrap_or_else(|| panic!("nothing about {url} in:\n{}", self.0))
    }

    /// Whether the binary's registry has no conflict.
    pub fn is_valid(&self) -> bool {
        self.0.lines().any(|line| line == "valid")
    }
}

/// Starts Python, which loads a shared library and calls a function that gives a number.
///
/// # Panics
/// If Python or the function is missing, or Python cannot load the library.
pub fn call_in_python(library: &Path, function: &str) -> u32 {
    let mut command = Command::new("python3");
    command.args(["-c", "import ctypes, sys; print(getattr(ctypes.CDLL(sys.argv[1]), sys.argv[2])())"]);
    command.arg(library).arg(function);
    let printed = text(run(command, "python3 loads the library; install the package python3").stdout);
    printed.trim().parse().unwrap_or_else(|e| panic!("python3 printed {printed:?}: {e}"))
}

fn run(mut command: Command, hint: &str) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}; {hint}"));
    let Output { status, stdout, stderr } = &output;
    let (out, err) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
    assert!(status.success(), "{command:?} ended with {status}; {hint}\n{out}\n{err}");
    output
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("the output is text")
}
