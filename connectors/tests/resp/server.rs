//! A real redis server on a free loopback port, in a folder of its own, until it is dropped.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct RedisServer {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl RedisServer {
    pub(crate) fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        // Another process may take a free port before redis does.
        for _ in 0..10 {
            let port = free_port();
            let mut process = spawn(port, folder.path(), &options);
            if listens(&mut process, port) {
                return Self { process, port, _folder: folder };
            }
            process.wait().expect("it has ended");
        }
        panic!("redis-server does not start with {options:?}");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `resp://127.0.0.1:port` and what follows.
    pub(crate) fn url(&self, rest: &str) -> String {
        format!("resp://127.0.0.1:{}{rest}", self.port)
    }

    /// What `redis-cli` prints.
    pub(crate) fn cli(&self, words: &[&str]) -> Vec<u8> {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output();
        let output = output
            .unwrap_or_else(|e| panic!("cannot start `redis-cli`: {e}; install it: `apt-get install redis-tools`"));
        assert!(output.status.success(), "{words:?}: {output:?}");
        output.stdout
    }
}

/// The text of a key, by number.
pub(crate) fn key(n: usize) -> connectors::CacheKey {
    format!("org/model@1@0@{n:x}@bfloat16").parse().expect("a key")
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
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

/// Whether redis answers there, in whatever way.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut first = [0];
    stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut first).is_ok() && matches!(first[0], b'+' | b'-')
}

fn listens(process: &mut Child, port: u16) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if process.try_wait().expect("its state").is_some() {
            return false;
        }
        if answers(port) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("redis-server does not answer on port {port}");
}
