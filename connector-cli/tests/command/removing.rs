//! `kvconn rm --prefix`, `--all`, `--stdin` and `--dry-run`; `exists --stdin`; `ls --count` and `--limit`; `stat`.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;

use super::printing::shown_on_terminal;
use super::{Finished, KEY, OTHER, entries, file, fill, kvconn, put, run, signal, slow, store, wait_until};

/// Runs the command with this stdin.
fn piped(args: &[&str], input: &[u8]) -> Finished {
    let mut child = kvconn(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // The command may end early.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("the command ends").into()
}

#[test]
fn rm_by_prefix_removes_the_chunks_with_that_prefix() {
    let (dir, url) = store();
    fill(dir.path(), 2500);
    put(&url, KEY, b"x");
    let dry = run(&["rm", &url, "--prefix", "many@", "--dry-run"]).exits(0);
    assert_eq!((dry.text().lines().count(), &*dry.err), (2500, "kvconn: 2500 chunks would be removed\n"));
    assert_eq!(run(&["ls", &url, "--count"]).exits(0).text(), "2501\n");
    assert_eq!(run(&["rm", &url, "--prefix", "many@"]).exits(0).text(), "removed 2500 chunks\n");
    assert_eq!(run(&["ls", &url]).exits(0).text(), format!("{KEY}\n"));
    run(&["rm", &url, "--prefix", ""]).exits(2);
    assert_eq!(run(&["rm", &url, "--all"]).exits(0).text(), "removed 1 chunk\n");
    assert_eq!(run(&["rm", &url, "--all"]).exits(0).text(), "removed 0 chunks\n");
    assert_eq!(run(&["ls", &url, "--count"]).exits(0).text(), "0\n");
}

#[test]
fn rm_asks_on_a_terminal_and_removes_nothing_without_a_yes() {
    let (dir, url) = store();
    fill(dir.path(), 3);
    // A terminal whose user says nothing: stdin is at its end.
    let answer = |text: &[u8]| {
        let terminal =
            rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).expect("a terminal");
        rustix::pty::grantpt(&terminal).and_then(|()| rustix::pty::unlockpt(&terminal)).expect("it can be used");
        let name = rustix::pty::ptsname(&terminal, Vec::new()).expect("it has a name");
        let name = name.to_str().expect("it is text").to_owned();
        let user = OpenOptions::new().read(true).write(true).open(name).expect("it can be opened");
        let mut terminal = std::fs::File::from(terminal);
        terminal.write_all(text).expect("the user can type");
        shown_on_terminal(kvconn(&["rm", &url, "--all"]).env("TERM", "xterm").stdin(user))
    };
    let (shown, code) = answer(b"n\n");
    assert!(shown.contains("remove 3 chunks of kvconn.fs/FSConnector? [y/N]") && code == Some(1), "{shown:?}");
    assert_eq!(entries(dir.path()).len(), 3);
    let (shown, code) = answer(b"y\n");
    assert!(shown.contains("removed 3 chunks") && code == Some(0), "{shown:?}");
    assert!(entries(dir.path()).is_empty());
}

#[test]
fn an_interrupt_of_rm_says_how_many_chunks_are_gone() {
    let (dir, url) = store();
    fill(dir.path(), 1);
    for i in 1..20_000 {
        let name = |i: usize| dir.path().join(format!("many@1@0@{i:x}@half.data"));
        std::fs::hard_link(name(0), name(i)).expect("the file can have another name");
    }
    let mut command = kvconn(&["rm", &slow(&url, 200), "--all"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    wait_until(&mut child, || entries(dir.path()).len() < 20_000);
    signal(&child, Signal::INT);
    let end = Finished::from(child.wait_with_output().expect("the command ends")).exits(130);
    let removed = end.text().strip_prefix("removed ").and_then(|text| text.split(' ').next()?.parse::<usize>().ok());
    assert_eq!(removed, Some(20_000 - entries(dir.path()).len()), "{end:?}");
}

#[test]
fn keys_may_come_from_stdin() {
    let (_dir, url) = store();
    let breaks = "a\nb@1@0@2@half";
    put(&url, KEY, b"x");
    put(&url, breaks, b"x");
    let lines = format!("{KEY}\n\n{OTHER}\n");
    let answers = piped(&["exists", &url, "--stdin"], lines.as_bytes()).exits(1);
    assert_eq!(answers.text(), format!("yes  {KEY}\nno   {OTHER}\n"));
    let dry = piped(&["rm", &url, "--stdin", "-n"], KEY.as_bytes()).exits(0);
    assert_eq!(dry.text(), format!("would remove  {KEY}\n"));
    let nul = format!("{breaks}\0{KEY}\0");
    let removed = piped(&["rm", &url, "--stdin", "-0"], nul.as_bytes()).exits(0);
    assert_eq!(removed.text(), format!("removed  {breaks}\0removed  {KEY}\0"));
    assert_eq!(piped(&["exists", &url, "--stdin"], b"").exits(0).text(), "");
    piped(&["rm", &url, "--stdin"], b"opt@1@0@1f2e@half\nno key\n").refuses_with(&["line 2 of stdin", "no key"]);
    piped(&["rm", &url, "--stdin"], b"\xff\n").refuses_with(&["line 1 of stdin", "UTF-8"]);
}

#[test]
fn ls_counts_and_stops_on_request() {
    let (dir, url) = store();
    fill(dir.path(), 50);
    put(&url, KEY, b"x");
    assert_eq!(run(&["ls", &url, "--count"]).exits(0).text(), "51\n");
    assert_eq!(run(&["ls", &url, "--count", "--prefix", "many@"]).exits(0).text(), "50\n");
    assert_eq!(run(&["ls", &url, "--count", "--limit", "7"]).exits(0).text(), "7\n");
    for more in [&[][..], &["-l"], &["--json"]] {
        let listed = run(&[&["ls", &url, "--limit", "7"], more].concat()).exits(0);
        assert_eq!(listed.text().lines().count(), 7, "{listed:?}");
    }
    assert_eq!(run(&["ls", &url, "--limit", "99"]).exits(0).text().lines().count(), 51);
}

#[test]
fn stat_shows_size_layout_and_age() {
    let (_dir, url) = store();
    let (_file, path) = file(&[3; 2 * 3 * 4 * 5 * 2]);
    let layout = ["--shape", "2,3,4,5", "--dtype", "float16", "--format", "KV_2LTD"];
    run(&[&["put", &url, KEY, &path][..], &layout].concat()).exits(0);
    let shown = run(&["stat", &url, KEY]).exits(0);
    for part in [
        KEY,
        "kind      engine",
        "model     opt",
        "size      240 bytes",
        "format    KV_2LTD",
        "shape     [2, 3, 4, 5]",
        "dtype     float16",
        "stored    268 bytes",
        "s ago",
    ] {
        assert!(shown.text().contains(part), "{part}: {}", shown.text());
    }
    let both = run(&["stat", &url, OTHER, KEY, "--json"]).exits(1);
    let json = both.json();
    let fields = [&json["key"], &json["bytes"], &json["stored_bytes"], &json["hash"]];
    assert_eq!(fields, [&json!(KEY), &json!(240), &json!(268), &json!("1f2e")]);
    assert!(json["age_seconds"].as_f64().is_some_and(|age| (0.0..3600.0).contains(&age)), "{json}");
    assert!(both.err.contains("missing") && both.err.contains(OTHER), "{}", both.err);
}
