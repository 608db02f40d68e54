//! The script `tests/servers/install`, with programs in place of cargo, Python and npm that only record their arguments.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A home, and a folder of programs.
struct Machine(TempDir);

/// The folder of the script.
const SERVERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../servers");

/// Records the call, and takes long enough for a second run to come.
const RECORD: &str = "#!/bin/sh\necho \"${0##*/} $*\" >>\"$CALLS\"\nsleep 0.2\n";
/// Also makes the folder of a virtual environment.
const PYTHON: &str = r#"
case "$*" in -m\ venv\ *)
    mkdir -p "$3/bin"
    printf '#!/bin/sh\necho "pip $*" >>"$CALLS"\n' >"$3/bin/pip"
    printf '#!/bin/sh\necho /package\n' >"$3/bin/python"
    chmod +x "$3/bin/pip" "$3/bin/python"
esac
"#;

impl Machine {
    fn new() -> Self {
        let machine = Self(TempDir::new().expect("a folder"));
        fs::create_dir(machine.path("programs")).expect("a folder");
        machine.program("cargo", RECORD);
        machine.program("npm", RECORD);
        machine.program("python3", &(RECORD.to_owned() + PYTHON));
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.path("programs").join(name);
        fs::write(&path, text).expect("a program");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a program");
    }

    fn start(&self) -> Child {
        let path = format!("{}:{}", self.path("programs").display(), std::env::var("PATH").expect("a PATH"));
        Command::new(Path::new(SERVERS).join("install"))
            .env("PATH", path)
            .env("CALLS", self.path("calls"))
            .env("KVCONN_TEST_SERVERS", self.path("servers"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash starts")
    }

    /// The calls of a run, but for those of Python.
    fn run(&self) -> Vec<String> {
        let output = self.start().wait_with_output().expect("it ends");
        assert!(output.status.success());
        self.calls()
    }

    /// The calls since the last time.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        calls.lines().filter(|call| !call.starts_with("python3")).map(str::to_owned).collect()
    }

    /// The folders of the servers.
    fn folders(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("servers")).expect("a folder");
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()).collect()
    }
}

#[test]
fn a_run_installs_each_server_in_its_version_and_the_next_run_nothing() {
    let machine = Machine::new();
    let calls = machine.run();
    let versions = fs::read_to_string(Path::new(SERVERS).join("versions")).expect("versions");
    let servers: Vec<_> = versions.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(calls.len(), servers.len(), "{calls:#?}");
    for server in servers {
        let (name, version) = server.split_once(' ').expect("a name and a version");
        assert!(calls.iter().any(|call| call.contains(version)), "{name} {version}: {calls:#?}");
        assert!(machine.path("servers").join(format!("{name}-{version}/complete")).is_file(), "{name}");
    }
    assert_eq!(machine.run(), Vec::<String>::new());
}

#[test]
fn an_interrupted_install_starts_anew() {
    let machine = Machine::new();
    machine.run();
    let folders = machine.folders();
    let interrupted = folders.iter().find(|path| path.to_string_lossy().contains("azurite")).expect("a folder");
    fs::remove_file(interrupted.join("complete")).expect("the file");
    fs::write(interrupted.join("a-part"), "").expect("a file");
    let calls = machine.run();
    assert!(calls.len() == 1 && calls[0].starts_with("npm install "), "{calls:#?}");
    assert!(!interrupted.join("a-part").exists() && interrupted.join("complete").is_file());
}

#[test]
fn a_failed_install_is_an_error_and_not_complete() {
    let machine = Machine::new();
    machine.program("npm", "#!/bin/sh\nexit 1\n");
    assert!(!machine.start().wait().expect("it ends").success());
    let folders = machine.folders();
    let failed = folders.iter().find(|path| path.to_string_lossy().contains("azurite")).expect("a folder");
    assert!(!failed.join("complete").exists());
}

#[test]
fn two_runs_at_once_install_once() {
    let machine = Machine::new();
    let (mut one, mut other) = (machine.start(), machine.start());
    assert!(one.wait().expect("it ends").success() && other.wait().expect("it ends").success());
    assert_eq!(machine.calls().len(), machine.folders().len());
}
