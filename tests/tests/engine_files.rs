//! Checks every row of the golden vectors of file names, which the real vLLM and SGLang wrote.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::Path;

use connector_core::{CacheKey, ObjectKey};
use connectors::fs::{FindingKind, Layout, ScrubOptions, scrub};
use futures::TryStreamExt;
use kvconn_tests::{hex, number, rows, text, vectors};
use serde_json::Value;

fn vllm_key(row: &Value) -> CacheKey {
    let (rank, group) = (number(row, "rank"), number(row, "group"));
    ObjectKey::new(text(row, "model"), rank, group, hex(row, "hash_hex"), "").unwrap().into()
}

/// `None` if the model of the names is empty, as of an MLA model without a name.
fn sglang_key(row: &Value) -> Option<CacheKey> {
    let model = text(row, "suffix").strip_prefix('_').unwrap();
    Some(ObjectKey::new(model, 0, 0, hex(row, "hash_hex"), text(row, "pool")).ok()?.into())
}

#[test]
fn keys_have_vllms_paths() {
    for row in rows(&vectors("vllm_files"), "files") {
        let (key, path) = (vllm_key(&row), text(&row, "path"));
        assert_eq!(Layout::Vllm.path_of(&key).unwrap(), path);
        assert_eq!(Layout::Vllm.key_of(path), Some(key));
        for other in [text(&row, "config"), &path.replace("_r", "_r0"), &path.replace("_g", "_g0"), &path[1..]] {
            assert_ne!(Layout::Vllm.key_of(other), Layout::Vllm.key_of(path), "{other}");
        }
        assert_eq!(Layout::Vllm.key_of(text(&row, "config")), None);
        assert_eq!((Layout::Lmcache.key_of(path), Layout::Sglang.key_of(path)), (None, None));
    }
}

#[test]
fn keys_have_sglangs_names() {
    let vectors = vectors("sglang_files");
    let (mut unnamed, mut pools) = (0, BTreeSet::new());
    for row in rows(&vectors, "files") {
        let name = text(&row, "name");
        match sglang_key(&row) {
            Some(key) => {
                assert_eq!(Layout::Sglang.path_of(&key).unwrap(), name);
                assert_eq!(Layout::Sglang.key_of(name), Some(key));
                pools.insert(text(&row, "pool").to_owned());
            }
            None => {
                assert_eq!(Layout::Sglang.key_of(name), None);
                unnamed += 1;
            }
        }
        assert_eq!((Layout::Lmcache.key_of(name), Layout::Vllm.key_of(name)), (None, None));
    }
    // A new pool of SGLang needs a look at the table of pools.
    let expected: BTreeSet<_> = rows(&vectors, "pools").iter().map(|pool| pool.as_str().unwrap().to_owned()).collect();
    let expected: BTreeSet<_> =
        expected.into_iter().map(|pool| if pool == "kv" { String::new() } else { pool }).collect();
    assert_eq!((pools, unnamed), (expected, 3));
}

#[tokio::test]
async fn a_store_lists_the_files_of_the_engine_and_a_scrub_knows_its_temporary_files() {
    for (layout, table, path) in [("vllm", "vllm_files", "path"), ("sglang", "sglang_files", "name")] {
        let (dir, vectors) = (tempfile::tempdir().unwrap(), vectors(table));
        let write = |path: &str, bytes: &[u8]| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        let mut expected = BTreeSet::new();
        for row in rows(&vectors, "files") {
            write(text(&row, path), text(&row, path).as_bytes());
            match layout {
                "vllm" => write(text(&row, "config"), b"{}"),
                _ => assert!(!Path::new(text(&row, path)).is_absolute()),
            }
            expected.extend(if layout == "vllm" { Some(vllm_key(&row)) } else { sglang_key(&row) });
        }
        write(text(&vectors, "unfinished"), b"half");
        let url = format!("fs://{}?layout={layout}", dir.path().display());
        let store = connectors::open(&url).await.unwrap();
        let listed: Vec<CacheKey> = store.list("").try_collect().await.unwrap();
        assert_eq!(listed.len(), expected.len());
        assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), expected);
        for key in listed {
            let name = store.get(&key).await.unwrap().unwrap();
            assert_eq!(layout_of(layout).key_of(std::str::from_utf8(&name).unwrap()), Some(key));
        }
        let report = scrub(&connectors::builder(&url).build().unwrap(), &ScrubOptions::default()).unwrap();
        assert_eq!(report.chunks, expected.len() as u64);
        let unfinished: Vec<_> = report.findings.iter().filter(|f| f.kind == FindingKind::Unfinished).collect();
        assert!(
            unfinished.len() == 1 && unfinished[0].path.ends_with(text(&vectors, "unfinished")),
            "{:?}",
            report.findings
        );
        // Names with an empty model are not keys.
        let others = report.findings.iter().filter(|f| f.kind == FindingKind::Foreign).count();
        assert_eq!(others, if layout == "vllm" { 0 } else { 3 });
    }
}

fn layout_of(name: &str) -> Layout {
    if name == "vllm" { Layout::Vllm } else { Layout::Sglang }
}
