//! Each built-in store keeps the contract.

use connector_core::conformance::Kit;
use connectors::{ContextBuilder, Dtype, LMCacheMetadata, LayerGroup};

mod memory {
    connector_core::conformance_tests!(connectors::builder("memory://conformance"));
}

mod memory_without_a_name {
    // Small enough that the kit tries the limit.
    connector_core::conformance_tests!(connectors::builder("memory://?capacity=120000000"));
}

mod fs {
    connector_core::conformance_tests!(super::fs(""));
}

mod fs_raw {
    connector_core::conformance_tests!(super::fs("?save_chunk_meta=false"));
}

mod fs_raw_with_metadata {
    connector_core::conformance_tests!(super::fs_with_metadata());
}

mod fs_as_vllm {
    connector_core::conformance_tests!(super::fs("?layout=vllm"));
}

mod fs_as_sglang {
    connector_core::conformance_tests!(super::fs("?layout=sglang&capacity=300000000"));
}

mod fs_on_several_directories {
    connector_core::conformance_tests!(super::fs(",b,c?relative_tmp_dir=tmp"));
}

mod mock {
    // The latency is short and the throughput high, so that the test is fast.
    connector_core::conformance_tests!(connectors::builder(
        "mock://1?peeking_latency=0.01&read_throughput=100&write_throughput=100"
    ));
}

mod audit_over_memory {
    connector_core::conformance_tests!(super::audit("memory://audited"));
}

mod audit_over_fs {
    connector_core::conformance_tests!(super::in_directory(|dir| super::audit(&format!("fs://{dir}"))));
}

mod audit_over_raw_fs {
    connector_core::conformance_tests!(super::in_directory(|dir| {
        super::audit(&format!("fs://{dir}?save_chunk_meta=false"))
    }));
}

mod audit_over_mock {
    connector_core::conformance_tests!(super::audit("mock://1?peeking_latency=0.01"));
}

mod audit_over_tiered {
    connector_core::conformance_tests!(super::in_directory(|dir| {
        let url = super::tiered("memory://front-of-audited", &format!("fs://{dir}"), "write_through");
        super::audit(&url)
    }));
}

mod faulty_without_faults {
    connector_core::conformance_tests!(connectors::builder("faulty://?back=memory://behind-faults"));
}

mod tiered_write_through {
    connector_core::conformance_tests!(super::in_directory(|dir| {
        connectors::builder(&super::tiered("memory://front-1", &format!("fs://{dir}"), "write_through"))
    }));
}

mod tiered_write_back {
    connector_core::conformance_tests!(super::in_directory(|dir| {
        connectors::builder(&super::tiered("memory://front-2", &format!("fs://{dir}"), "write_back"))
    }));
}

mod all_layers {
    connector_core::conformance_tests!(super::in_directory(|dir| {
        let layers = "timeout_ms=30000&retries=2&max_in_flight=64&breaker_failures=5";
        connectors::builder(&format!("fs://{dir}?{layers}"))
    }));
}

/// A URL as another URL's option.
fn encoded(url: &str) -> String {
    url.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

fn audit(behind: &str) -> ContextBuilder {
    connectors::builder(&format!("audit://?actual_remote_url={}&verify_checksum=true", encoded(behind)))
}

fn tiered(front: &str, back: &str, mode: &str) -> String {
    format!("tiered://?front={}&back={}&mode={mode}", encoded(front), encoded(back))
}

/// A store whose URL contains a directory, which lives as long as the kit.
fn in_directory(builder: impl FnOnce(&str) -> ContextBuilder) -> Kit {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let builder = builder(&dir.path().display().to_string());
    Kit::new(move |backend| {
        let _lives = &dir;
        builder.clone().local_cpu_backend(backend).open()
    })
}

/// An `fs` store in new directories, which live as long as the kit.
fn fs(options: &str) -> Kit {
    let dir = tempfile::tempdir().expect("a directory can be made");
    // Further directories of the URL are beside the first.
    let root = dir.path().display().to_string();
    let url = format!("fs://{root}/a{}", options.replace(",", &format!(",{root}/")));
    Kit::new(move |backend| {
        let _lives = &dir;
        connectors::builder(&url).local_cpu_backend(backend).open()
    })
}

/// A raw `fs` store with the engine's metadata.
fn fs_with_metadata() -> Kit {
    let group = LayerGroup { kv_size: 2, num_layers: 3, hidden_dim: 8, dtype: Dtype::Bfloat16 };
    let metadata = std::sync::Arc::new(LMCacheMetadata::new("opt", 1, 0, 256, &[group]).expect("the metadata agrees"));
    let dir = tempfile::tempdir().expect("a directory can be made");
    let url = format!("fs://{}?save_chunk_meta=false", dir.path().display());
    let opened_with = metadata.clone();
    let kit = Kit::new(move |backend| {
        let _lives = &dir;
        connectors::builder(&url).metadata(opened_with.clone()).local_cpu_backend(backend).open()
    });
    kit.metadata(metadata)
}
