//! The stores of the hot paths, and their servers in other processes.

use kvconn_cloud_servers::{Credentials, FakeS3};
use kvconn_redis_server::RedisServer;
use tempfile::TempDir;

pub(crate) struct Stores {
    redis: RedisServer,
    s3: FakeS3,
    /// In memory, so that the file system of the machine does not change the counts.
    directory: TempDir,
}

impl Stores {
    pub(crate) fn start() -> Self {
        let s3 = FakeS3::start();
        s3.bucket("kvconn");
        let directory = tempfile::Builder::new().prefix("kvconn-counts-").tempdir_in("/dev/shm");
        Self { redis: RedisServer::start_tls(&[]), s3, directory: directory.expect("Linux has memory at /dev/shm") }
    }

    /// The URL of a store.
    pub(crate) fn url(&self, store: &str) -> String {
        match store {
            "redis" | "resp" => self.redis.url(store),
            "resp+tls" => {
                let authority = self.redis.certificates().ca_pem();
                format!("{}?tls_ca={}", self.redis.tls_url("resps"), authority.display())
            }
            "fs" => format!("fs://{}", self.directory.path().display()),
            "layers" => "memory://?timeout_ms=60000&retries=2&max_in_flight=64&breaker_failures=5".into(),
            "s3" => {
                let Credentials { access_key_id, secret_access_key, .. } = self.s3.credentials();
                format!(
                    "s3://kvconn?endpoint={}&region=us-east-1&access_key_id={access_key_id}&\
                     secret_access_key={secret_access_key}",
                    self.s3.endpoint()
                )
            }
            other => panic!("no store `{other}`"),
        }
    }
}
