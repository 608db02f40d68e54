//! The contract of every connector.

use std::time::Duration;

use connector_core::conformance::Kit;

use super::Bucket;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: ./tests/run --full runs it"]
async fn in_a_bucket() {
    holds("", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn below_a_prefix_with_layouts() {
    holds("/team%20a/kv", "&save_chunk_meta=true").await;
}

async fn holds(folder: &str, options: &str) {
    let bucket = Bucket::new();
    // The server has no multipart uploads.
    let url = bucket.url(folder, &format!("&parallel_from_bytes=1073741824{options}"));
    let report = Kit::from(connectors::builder(&url)).limit(Duration::from_secs(300)).run().await;
    assert!(report.passed(), "{report}");
}
