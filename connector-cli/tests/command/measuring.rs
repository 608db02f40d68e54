//! `kvconn bench`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use rustix::process::Signal;

use super::{Finished, KEY, entries, kvconn, put, run, signal, store, wait_until};

#[test]
fn bench_measures_verifies_and_cleans_up() {
    let (dir, url) = store();
    put(&url, KEY, b"the user's");
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
        assert!(figure("p99_us") <= figure("p999_us"), "{json}");
        assert!(figure("cpu_s") >= 0.0, "{json}");
    }
    assert!(store["get"]["gib_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{json}");
    assert!(store["get"]["cpu_s_per_gib"].as_f64().is_some_and(|cpu| cpu >= 0.0), "{json}");
    assert_eq!((json["stores"].as_array().map(Vec::len), &json["ratios"]), (Some(1), &serde_json::Value::Null));
    assert_eq!(entries(dir.path()), [format!("{KEY}.data")]);
}

#[test]
fn bench_compares_two_stores_in_one_run() {
    let (dir, url) = store();
    let args = ["bench", "memory://b", "--vs", &url, "--chunk-size", "10001", "--keys", "6", "--rounds", "3", "--json"];
    let json = run(&args).exits(0).json();
    let of = |n: usize, field: &str| json["stores"][n][field].clone();
    assert_eq!((of(0, "url"), of(1, "url")), ("memory://b".into(), url.as_str().into()));
    for n in 0..2 {
        assert_eq!(of(n, "verified_bytes"), 3 * 6 * 10_001, "{json}");
        assert_eq!(of(n, "put")["operations"], 18, "{json}");
    }
    for operation in ["put", "get", "exists"] {
        let ratio = |name: &str| json["ratios"][operation][name].as_f64().unwrap_or_else(|| panic!("{json}"));
        assert!(0.0 < ratio("min") && ratio("min") <= ratio("median") && ratio("median") <= ratio("max"), "{json}");
    }
    assert!(entries(dir.path()).is_empty());
}

#[test]
fn a_store_compared_with_itself_uses_two_sets_of_keys() {
    let (dir, url) = store();
    run(&["bench", &url, "--vs", &url, "--chunk-size", "1000", "--keys", "9", "--rounds", "2", "--json"]).exits(0);
    assert!(entries(dir.path()).is_empty());
}

#[test]
fn a_second_store_that_fails_is_an_error_and_leaves_nothing_in_the_first() {
    let (dir, url) = store();
    let small = "memory://b?capacity=10000";
    let args = ["bench", &url, "--vs", small, "--chunk-size", "1000", "--keys", "20"];
    run(&args).fails_with(&["is gone", "kvconn-bench@"]);
    assert!(entries(dir.path()).is_empty());
    run(&["bench", &url, "--vs", "no-such-scheme://x"]).exits(2);
}

#[test]
fn bench_verifies_every_batch_and_the_partial_last_one() {
    let (dir, url) = store();
    for (batch, concurrency) in [("4", "2"), ("10", "1"), ("100", "8")] {
        let args = ["--chunk-size", "1001", "--keys", "10", "--rounds", "2", "--json", "--batch", batch];
        let json = run(&[&["bench", &url, "--concurrency", concurrency], &args[..]].concat()).exits(0).json();
        let store = &json["stores"][0];
        assert_eq!((&store["put"]["operations"], &store["get"]["operations"]), (&20.into(), &20.into()), "{json}");
        assert_eq!(store["verified_bytes"], 20 * 1001);
    }
    assert!(entries(dir.path()).is_empty());
}

#[test]
fn bench_shows_a_table() {
    let shown = run(&["bench", "memory://b", "--chunk-size", "64KiB", "--keys", "4", "--rounds", "1"]).exits(0);
    for part in ["4 chunks of 64 KiB", "put", "GiB/s", "p99", "p99.9", "s/GiB", "exists", "memory://b"] {
        assert!(shown.text().contains(part), "{part}: {}", shown.text());
    }
    assert_eq!(shown.err, "", "no progress bar without a terminal");
    assert!(!shown.text().contains("ratio"), "{}", shown.text());
    let args = ["bench", "memory://b", "--vs", "memory://c", "--chunk-size", "64KiB", "--keys", "4", "--rounds", "2"];
    let shown = run(&[&args[..], &["--batch", "2"]].concat()).exits(0);
    for part in ["2 batches of 2 in flight", "memory://b", "memory://c", "ratio", "median", " to "] {
        assert!(shown.text().contains(part), "{part}: {}", shown.text());
    }
}

#[test]
fn an_interrupted_bench_leaves_nothing() {
    let (dir, url) = store();
    let args = ["bench", &url, "--chunk-size", "4KiB", "--rounds", "1000000"];
    for name in [Signal::INT, Signal::TERM] {
        let mut child =
            kvconn(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
        wait_until(&mut child, || !entries(dir.path()).is_empty());
        signal(&child, name);
        let result = Finished::from(child.wait_with_output().expect("the command ends")).exits(130);
        assert!(result.out.is_empty() && entries(dir.path()).is_empty(), "{result:?}");
    }
}

#[test]
fn a_store_that_loses_chunks_gives_an_error_and_no_figures() {
    run(&["bench", "memory://b?capacity=10000", "--chunk-size", "1000", "--keys", "20"]).fails_with(&[
        "is gone",
        "kvconn-bench@",
        "--keys",
    ]);
}

#[test]
fn chunks_that_do_not_fit_the_pool_are_refused_with_a_hint() {
    let output = kvconn(&["bench", "memory://b", "--keys", "8"]).env("LMCACHE_MAX_LOCAL_CPU_SIZE", "0.01").output();
    Finished::from(output.expect("the command starts")).refuses_with(&[
        "8 chunks of 4 MiB",
        "lower --concurrency",
        "max_local_cpu_size",
    ]);
}

#[test]
fn a_wrong_chunk_size_is_wrong_usage() {
    for size in ["0", "many", "4.5MiB"] {
        let result = run(&["bench", "memory://b", "--chunk-size", size]).exits(2);
        assert!(result.err.contains("write `64KiB`"), "{}", result.err);
    }
}

#[test]
fn bench_serves_its_metrics_to_prometheus() {
    let (_dir, url) = store();
    let args = ["bench", &url, "--chunk-size", "4KiB", "--rounds", "1000000", "--metrics-listen", "0"];
    let mut child = kvconn(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    let mut note = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    stderr.read_line(&mut note).expect("a line");
    let address = note.split_once("http://").and_then(|(_, rest)| rest.split_once("/metrics"));
    let (address, _) = address.unwrap_or_else(|| panic!("no address in {note}"));
    assert!(address.starts_with("127.0.0.1:"), "{note}");
    let ask = |request: &[u8]| {
        let mut server = TcpStream::connect(address).expect("the page answers");
        server.write_all(request).expect("the request is sent");
        let mut answer = String::new();
        server.read_to_string(&mut answer).expect("text");
        answer
    };
    let page = || ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until(&mut child, || page().contains("operation=\"get\",result=\"ok\""));
    let shown = page();
    assert!(shown.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{shown}");
    for part in [
        "\r\n\r\n# HELP kvconn_",
        "# TYPE kvconn_call_seconds histogram\n",
        "kvconn_call_seconds_bucket{connector=\"kvconn.fs/FSConnector\",instance=",
        "kvconn_pool_capacity_bytes ",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(ask(b"GET /other HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    let port = address.rsplit_once(':').expect("a port").1;
    run(&["bench", "memory://b", "--metrics-listen", port]).refuses_with(&["cannot listen on", "another port"]);
    signal(&child, Signal::INT);
    child.wait().expect("the command ends");
    let result = run(&["bench", "memory://b", "--metrics-listen", "here"]).exits(2);
    assert!(result.err.contains("write a port, such as 9400"), "{}", result.err);
}
