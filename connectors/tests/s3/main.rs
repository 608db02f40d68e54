//! `s3://` on servers that others wrote, and on an S3 server that fails on demand.

mod conformance;
mod listing;
mod lookups;
mod names;
mod opening;

use connectors::{CacheKey, Connector, MemoryObj};
use kvconn_cloud_servers::{Credentials, FakeS3};

/// The bucket of a test's server.
const BUCKET: &str = "kv-cache";

/// The URL of the bucket on the server, with a path and options: `url(&endpoint, "/prefix?connections=3")`.
fn url(endpoint: &str, rest: &str) -> String {
    let (path, options) = rest.split_once('?').unwrap_or((rest, ""));
    let Credentials { access_key_id: id, secret_access_key: secret, .. } = Credentials::example();
    format!("s3://{BUCKET}{path}?endpoint={endpoint}&access_key_id={id}&secret_access_key={secret}&{options}")
        .trim_end_matches('&')
        .to_owned()
}

/// A server with an empty bucket.
fn fake() -> FakeS3 {
    let fake = FakeS3::start();
    fake.bucket(BUCKET);
    fake
}

async fn open(fake: &FakeS3, rest: &str) -> Connector {
    connectors::open(&url(&fake.endpoint(), rest)).await.expect("the store opens")
}

fn key(text: &str) -> CacheKey {
    text.parse().expect("a key")
}

fn chunk(text: &str) -> MemoryObj {
    MemoryObj::from(text.as_bytes().to_vec())
}
