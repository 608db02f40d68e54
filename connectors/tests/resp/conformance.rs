//! The contract of every connector.

use std::sync::Arc;

use connector_core::conformance::Kit;
use connectors::{Dtype, LMCacheMetadata, LayerGroup};

use kvconn_redis_server::RedisServer;

mod resp {
    connector_core::conformance_tests!(super::resp(""));
}

mod resp2 {
    connector_core::conformance_tests!(super::resp(
        "/3?protocol=2&connections=1&max_value_bytes=3000000&namespace=team-a"
    ));
}

mod resp_with_metadata {
    connector_core::conformance_tests!(super::resp_with_metadata());
}

fn resp(rest: &str) -> Kit {
    let server = RedisServer::start(&[]);
    let url = format!("{}{rest}", server.url("resp"));
    Kit::new(move |backend| {
        let _lives = &server;
        connectors::builder(&url).local_cpu_backend(backend).open()
    })
}

/// Values take their layout from the engine's metadata.
fn resp_with_metadata() -> Kit {
    let group = LayerGroup { kv_size: 2, num_layers: 3, hidden_dim: 8, dtype: Dtype::Bfloat16 };
    let metadata = Arc::new(LMCacheMetadata::new("opt", 1, 0, 256, &[group]).expect("the metadata agrees"));
    let server = RedisServer::start(&[]);
    let (url, opened_with) = (server.url("resp"), metadata.clone());
    let kit = Kit::new(move |backend| {
        let _lives = &server;
        connectors::builder(&url).metadata(opened_with.clone()).local_cpu_backend(backend).open()
    });
    kit.metadata(metadata)
}
