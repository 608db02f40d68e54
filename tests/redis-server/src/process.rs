//! Child processes that end with this process, even if it is killed.

use std::env;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::thread;

/// These ports are below the ones that Linux gives to clients, so no connection of another test takes a port during a restart.
const PORTS: std::ops::Range<u16> = 10_000..32_768;

type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Linux kills such a child when the *thread* that started it ends. A test's thread may end before a server that several
/// tests share, so one thread, which never ends, starts all children.
static STARTER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
    let (jobs, todo) = mpsc::channel::<Job>();
    thread::spawn(move || {
        for (mut command, answer) in todo {
            // Fails if the caller's thread has ended.
            let _ = answer.send(command.spawn());
        }
    });
    Mutex::new(jobs)
});

/// Starts `program` with the settings of `configure`, so that it does not outlive this process.
///
/// # Errors
/// The system's error.
pub fn start(program: &str, configure: impl FnOnce(&mut Command)) -> io::Result<Child> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    configure(&mut command);
    let (answer, started) = mpsc::channel();
    // If this fails, `answer` is dropped and `recv` gives the error.
    let _ = STARTER.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer));
    started.recv().map_err(io::Error::other)?
}

/// A port of 127.0.0.1 that was free when this call looked.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(PORTS);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// The path of a program in the folder of a server that `tests/servers/install` installed. `install` puts each version into its
/// own folder.
///
/// # Panics
/// If the server is not installed.
pub fn installed(name: &str, program: &str) -> String {
    let home = env::var_os("KVCONN_TEST_SERVERS").map(PathBuf::from).unwrap_or_else(|| {
        let home = env::var_os("HOME").expect("HOME is set, or KVCONN_TEST_SERVERS");
        PathBuf::from(home).join(".cache/kvconn-tests")
    });
    let versions = include_str!("../../servers/versions");
    let version = versions.lines().find_map(|line| line.strip_prefix(name)).expect("a name in `versions`").trim();
    let folder = home.join(format!("{name}-{version}"));
    let path = folder.join(program);
    assert!(
        folder.join("complete").is_file() && path.is_file(),
        "{name} {version} is not installed in {}; run tests/servers/install, or ./tests/run, which does",
        folder.display()
    );
    path.to_string_lossy().into_owned()
}
