//! The gcs store on fake-gcs-server, beyond the contract of every store.
#![forbid(unsafe_code)]

#[path = "../emulated/mod.rs"]
mod emulated;

mod conformance;
mod options;
mod values;

use std::sync::LazyLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use emulated::small;
use kvconn_cloud_servers::{FakeGcs, request};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// One server for all tests. The system ends it with this process.
static SERVER: LazyLock<FakeGcs> = LazyLock::new(FakeGcs::start);
static BUCKETS: AtomicUsize = AtomicUsize::new(0);

/// A bucket of its own for each test.
struct Bucket(String);

impl Bucket {
    fn new() -> Self {
        let name = format!("chunks-{}", BUCKETS.fetch_add(1, Relaxed));
        SERVER.bucket(&name);
        Self(name)
    }

    /// The URL of the bucket, or of a folder in it, with more options.
    fn url(&self, folder: &str, options: &str) -> String {
        format!("gs://{}{folder}?endpoint={}&anonymous=true{options}", self.0, SERVER.endpoint())
    }

    /// Whether the object exists and is the chunk of this seed.
    fn has(&self, name: &str, seed: u8) -> bool {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let target = format!("/storage/v1/b/{}/o/{name}?alt=media", self.0);
        let (status, answer) = request(SERVER.port(), "GET", &target, &[], "");
        let chunk = small(seed);
        status == 200 && answer.ends_with(std::str::from_utf8(&chunk).expect("a text"))
    }

    /// Writes an object as another program does.
    fn write(&self, name: &str, text: &str) {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let target = format!("/upload/storage/v1/b/{}/o?uploadType=media&name={name}", self.0);
        let (status, answer) = request(SERVER.port(), "POST", &target, &[], text);
        assert_eq!(status, 200, "{answer}");
    }
}
