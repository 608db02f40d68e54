//! `--json` and `--quiet`.

use std::process::Stdio;

use serde_json::{Value, json};

use super::{KEY, OTHER, file, kvconn, put, run, store};

/// Each line of stderr as JSON.
fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn every_command_prints_json_on_request() {
    let (_dir, url) = store();
    let (_file, path) = file(&[3; 240]);
    let layout = ["--shape", "2,3,4,5", "--dtype", "float16", "--format", "KV_2LTD"];
    let stored = run(&[&["put", &url, KEY, &path, "--json"][..], &layout].concat()).exits(0).json();
    let group = json!({"shape": [2, 3, 4, 5], "dtype": "float16"});
    let expected = json!({
        "key": KEY, "bytes": 240, "format": "KV_2LTD", "shape": [2, 3, 4, 5], "dtype": "float16", "groups": [group],
    });
    assert_eq!(stored, expected);
    let got = run(&["--json", "get", &url, KEY]).exits(0);
    assert_eq!((got.out.len(), &lines(&got.err)[..]), (240, &[expected.clone()][..]));
    let (_dir, target) = file(b"");
    assert_eq!(run(&["get", &url, KEY, "-o", &target, "--json"]).exits(0).json(), expected);

    let answers = run(&["exists", &url, KEY, OTHER, "--json"]).exits(1);
    assert_eq!(lines(answers.text()), [json!({"key": KEY, "exists": true}), json!({"key": OTHER, "exists": false})]);
    assert_eq!(run(&["ls", &url, "--count", "--json"]).exits(0).json(), json!({"count": 1}));
    let removed = run(&["rm", &url, KEY, "--json"]).exits(0);
    assert_eq!(removed.json(), json!({"key": KEY, "removed": true}));
    assert_eq!(run(&["rm", &url, "--all", "--json"]).exits(0).json(), json!({"removed": 0, "failed": 0}));
    assert!(run(&["connectors", "--json"]).exits(0).json()["connectors"].is_array());
    assert!(run(&["version", "--json"]).exits(0).json()["version"].is_string());
    assert!(run(&["stores", "--json"]).exits(0).json()["stores"].is_array());

    let demo = run(&["demo", "--json"]).exits(0).json();
    assert!(demo["verified"] == true && demo["chunks"].as_u64() > Some(1), "{demo}");
    let project = tempfile::tempdir().expect("a directory can be made");
    let project = project.path().join("acme").display().to_string();
    let made = run(&["new", "acme-kv", "--path", &project, "--json"]).exits(0).json();
    assert!(made["crate"] == "acme-kv" && made["files"].as_array().is_some_and(|files| files.len() > 5), "{made}");
}

#[test]
fn an_error_is_json_on_request() {
    let (_dir, url) = store();
    let error = |args: &[&str], code: i32| -> Value {
        let end = run(&[args, &["--json"]].concat()).exits(code);
        assert!(end.out.is_empty(), "{end:?}");
        let [line] = &lines(&end.err)[..] else { panic!("{end:?}") };
        line["error"].clone()
    };
    let missing = error(&["get", &url, KEY], 1);
    assert_eq!((&missing["kind"], &missing["key"]), (&"missing".into(), &KEY.into()));
    let typo = error(&["ls", "memroy://x"], 2);
    assert_eq!(typo["kind"], "not_found");
    assert!(typo["message"].as_str().is_some_and(|text| text.contains("memroy")), "{typo}");
    assert!(typo["hint"].is_string(), "{typo}");
    let directory = error(&["ls", "fs:///no/such/store"], 3);
    let (message, hint) = (directory["message"].as_str().unwrap_or(""), directory["hint"].as_str().unwrap_or(""));
    assert!(message.contains("/no/such/store") && !hint.is_empty() && !message.contains(hint), "{directory}");
    for args in [&["ls", "--no-such-option"][..], &["no-such-command"], &["exists", "memory://x"]] {
        let usage = error(args, 2);
        assert_eq!(usage["kind"], "usage", "{usage}");
        assert!(usage["message"].as_str().is_some_and(|text| !text.contains("error:")), "{usage}");
        assert!(usage["hint"].is_string(), "{usage}");
    }
    let secret = error(&["ls", "redis://u:hunter2@h:99999999"], 2);
    assert!(!secret.to_string().contains("hunter2"), "{secret}");
    let note = run(&["put", "memory://x", KEY, "/dev/null", "--json"]).exits(0);
    assert!(lines(&note.err)[0]["note"].is_string(), "{note:?}");
}

#[test]
fn quiet_prints_no_remark_and_no_confirmation() {
    let (_dir, url) = store();
    let (_file, path) = file(b"x");
    for (args, code) in [
        (&["put", "memory://x", KEY, &path, "-q"][..], 0),
        (&["-q", "put", &url, KEY, &path], 0),
        (&["exists", &url, KEY, "--quiet"], 0),
        (&["exists", &url, OTHER, "-q"], 1),
        (&["rm", &url, OTHER, "-q"], 1),
        (&["rm", &url, KEY, "-q"], 0),
        (&["rm", &url, "--all", "-q"], 0),
    ] {
        let end = run(args).exits(code);
        assert!(end.out.is_empty() && end.err.is_empty(), "{args:?}: {end:?}");
    }
    put(&url, KEY, b"x");
    let got = run(&["get", &url, KEY, "-q"]).exits(0);
    assert_eq!((&*got.out, &*got.err), (&b"x"[..], ""));
    assert_eq!(run(&["ls", &url, "-q"]).exits(0).text(), format!("{KEY}\n"));
    run(&["ls", "fs:///no/such/store", "-q"]).fails_with(&["/no/such/store"]);
    // A warning of the log.
    let (_config, config) = file(b"chunk_sise: 3");
    assert_eq!(run(&["ls", "memory://x", "--config", &config, "-q"]).exits(0).err, "");
}

#[test]
fn a_batch_prints_its_first_errors_and_their_number() {
    // Every call of this store fails.
    let broken = "faulty://?back=memory%3A%2F%2Fx&error_rate=1";
    let keys: Vec<String> = (0..5000).map(|i| format!("many@1@0@{i:x}@half")).collect();
    for command in ["exists", "rm"] {
        let mut child = kvconn(&[command, broken, "--stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the command starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let text = keys.join("\n");
        std::io::Write::write_all(&mut stdin, text.as_bytes()).expect("the command reads");
        drop(stdin);
        let end = super::Finished::from(child.wait_with_output().expect("the command ends")).exits(3);
        assert_eq!(end.err.lines().count(), 11, "{}", end.err);
        assert!(end.err.contains("kvconn: 4990 more errors, 5000 in all"), "{}", end.err);
    }
}
