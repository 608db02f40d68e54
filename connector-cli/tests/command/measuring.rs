//! bench.

use std::process::Stdio;

use super::{Answer, KEY, entries, kvconn, put, run, signal, store, wait_until};

#[test]
fn bench_measures_verifies_and_cleans_up() {
    let (dir, url) = store();
    put(&url, KEY, b"not the bench's");
    let json = run(&["bench", &url, "--chunk-size", "10001", "--keys", "6", "--rounds", "2", "--json"]).exits(0).json();
    let store = &json["stores"][0];
    assert_eq!((&store["connector"], &store["url"]), (&"kvconn.fs/FSConnector".into(), &url.as_str().into()));
    assert_eq!((&store["put"]["operations"], &store["get"]["operations"]), (&12.into(), &12.into()));
    assert_eq!(store["verified_bytes"], 12 * 10_001);
    for operation in ["put", "get", "exists"] {
        let figure =
            |name: &str| store[operation][name].as_f64().unwrap_or_else(|| panic!("{operation} {name}: {json}"));
        assert!(figure("per_s") > 0.0 && figure("seconds") > 0.0, "{json}");
        assert!(figure("p50_us") > 0.0 && figure("p50_us") <= figure("p99_us"), "{json}");
    }
    assert!(store["get"]["gib_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{json}");
    assert_eq!(entries(dir.path()), [format!("{KEY}.data")]);
}

#[test]
fn bench_shows_a_table() {
    let shown = run(&["bench", "memory://b", "--chunk-size", "64KiB", "--keys", "4", "--rounds", "1"]).exits(0);
    for part in ["4 chunks of 64 KiB", "put", "GiB/s", "p99", "exists", "memory://b"] {
        assert!(shown.text().contains(part), "{part}: {}", shown.text());
    }
    assert_eq!(shown.err, "", "no progress bar without a terminal");
}

#[test]
fn an_interrupted_bench_leaves_nothing() {
    let (dir, url) = store();
    let args = ["bench", &url, "--chunk-size", "4KiB", "--rounds", "1000000"];
    for name in ["INT", "TERM"] {
        let mut child =
            kvconn(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
        wait_until(&mut child, || !entries(dir.path()).is_empty());
        signal(&child, name);
        let said = Answer::from(child.wait_with_output().expect("the command ends")).exits(130);
        assert!(said.out.is_empty() && entries(dir.path()).is_empty(), "{said:?}");
    }
}

#[test]
fn a_store_that_loses_chunks_is_an_error_and_no_figure() {
    run(&["bench", "memory://b?capacity=10000", "--chunk-size", "1000", "--keys", "20"]).fails_saying(&[
        "is gone",
        "kvconn-bench@",
        "--keys",
    ]);
}

#[test]
fn chunks_that_do_not_fit_the_pool_are_refused_with_what_to_change() {
    let output = kvconn(&["bench", "memory://b", "--keys", "8"]).env("LMCACHE_MAX_LOCAL_CPU_SIZE", "0.01").output();
    Answer::from(output.expect("the command starts")).fails_saying(&[
        "8 chunks of 4 MiB",
        "lower --concurrency",
        "max_local_cpu_size",
    ]);
}

#[test]
fn a_wrong_chunk_size_is_wrong_usage() {
    for size in ["0", "many", "4.5MiB"] {
        let said = run(&["bench", "memory://b", "--chunk-size", size]).exits(2);
        assert!(said.err.contains("write `64KiB`"), "{}", said.err);
    }
}
