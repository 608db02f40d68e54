//! The azure store on Azurite, beyond the contract of every store.
#![forbid(unsafe_code)]

#[path = "../emulated/mod.rs"]
mod emulated;

mod conformance;
mod credentials;
mod names;
mod ranges;

use std::sync::LazyLock;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use emulated::small;
use kvconn_cloud_servers::{Azurite, request};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// One server for all tests, because Azurite takes seconds to start. The system ends it with this process.
static SERVER: LazyLock<Azurite> = LazyLock::new(Azurite::start);
static CONTAINERS: AtomicUsize = AtomicUsize::new(0);

/// A container of its own for each test.
struct Container(String);

impl Container {
    fn new() -> Self {
        let name = format!("chunks-{}", CONTAINERS.fetch_add(1, Relaxed));
        SERVER.bucket(&name);
        Self(name)
    }

    /// The URL of the container, or of a folder in it, with the account's key and more options.
    fn url(&self, folder: &str, options: &str) -> String {
        let key = Azurite::KEY.replace('+', "%2B");
        self.with(folder, &format!("account_url={}&account_key={key}{options}", SERVER.account_endpoint()))
    }

    /// The URL with these options only.
    fn with(&self, folder: &str, options: &str) -> String {
        format!("azure://{}{folder}?{options}", self.0)
    }

    /// The target of a request for a blob, as another program sends it.
    fn target(&self, name: &str) -> String {
        let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
        format!("/{}/{}/{name}?{ALL_RIGHTS}", Azurite::ACCOUNT, self.0)
    }

    /// Whether the blob exists and is the chunk of this seed.
    fn has(&self, name: &str, seed: u8) -> bool {
        let (status, answer) = request(SERVER.port(), "GET", &self.target(name), &[("x-ms-version", "2022-11-02")], "");
        let chunk = small(seed);
        status == 200 && answer.ends_with(std::str::from_utf8(&chunk).expect("a text"))
    }

    /// Writes a blob as another program does.
    fn write(&self, name: &str, text: &str) {
        let headers = [("x-ms-version", "2022-11-02"), ("x-ms-blob-type", "BlockBlob")];
        let (status, answer) = request(SERVER.port(), "PUT", &self.target(name), &headers, text);
        assert_eq!(status, 201, "{answer}");
    }
}

/// A shared access signature with all rights until 2099. Microsoft's client made it from Azurite's key.
const ALL_RIGHTS: &str = "st=2020-01-01T00%3A00%3A00Z&se=2099-01-01T00%3A00%3A00Z&sp=rwdlac&sv=2026-10-06&ss=b&srt=sco&sig=E/RGhtH5XjcMg8mRagWE9ZBKcv51N6j8NsskYYesDkg%3D";
