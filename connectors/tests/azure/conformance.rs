//! The contract of every connector.

use std::time::Duration;

use connector_core::conformance::Kit;

use super::Container;

/// Azurite takes milliseconds for each request, one after another.
const LONG: [&str; 2] = ["thousands_of_keys_in_one_batch", "pages_are_in_order_and_complete"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: ./tests/run --full runs it"]
async fn in_a_container() {
    holds("", "", |check| !LONG.contains(&check)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn below_a_prefix_with_layouts() {
    holds("/team%20a/kv", "&save_chunk_meta=true", |check| !LONG.contains(&check)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: ./tests/run --full runs it"]
async fn with_thousands_of_keys() {
    holds("", "&io_timeout_ms=120000", |check| LONG.contains(&check)).await;
}

async fn holds(folder: &str, options: &str, wanted: fn(&str) -> bool) {
    let container = Container::new();
    let url = container.url(folder, options);
    let report = Kit::from(connectors::builder(&url))
        .limit(Duration::from_secs(300))
        .run_some(|check| wanted(check.name), |_| true)
        .await;
    let failures: Vec<_> = report.failures().collect();
    assert!(report.passed() && failures.is_empty(), "{report}");
}
