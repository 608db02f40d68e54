//! The contract of every connector.

use std::sync::Arc;

use connector_core::conformance::{Check, Kit};
use connectors::{Dtype, LMCacheMetadata, LayerGroup};
use kvconn_cloud_servers::{Moto, S3sFs};

use crate::{BUCKET, fake, url};

mod with_a_prefix_and_layouts {
    connector_core::conformance_tests!(super::on_fake("/team-a/kv?save_chunk_meta=true&max_value_bytes=3000000"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: ./tests/run --full runs it"]
async fn raw() {
    passes(&on_fake(""), |_| true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: ./tests/run --full runs it"]
async fn raw_with_metadata() {
    passes(&with_metadata(), |_| true).await;
}

/// An object is a file here, so that its name is shorter. The server fails a page of a listing while objects vanish. The
/// tests of the command run `kvconn check` on this server.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: ./tests/run --full runs it"]
async fn s3s_fs_with_layouts() {
    let server = S3sFs::start();
    server.bucket(BUCKET);
    passes(&on(&url(&server.endpoint(), "/p?max_name_bytes=150&save_chunk_meta=true")), |_| true).await;
}

/// Moto answers 500 to one of two requests for a key at once, hence the retries.
fn on_moto(server: &Moto) -> Kit {
    server.bucket(BUCKET);
    on(&url(&server.endpoint(), "/p?retries=5&max_value_bytes=3000000"))
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_in_short() {
    let server = Moto::start();
    passes(&on_moto(&server), |check| ["round_trip", "overwriting", "removal"].contains(&check.chapter)).await;
}

/// Moto takes milliseconds for each request, one after another, so that these pass the kit's limit on a busy machine.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: ./tests/run --full runs it"]
async fn moto() {
    let server = Moto::start();
    let long = [
        "thousands_of_keys_in_one_batch",
        "hundreds_of_calls_at_once",
        "pages_are_in_order_and_complete",
        "dropped_batches_do_no_harm",
    ];
    passes(&on_moto(&server), |check| !long.contains(&check.name)).await;
}

async fn passes(kit: &Kit, is_wanted: impl Fn(&Check) -> bool) {
    let report = kit.run_some(is_wanted, |_| true).await;
    let failures: Vec<_> = report.failures().collect();
    assert!(report.passed() && failures.is_empty(), "{failures:?}");
}

fn on(url: &str) -> Kit {
    Kit::from(connectors::builder(url))
}

/// A store on a new server, which lives as long as the kit.
fn on_fake(rest: &str) -> Kit {
    let server = fake();
    let url = url(&server.endpoint(), rest);
    Kit::new(move |backend| {
        let _lives = &server;
        connectors::builder(&url).local_cpu_backend(backend).open()
    })
}

/// A raw store with the engine's metadata.
fn with_metadata() -> Kit {
    let group = LayerGroup { kv_size: 2, num_layers: 3, hidden_dim: 8, dtype: Dtype::Bfloat16 };
    let metadata = Arc::new(LMCacheMetadata::new("opt", 1, 0, 256, &[group]).expect("the metadata agrees"));
    let server = fake();
    let url = url(&server.endpoint(), "");
    let opened_with = metadata.clone();
    let kit = Kit::new(move |backend| {
        let _lives = &server;
        connectors::builder(&url).metadata(opened_with.clone()).local_cpu_backend(backend).open()
    });
    kit.metadata(metadata)
}
