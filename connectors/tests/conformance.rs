//! The contract of every connector, kept by each built-in store.

use connector_core::conformance::Kit;
use connectors::{Dtype, LMCacheMetadata, LayerGroup};

mod memory {
    connector_core::conformance_tests!(connectors::builder("memory://conformance"));
}

mod memory_without_a_name {
    // Little enough that the kit tries the limit.
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

mod fs_on_several_directories {
    connector_core::conformance_tests!(super::fs(",b,c?relative_tmp_dir=tmp"));
}

/// A store in a directory of its own, which lives as long as the kit.
fn fs(options: &str) -> Kit {
    let dir = tempfile::tempdir().expect("a directory can be made");
    // A further directory of the URL lies beside the first.
    let root = dir.path().display().to_string();
    let url = format!("fs://{root}/a{}", options.replace(",", &format!(",{root}/")));
    Kit::new(move |backend| {
        let _lives = &dir;
        connectors::builder(&url).local_cpu_backend(backend).open()
    })
}

/// Raw values take their layout from what the engine says about its cache.
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
