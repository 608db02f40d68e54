//! A real redis server on a free loopback port, in a folder of its own, until it is dropped.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct RedisServer {
    process: Child,
    folder: tempfile::TempDir,
    port: u16,
    options: Vec<String>,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl RedisServer {
    pub fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        // Another process may take a free port before redis does.
        for _ in 0..10 {
            let port = free_port();
            let mut process = spawn(port, folder.path(), &options);
            if listens(&mut process, port) {
                return Self { process, folder, port, options };
            }
            process.wait().expect("it has ended");
        }
        panic!("redis-server does not start with {options:?}");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `resp://127.0.0.1:port` and what follows.
    pub fn url(&self, rest: &str) -> String {
        format!("resp://127.0.0.1:{}{rest}", self.port)
    }

    pub fn kill(&mut self) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it has ended");
    }

    /// Starts it again after [`kill`](Self::kill), on the same port.
    pub fn start_again(&mut self) {
        let until = Instant::now() + PATIENCE;
        loop {
            self.process = spawn(self.port, self.folder.path(), &self.options);
            if listens(&mut self.process, self.port) {
                return;
            }
            assert!(Instant::now() < until, "port {} is taken", self.port);
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn spawn(port: u16, folder: &std::path::Path, options: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "-::1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(folder)
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start `redis-server`: {e}; install it: `apt-get install redis-server`"))
}

fn listens(process: &mut Child, port: u16) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if process.try_wait().expect("its state").is_some() {
            return false;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("redis-server does not answer on port {port}");
}
