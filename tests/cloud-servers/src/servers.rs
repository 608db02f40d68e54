//! Servers that others wrote.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use kvconn_redis_server::process;
use sha2::Sha256;
use tempfile::TempDir;

use crate::fake::Credentials;
use crate::http::request;

/// Python and node need seconds to start, and more on a busy machine.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// A process that is the server, and dies with its value or with this process.
#[derive(Debug)]
struct Server {
    name: &'static str,
    port: u16,
    dir: TempDir,
    child: Option<Child>,
    /// Adds the program's arguments for a port and a folder.
    configure: fn(&mut Command, &str, &TempDir),
    /// The log has this text when the server is ready.
    ready: &'static str,
}

impl Server {
    fn start(name: &'static str, ready: &'static str, configure: fn(&mut Command, &str, &TempDir)) -> Self {
        let dir = TempDir::with_prefix(format!("kvconn-{name}-")).expect("a directory can be made");
        fs::create_dir(dir.path().join("data")).expect("a directory can be made");
        let mut server = Self { name, port: 0, dir, child: None, configure, ready };
        let deadline = Instant::now() + STARTS_WITHIN;
        loop {
            server.port = process::free_port();
            match server.try_start(deadline) {
                Ok(()) => return server,
                // Another process took the port after `free_port`.
                Err(log) if in_use(&log) && Instant::now() < deadline => {}
                Err(log) => panic!("{name} does not start:\n{log}"),
            }
        }
    }

    /// Gives the log if the server ended.
    fn try_start(&mut self, deadline: Instant) -> Result<(), String> {
        let path = self.dir.path().join("log");
        let log = File::create(&path).expect("a log can be written");
        let errors = log.try_clone().expect("a file can be cloned");
        let started = process::start(&program(self.name), |command| {
            command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir(self.dir.path());
            (self.configure)(command, &self.port.to_string(), &self.dir);
        });
        let child = self.child.insert(started.unwrap_or_else(|e| panic!("`setpriv` does not start: {e}")));
        loop {
            let log = fs::read_to_string(&path).unwrap_or_default();
            if child.try_wait().expect("the server can be asked").is_some() {
                self.child = None;
                return Err(fs::read_to_string(&path).unwrap_or(log));
            }
            if log.contains(self.ready) {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "{} does not start in time; it logged:\n{log}", self.name);
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn restart(&mut self) {
        self.kill9();
        let deadline = Instant::now() + STARTS_WITHIN;
        while let Err(log) = self.try_start(deadline) {
            assert!(in_use(&log) && Instant::now() < deadline, "{} does not restart:\n{log}", self.name);
        }
    }

    fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails if the server has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
    }
}

fn in_use(log: &str) -> bool {
    log.to_lowercase().contains("in use")
}

/// A Python that can import boto3, Amazon's own client of S3.
///
/// # Panics
/// If moto is not installed. Its environment has boto3.
pub fn python_with_boto3() -> PathBuf {
    Path::new(&program("moto")).with_file_name("python")
}

/// The path of an installed server.
fn program(name: &str) -> String {
    process::installed(
        name,
        match name {
            "s3s-fs" => "bin/s3s-fs",
            "moto" => "bin/moto_server",
            "azurite" => "node_modules/.bin/azurite-blob",
            _ => "bin/fake-gcs-server",
        },
    )
}

macro_rules! server {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $type(Server);

        impl $type {
            /// The port on 127.0.0.1.
            pub fn port(&self) -> u16 {
                self.0.port
            }

            /// `http://127.0.0.1:port`.
            pub fn endpoint(&self) -> String {
                format!("http://127.0.0.1:{}", self.0.port)
            }

            /// The server's log since its last start.
            pub fn log(&self) -> String {
                fs::read_to_string(self.0.dir.path().join("log")).unwrap_or_default()
            }

            /// Kills the server, as a crash does.
            pub fn kill9(&mut self) {
                self.0.kill9();
            }

            /// Starts the server again on the same port. Kills it first if it runs.
            ///
            /// # Panics
            /// As `start`.
            pub fn restart(&mut self) {
                self.0.restart();
            }
        }
    };
}

server! {
    /// A running `s3s-fs`: S3 over a folder of files. Region names do not matter. A restarted server has its objects.
    S3sFs
}

impl S3sFs {
    /// Starts a server without buckets.
    ///
    /// # Panics
    /// If the server is not installed, or does not start in time.
    pub fn start() -> Self {
        Self(Server::start("s3s-fs", "server is running", |command, port, dir| {
            let Credentials { access_key_id, secret_access_key, .. } = Credentials::example();
            command.env("RUST_LOG", "s3s_fs=info").args(["--host", "127.0.0.1", "--port", port]);
            command.args(["--access-key", &access_key_id, "--secret-key", &secret_access_key]);
            // The second name serves addresses that begin with the bucket's name.
            command.args(["--domain", &format!("127.0.0.1:{port}"), "--domain", &format!("localhost:{port}")]);
            command.arg(dir.path().join("data"));
        }))
    }

    /// The server refuses other credentials.
    pub fn credentials(&self) -> Credentials {
        Credentials::example()
    }

    /// Makes an empty bucket. Its name has 3 characters or more.
    ///
    /// # Panics
    /// If the bucket exists.
    pub fn bucket(&self, name: &str) {
        fs::create_dir(self.0.dir.path().join("data").join(name)).expect("a fresh bucket");
    }
}

server! {
    /// A running `moto_server`: Amazon's services in Python. A restarted server is empty.
    Moto
}

impl Moto {
    /// Starts a server without buckets.
    ///
    /// # Panics
    /// If the server is not installed, or does not start in time.
    pub fn start() -> Self {
        Self(Server::start("moto", "Running on http", |command, port, _| {
            command.env("PYTHONUNBUFFERED", "1").args(["-H", "127.0.0.1", "-p", port]);
        }))
    }

    /// The server accepts other credentials too.
    pub fn credentials(&self) -> Credentials {
        Credentials::example()
    }

    /// Makes an empty bucket in `us-east-1`. Its name has 3 characters or more.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn bucket(&self, name: &str) {
        let (status, answer) = request(self.port(), "PUT", &format!("/{name}"), &[], "");
        assert_eq!(status, 200, "{answer}");
    }
}

server! {
    /// A running `fake-gcs-server`: Google Cloud Storage's JSON interface, in memory. It needs no credentials. A restarted
    /// server is empty.
    FakeGcs
}

impl FakeGcs {
    /// Starts a server without buckets.
    ///
    /// # Panics
    /// If the server is not installed, or does not start in time.
    pub fn start() -> Self {
        Self(Server::start("fake-gcs", "server started", |command, port, _| {
            command.args(["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", port]);
            command.args(["-public-host", &format!("127.0.0.1:{port}")]);
            command.args(["-external-url", &format!("http://127.0.0.1:{port}")]);
        }))
    }

    /// Makes an empty bucket. Its name has 3 characters or more.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn bucket(&self, name: &str) {
        let json = [("Content-Type", "application/json")];
        let body = format!(r#"{{"name": "{name}"}}"#);
        let (status, answer) = request(self.port(), "POST", "/storage/v1/b?project=test", &json, &body);
        assert_eq!(status, 200, "{answer}");
    }
}

server! {
    /// A running `azurite-blob`: Azure's Blob service, in memory. A restarted server is empty.
    Azurite
}

impl Azurite {
    /// The name of the only account. URLs are `http://127.0.0.1:port/devstoreaccount1/container`.
    pub const ACCOUNT: &str = "devstoreaccount1";
    /// The account's key, which Azurite documents.
    pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    /// Starts a server without containers.
    ///
    /// # Panics
    /// If the server is not installed, or does not start in time.
    pub fn start() -> Self {
        Self(Server::start("azurite", "successfully listens on", |command, port, _| {
            command.args(["--loose", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]);
            command.args(["--blobHost", "127.0.0.1", "--blobPort", port]);
        }))
    }

    /// `http://127.0.0.1:port/devstoreaccount1`, the endpoint of the account.
    pub fn account_endpoint(&self) -> String {
        format!("{}/{}", self.endpoint(), Self::ACCOUNT)
    }

    /// Makes an empty container. Its name has 3 characters or more.
    ///
    /// # Panics
    /// If the server refuses.
    pub fn bucket(&self, name: &str) {
        let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let version = "2021-12-02";
        let resource = format!("/{0}/{0}/{name}\nrestype:container", Self::ACCOUNT);
        // The empty lines are headers that the request does not have.
        let text = format!("PUT{}x-ms-date:{date}\nx-ms-version:{version}\n{resource}", "\n".repeat(12));
        let key = BASE64_STANDARD.decode(Self::KEY).expect("a key in base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of any length");
        mac.update(text.as_bytes());
        let signature = BASE64_STANDARD.encode(mac.finalize().into_bytes());
        let headers = [
            ("x-ms-date", date.as_str()),
            ("x-ms-version", version),
            ("Authorization", &format!("SharedKey {}:{signature}", Self::ACCOUNT)),
        ];
        let target = format!("/{}/{name}?restype=container", Self::ACCOUNT);
        let (status, answer) = request(self.port(), "PUT", &target, &headers, "");
        assert_eq!(status, 201, "{answer}");
    }
}
