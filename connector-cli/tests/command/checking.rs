//! `kvconn check`.

use rustix::process::Signal;

use super::{KEY, entries, kvconn, put, run, signal, store, wait_until};

/// Names of the checks with this outcome.
fn names_with(json: &serde_json::Value, outcome: &str) -> Vec<String> {
    let checks = json["checks"].as_array().expect("there are checks");
    let names = checks.iter().filter(|c| c["outcome"] == outcome).map(|c| c["name"].as_str().expect("a name"));
    names.map(str::to_owned).collect()
}

#[test]
fn a_store_in_memory_keeps_the_contract() {
    let json = run(&["check", "memory://checked", "--json"]).exits(0).json();
    assert_eq!((&json["connector"], &json["passed"]), (&"kvconn.memory/MemoryConnector".into(), &true.into()));
    let (passed, skipped) = (names_with(&json, "passed").len(), names_with(&json, "skipped"));
    assert!(passed > 45 && names_with(&json, "failed").is_empty(), "{json}");
    for check in json["checks"].as_array().expect("there are checks") {
        let name = check["name"].as_str().expect("a name").to_owned();
        assert_eq!(check["why"].is_string(), skipped.contains(&name), "a skipped check has a reason: {check}");
        assert!(check["seconds"].is_f64() && check["rule"].is_string() && check["chapter"].is_string(), "{check}");
    }
}

#[test]
fn files_keep_the_contract_with_and_without_headers_and_the_checks_leave_nothing() {
    for options in ["", "?save_chunk_meta=false"] {
        let (dir, url) = store();
        put(&url, KEY, b"the user's");
        let shown = run(&["check", &format!("{url}{options}")]).exits(0);
        for part in ["kvconn.fs/FSConnector", "CHECK", "put_replaces ", "passed", "skipped", " 0 failed, "] {
            assert!(shown.text().contains(part), "{part}: {}", shown.text());
        }
        assert_eq!(entries(dir.path()), [format!("{KEY}.data")]);
    }
}

#[test]
fn a_store_that_loses_chunks_breaks_rules_and_the_table_shows_which() {
    let shown = run(&["check", "memory://small?capacity=4000", "--filter", "batches"]).exits(1);
    for part in ["FAILED", "the rule: ", "thousands_of_keys_in_one_batch", " failed, "] {
        assert!(shown.text().contains(part), "{part}: {}", shown.text());
    }
}

#[test]
fn the_first_row_of_a_broken_store_is_the_cause_and_the_summary_counts_what_needs_it() {
    // An `exists` of this store takes ten minutes.
    let check =
        |more: &[&str]| run(&[&["check", "mock://1?peeking_latency=600000", "--timeout", "1"], more].concat()).exits(1);
    let shown = check(&[]);
    let rows: Vec<&str> = shown.text().lines().filter(|line| line.contains("FAILED")).collect();
    assert!(matches!(rows[..], [one] if one.starts_with("calls_do_not_block_their_thread ")), "{}", shown.text());
    assert!(
        shown.text().contains(" skipped: they need calls_do_not_block_their_thread, which failed\n"),
        "{}",
        shown.text()
    );
    let json = check(&["--json"]).json();
    assert_eq!(json["checks"][0]["outcome"], "failed", "{json}");
    let checks = json["checks"].as_array().expect("there are checks");
    assert!(checks[1..].iter().all(|c| c["needs"] == json["checks"][0]["name"] && c["outcome"] == "skipped"), "{json}");
}

#[test]
fn a_filter_takes_a_chapter_or_a_part_of_a_name() {
    let names =
        |filter| names_with(&run(&["check", "memory://", "--filter", filter, "--json"]).exits(0).json(), "passed");
    assert_eq!(names("removal"), ["remove_says_whether_it_was_there", "removal_leaves_the_others"]);
    assert_eq!(names("put_rep"), ["put_replaces", "put_replaces_the_layout"]);
    assert_eq!(names("Removal"), names("removal"));
    // The chapter's title in docs/connector/contract.md.
    assert_eq!(names("Get into"), names("get_into"));
    run(&["check", "memory://", "--filter", "nothing like it"]).refuses_with(&[
        "nothing like it",
        "--list",
        "round_trip, overwriting",
    ]);
}

#[test]
fn list_shows_the_checks_without_a_store() {
    let shown = run(&["check", "--list"]).exits(0);
    assert!(shown.text().contains("put_replaces\n      `put` replaces the value"), "{}", shown.text());
    let json = run(&["check", "--list", "--json", "--filter", "closing"]).exits(0).json();
    assert_eq!(json.as_array().map(Vec::len), Some(5), "{json}");
    assert_eq!(json[0]["chapter"], "closing");
}

#[test]
fn a_wrong_url_gives_one_error_and_no_table() {
    run(&["check", "nowhere://x"]).refuses_with(&["nowhere"]);
    run(&["check", "no url"]).refuses_with(&["no url"]);
    let result = run(&["check"]).exits(2);
    assert!(result.err.contains("<URL>"), "{}", result.err);
}

#[test]
fn a_run_that_checked_nothing_has_not_passed() {
    let check = |more: &[&str]| run(&[&["check", "memory://", "--filter", "undeclared_"], more].concat()).exits(1);
    let json = check(&["--json"]).json();
    assert_eq!((&json["passed"], &json["interrupted"]), (&false.into(), &false.into()), "{json}");
    assert_eq!(names_with(&json, "skipped").len(), json["checks"].as_array().map_or(0, Vec::len), "{json}");
    assert!(check(&[]).text().contains("; nothing was checked\n"));
}

#[test]
fn a_check_fails_when_it_exceeds_the_time_limit() {
    // An `exists` of this store takes ten minutes.
    let slow = "mock://1?peeking_latency=600000";
    let json = run(&["check", slow, "--filter", "exists_agrees", "--timeout", "1", "--json"]).exits(1).json();
    let why = json["checks"][0]["why"].as_str().expect("a reason");
    assert!(why.contains("`exists` hangs: it did not end within 1"), "{why}");
    run(&["check", slow, "--timeout", "0"]).exits(2);
}

#[test]
fn an_interrupted_check_has_not_passed() {
    let (dir, url) = store();
    let mut child = kvconn(&["check", &url, "--json"]).stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    wait_until(&mut child, || !entries(dir.path()).is_empty());
    signal(&child, Signal::INT);
    let result = child.wait_with_output().expect("the command ends");
    assert_eq!(result.status.code(), Some(130));
    let json: serde_json::Value = serde_json::from_slice(&result.stdout).expect("a report");
    assert_eq!((&json["passed"], &json["interrupted"]), (&false.into(), &true.into()), "{json}");
    assert!(names_with(&json, "failed").is_empty(), "{json}");
}

#[test]
fn an_interrupted_check_leaves_nothing() {
    let (dir, url) = store();
    let mut child = kvconn(&["check", &url]).stdout(std::process::Stdio::null()).spawn().expect("the command starts");
    wait_until(&mut child, || !entries(dir.path()).is_empty());
    signal(&child, Signal::INT);
    assert_eq!(child.wait().expect("the command ends").code(), Some(130));
    assert_eq!(entries(dir.path()), [""; 0]);
}
