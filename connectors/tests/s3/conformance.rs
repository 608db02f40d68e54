//! The contract of every connector.

use std::sync::Arc;

use connector_core::conformance::Kit;
use connectors::{Dtype, LMCacheMetadata, LayerGroup};
use kvconn_cloud_servers::{Moto, S3sFs};

use crate::{BUCKET, fake, url};

mod plain {
    connector_core::conformance_tests!(super::on_fake(""));
}

mod with_a_prefix_and_layouts {
    connector_core::conformance_tests!(super::on_fake("/team-a/kv?save_chunk_meta=true&max_value_bytes=3000000"));
}

mod raw_with_metadata {
    connector_core::conformance_tests!(super::with_metadata());
}

/// An object is a file here, so that its name is shorter.
#[tokio::test(flavor = "multi_thread")]
async fn s3s_fs() {
    let server = S3sFs::start();
    server.bucket(BUCKET);
    let url = url(&server.endpoint(), "/p?max_name_bytes=150");
    let kit = Kit::new(move |backend| connectors::builder(&url).local_cpu_backend(backend).open());
    // The server fails a listing while objects vanish: it asks for the size of a file that is not there any more.
    let report = kit.run_some(|check| check.name != "list_works_while_others_write", |_| true).await;
    let failures: Vec<_> = report.failures().collect();
    assert!(report.passed() && failures.is_empty(), "{failures:?}");
}

/// Moto takes milliseconds for each request, one after another. It fails one of two puts of a key at once, and cuts ranges
/// of one object that are read at once.
#[tokio::test(flavor = "multi_thread")]
async fn moto() {
    let server = Moto::start();
    server.bucket(BUCKET);
    let url = url(&server.endpoint(), "/p?retries=5&max_value_bytes=3000000");
    let kit = Kit::new(move |backend| connectors::builder(&url).local_cpu_backend(backend).open());
    let long = [
        "thousands_of_keys_in_one_batch",
        "hundreds_of_calls_at_once",
        "pages_are_in_order_and_complete",
        "dropped_batches_do_no_harm",
    ];
    let report = kit.run_some(|check| !long.contains(&check.name), |_| true).await;
    let failures: Vec<_> = report.failures().collect();
    assert!(report.passed() && failures.is_empty(), "{failures:?}");
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
