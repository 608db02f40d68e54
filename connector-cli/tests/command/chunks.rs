//! `kvconn put`, `get`, `exists`, `ls`, `du`, `rm` and `ping`.

use std::io::Write;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{KEY, OTHER, entries, file, kvconn, put, run, store};

#[test]
fn get_returns_the_bytes_that_were_put() {
    let (_dir, url) = store();
    let bytes: Vec<u8> = (0..=255).cycle().take(70_001).collect();
    let (_file, path) = file(&bytes);
    let result = run(&["put", &url, KEY, &path]).exits(0);
    assert!(result.text().contains("BINARY uint8 [70001, 0, 0, 0], 70001 bytes"), "{}", result.text());

    let got = run(&["get", &url, KEY]).exits(0);
    assert!(got.out == bytes && got.err.contains("BINARY uint8 [70001, 0, 0, 0]"), "{}", got.err);
}

#[test]
fn get_returns_the_layout_that_was_put() {
    let (_dir, url) = store();
    let (_file, path) = file(&[3; 2 * 3 * 4 * 5 * 2]);
    let layout = ["--shape", "2,3,4,5", "--dtype", "float16", "--format", "KV_2LTD"];
    run(&[&["put", &url, KEY, &path][..], &layout].concat()).exits(0);
    let got = run(&["get", &url, KEY]).exits(0);
    assert!(got.err.contains("KV_2LTD float16 [2, 3, 4, 5], 240 bytes"), "{}", got.err);
}

#[test]
fn a_file_that_does_not_fit_its_shape_is_refused_with_both_sizes() {
    let (dir, url) = store();
    let (_file, path) = file(&[0; 100]);
    let layout = ["--shape", "2,3,4,5", "--dtype", "half", "--format", "kv_2ltd"];
    run(&[&["put", &url, KEY, &path][..], &layout].concat()).refuses_with(&["100 bytes", "240"]);
    assert!(entries(dir.path()).is_empty());
}

#[test]
fn a_shape_without_dtype_and_format_is_wrong_usage() {
    let (_file, path) = file(&[0; 4]);
    let result = run(&["put", "memory://x", KEY, &path, "--shape", "4"]).exits(2);
    assert!(result.err.contains("--dtype") && result.err.contains("--format"), "{}", result.err);
}

#[test]
fn put_reads_stdin() {
    let (_dir, url) = store();
    let mut child = kvconn(&["put", &url, KEY, "-"]).stdin(Stdio::piped()).spawn().expect("the command starts");
    child.stdin.take().expect("a pipe").write_all(b"from a pipe").expect("the command reads");
    assert!(child.wait().expect("the command ends").success());
    assert_eq!(run(&["get", &url, KEY]).exits(0).out, b"from a pipe");
}

#[test]
fn a_missing_file_is_an_error_that_names_the_file() {
    run(&["put", "memory://x", KEY, "/nowhere/chunk.bin"]).fails_with(&["cannot read `/nowhere/chunk.bin`"]);
}

#[test]
fn get_writes_a_whole_file_or_none() {
    let (_dir, url) = store();
    put(&url, KEY, b"new");
    let (dir, path) = file(b"old, and longer");
    run(&["get", &url, OTHER, "-o", &path]).exits(1);
    assert_eq!(std::fs::read(&path).expect("the file is there"), b"old, and longer");

    let got = run(&["get", &url, KEY, "-o", &path]).exits(0);
    assert_eq!((std::fs::read(&path).expect("the file is there"), got.out), (b"new".to_vec(), vec![]));
    assert_eq!(entries(dir.path()), ["chunk.bin"]);
    run(&["get", &url, KEY, "-o", "/nowhere/x"]).fails_with(&["cannot write `/nowhere/x`"]);
}

#[test]
fn a_missing_key_exits_with_1_and_a_sentence() {
    let (_dir, url) = store();
    let got = run(&["get", &url, KEY]).exits(1);
    assert_eq!((got.text(), &*got.err), ("", &*format!("kvconn: `{KEY}` is not in kvconn.fs/FSConnector\n")));
}

#[test]
fn put_warns_if_the_chunk_is_lost_with_the_process() {
    let (dir, url) = store();
    let path = dir.path().join("chunk").display().to_string();
    std::fs::write(&path, b"chunk").unwrap();
    let warning = "the chunk is lost";
    assert!(run(&["put", "memory://x", KEY, &path]).exits(0).err.contains(warning));
    assert!(!run(&["put", &url, KEY, &path]).exits(0).err.contains(warning));
}

#[test]
fn exists_answers_for_each_key() {
    let (_dir, url) = store();
    put(&url, KEY, b"x");
    assert_eq!(run(&["exists", &url, KEY]).exits(0).text(), format!("yes  {KEY}\n"));
    assert_eq!(run(&["exists", &url, OTHER, KEY]).exits(1).text(), format!("no   {OTHER}\nyes  {KEY}\n"));
}

#[test]
fn rm_says_which_keys_existed() {
    let (_dir, url) = store();
    put(&url, KEY, b"x");
    let result = run(&["rm", &url, KEY, OTHER]).exits(1);
    assert_eq!(result.text(), format!("removed  {KEY}\nmissing  {OTHER}\n"));
    run(&["exists", &url, KEY]).exits(1);
    put(&url, KEY, b"x");
    run(&["rm", &url, KEY]).exits(0);
}

#[test]
fn ls_lists_the_keys_with_a_prefix() {
    let (_dir, url) = store();
    for key in [KEY, "facebook/opt-125m@1@0@aa@half", "m@00000000@1@ff"] {
        put(&url, key, b"x");
    }
    assert_eq!(run(&["ls", &url]).exits(0).text().lines().count(), 3);
    assert_eq!(run(&["ls", &url, "--prefix", "facebook/"]).exits(0).text(), "facebook/opt-125m@1@0@aa@half\n");
    assert_eq!(run(&["ls", &url, "--prefix", "absent"]).exits(0).text(), "");

    let mut object = run(&["ls", &url, "--prefix", "m@", "--json"]).exits(0).json();
    let fields = object.as_object_mut().expect("an object");
    let (size, modified) = (fields.remove("size").expect("a size"), fields.remove("modified").expect("a time"));
    assert_eq!(object, serde_json::json!({"key": "m@00000000@1@ff", "kind": "object", "model": "m", "hash": "ff"}));
    // A file of an object key is the chunk's bytes alone.
    assert_eq!(size, 1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert!((now - modified.as_f64().expect("seconds")).abs() < 3600.0, "{modified}");

    let long = run(&["ls", &url, "--prefix", "m@", "-l"]).exits(0);
    let words: Vec<&str> = long.text().split_whitespace().collect();
    let [size, age, key] = words[..] else { panic!("{words:?}") };
    assert_eq!((size, key), ("1", "m@00000000@1@ff"));
    assert!(age.ends_with(['s', 'm']), "{age}");
    let human = run(&["ls", &url, "--prefix", "m@", "-l", "--human"]).exits(0);
    assert!(human.text().trim_start().starts_with("1 B "), "{human:?}");
}

#[test]
fn du_counts_the_chunks_and_bytes_of_each_model() {
    let (_dir, url) = store();
    for (key, bytes) in [("a/b@1@0@aa@half", 1000), ("a/b@1@0@ab@half", 24), ("m@00000000@1@ff", 2048)] {
        put(&url, key, &vec![7; bytes]);
    }
    let header = 2 * 28;
    let rows = |args: &[&str]| -> Vec<Vec<String>> {
        let text = run(args).exits(0);
        text.text().lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let expected = [
        &["CHUNKS", "SIZE", "MODEL"][..],
        &["2", "1.1", "KiB", "a/b"],
        &["1", "2", "KiB", "m"],
        &["3", "3.1", "KiB", "total"],
    ];
    assert_eq!(rows(&["du", &url, "--human"]), expected);
    let exact = [&["CHUNKS", "BYTES", "MODEL"], &["2", "1080", "a/b"], &["1", "2048", "m"], &["3", "3128", "total"]];
    assert_eq!(rows(&["du", &url]), exact);
    assert_eq!(rows(&["du", &url, "--prefix", "m@"])[1..], [&["1", "2048", "m"], &["1", "2048", "total"]]);
    assert_eq!(rows(&["du", &url, "--prefix", "absent"])[1..], [["0", "0", "total"]]);
    let usage = |chunks: usize, bytes: usize| serde_json::json!({"chunks": chunks, "bytes": bytes, "chunks_of_unknown_size": 0});
    let mut json = run(&["du", &url, "--json"]).exits(0).json();
    let models = json.as_object_mut().and_then(|json| json.remove("models")).expect("the models");
    assert_eq!(json, usage(3, 3072 + header));
    let [mut first, mut second] = [usage(2, 1024 + header), usage(1, 2048)];
    (first["model"], second["model"]) = ("a/b".into(), "m".into());
    assert_eq!(models, serde_json::json!([first, second]));
}

#[test]
fn ping_shows_the_round_trip() {
    let (dir, url) = store();
    let result = run(&["ping", &url]).exits(0);
    assert!(result.text().starts_with("kvconn.fs/FSConnector answered in "), "{}", result.text());
    drop(dir);
    run(&["ping", "memory://x"]).exits(0);
}

#[test]
fn ping_as_json_is_json_also_if_the_store_does_not_open() {
    for (url, code, connector) in [
        ("redis://127.0.0.1:1", 3, Some("kvconn.redis/RedisConnector")),
        ("memory://?capcity=1", 2, Some("kvconn.memory/MemoryConnector")),
        ("cassandra://h", 2, None),
    ] {
        let result = run(&["ping", url, "--json"]).exits(code);
        let json = result.json();
        assert_eq!(json["connector"], serde_json::json!(connector), "{json}");
        let printed: serde_json::Value = serde_json::from_str(&result.err).expect("the error is JSON");
        let message = printed["error"]["message"].as_str().expect("it has a message");
        assert!(json["error"].as_str().is_some_and(|e| e.starts_with(message)), "{result:?}");
        assert!(json["seconds"].is_null() && json["open_seconds"].is_number(), "{json}");
        assert_eq!(json["servers"], serde_json::json!([]));
    }
}

#[test]
fn errors_say_what_an_operator_can_do() {
    run(&["ping", "cassandra://h"]).refuses_with(&["`kvconn list` lists the connectors of this command"]);
    let (_dir, config) = file(b"max_local_cpu_size: 0.00001\n");
    let (_store, url) = store();
    put(&url, KEY, &[7; 100_000]);
    run(&["get", &url, KEY, "--config", &config]).fails_with(&["`max_local_cpu_size` in the file of `--config`"]);
}

#[test]
fn a_path_below_a_regular_file_is_an_error_that_names_the_path() {
    let (_dir, path) = file(b"a regular file");
    let url = format!("fs://{path}/below");
    run(&["ping", &url]).fails_with(&["kvconn.fs/FSConnector", &path]);
    run(&["ls", &url]).fails_with(&[&path]);
}
