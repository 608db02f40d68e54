//! A large `s3://` store. The test measures the process's memory, so it is the only one in this file.
#![forbid(unsafe_code)]

use std::fs;

use connectors::{CacheKey, Connector};
use futures::StreamExt;
use kvconn_cloud_servers::{Credentials, FakeS3, Operation};

const BUCKET: &str = "kvconn";

fn url(endpoint: &str, credentials: &Credentials, rest: &str) -> String {
    let Credentials { access_key_id, secret_access_key, .. } = credentials;
    format!(
        "s3://{BUCKET}/p?endpoint={endpoint}&region=us-east-1&access_key_id={access_key_id}&\
         secret_access_key={secret_access_key}{rest}"
    )
}

/// The memory of this process, in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4096
}

#[tokio::test]
#[ignore = "slow: ./tests/run --full runs it"]
async fn a_hundred_thousand_objects_are_listed_at_constant_memory() {
    const OBJECTS: usize = 100_000;
    let fake = FakeS3::start();
    fake.bucket(BUCKET);
    let key = |n: usize| -> CacheKey { format!("model@1@0@{:x}@bfloat16", n + 1).parse().expect("a key") };
    for n in 0..OBJECTS {
        fake.put_object(BUCKET, &format!("p/{}", key(n)), Vec::new(), &[]);
    }
    let store: Connector = connectors::open(&url(&fake.endpoint(), &fake.credentials(), "")).await.expect("it opens");
    fake.forget_requests();

    let mut listed = vec![false; OBJECTS];
    let mut at_a_tenth = 0;
    let mut keys = store.list("");
    for n in 1..=OBJECTS {
        let key = keys.next().await.expect("a key for each object").expect("no fault");
        let hash = key.as_str().split('@').nth(3).and_then(|hash| usize::from_str_radix(hash, 16).ok());
        let seen = &mut listed[hash.expect("a hash") - 1];
        assert!(!*seen, "{key} is listed twice");
        *seen = true;
        // The listing asks for a page when its caller has read the last one.
        let pages = fake.count(Operation::List);
        assert!(pages <= n / 1000 + 2, "{pages} pages for {n} keys");
        if n == OBJECTS / 10 {
            at_a_tenth = resident();
        }
    }
    assert!(keys.next().await.is_none());
    // The keys alone would take more, and so would the pages of the server.
    let grown = resident().saturating_sub(at_a_tenth);
    assert!(grown < 4 << 20, "the listing took {grown} bytes");
}
