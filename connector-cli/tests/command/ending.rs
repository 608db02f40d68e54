//! The end of a command: its exit code, and its cleaning up after Ctrl-C.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;

use super::{Finished, KEY, OTHER, entries, file, fill, kvconn, put, run, signal, store};

/// Waits until the command has ended, for as long as a slow machine may need.
fn ended(mut child: Child) -> Finished {
    let start = Instant::now();
    while child.try_wait().expect("the command can be asked").is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            child.kill().expect("the command can be killed");
            panic!("the command did not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("the output is there").into()
}

fn started(args: &[&str]) -> Child {
    let child = kvconn(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    child.expect("the command starts")
}

#[test]
fn the_exit_codes_are_those_of_the_help() {
    let (_dir, url) = store();
    put(&url, KEY, b"x");
    let (_file, path) = file(b"x");
    let (_broken, config) = file(b"chunk_size: many");
    let unknown = "external://localhost:0/kvconn.fs/?connector_name=Nothing";
    let typo = format!("{url}/typo");
    let table: &[(i32, &[&[&str]])] = &[
        (
            0,
            &[
                &["list"],
                &["exists", &url, KEY],
                &["ls", &url, "--prefix", "nothing"],
                &["put", &url, KEY, &path],
                &["rm", &url, "--prefix", "nothing"],
                &["stores"],
                &["stat", &url, KEY],
                &["version"],
            ],
        ),
        (1, &[&["exists", &url, OTHER], &["get", &url, OTHER], &["rm", &url, OTHER], &["stat", &url, OTHER, KEY]]),
        (
            2,
            &[
                &["no-such-command"],
                &["ls"],
                &["ls", &url, "--no-such-option"],
                &["ls", "no url"],
                &["ls", "@"],
                &["ls", "@nothing"],
                &["ls", &url, "--color", "sometimes"],
                &["ls", &url, "-q", "-v"],
                &["ls", &url, "--human"],
                &["ls", &url, "--limit", "0"],
                &["rm", &url],
                &["rm", &url, "--prefix", ""],
                &["rm", &url, "--all", KEY],
                &["exists", &url, "--stdin", KEY],
                &["stat", &url, "no key"],
                &["completions", "tcsh"],
                &["ls", "nowhere://x"],
                &["ls", unknown],
                &["ls", "plugin://nothing"],
                &["describe", "nothing"],
                &["ls", "memory://x?capacity=many"],
                &["ls", "memory://x?no_such_option=1"],
                &["ls", "memory://x?timeout_ms=never"],
                &["ls", "fs:///x?fsync=maybe"],
                &["exists", &url, "no key"],
                &["exists", &url, KEY, "--key-kind", "object"],
                &["ls", &url, "--key-kind", "chunk"],
                &["put", &url, KEY, &path, "--shape", "1", "--dtype", "float17", "--format", "BINARY"],
                &["put", &url, KEY, &path, "--shape", "7", "--dtype", "int8", "--format", "BINARY"],
                &["cp", &url, &url],
                &["check", &url, "--filter", "nothing like it"],
                &["bench", &url, "--keys", "0"],
                &["bench", &url, "--chunk-size", "100TiB"],
                &["scrub", &url, "--min-age", "soon"],
                &["ls", &url, "--config", &config],
                &["demo", "--keep", "/tmp/a,b"],
            ],
        ),
        (
            3,
            &[
                &["ls", &typo],
                &["put", &url, KEY, "/no/such/file"],
                &["get", &url, KEY, "-o", "/no/such/file"],
                &["ls", &url, "--config", "/no/such/file"],
                &["ping", "redis://127.0.0.1:1"],
                &["scrub", "/no/such/directory"],
                &["stat", &typo, KEY],
                &["rm", &typo, "--all"],
                &["du", &typo],
                &["man", "/dev/null/pages"],
            ],
        ),
    ];
    let help = run(&["--help"]).exits(0);
    for (code, commands) in table {
        assert!(help.text().contains(&format!("\n  {code}    ")), "{}", help.text());
        for args in *commands {
            let end = run(args);
            assert_eq!(end.code, Some(*code), "{args:?}: {end:?}");
        }
    }
    assert!(help.text().contains("\n  130  "), "{}", help.text());
}

/// URLs of stores in a directory that does not exist.
fn mistyped(dir: &str) -> [String; 4] {
    let inner = dir.replace('/', "%2F");
    [
        format!("fs://{dir}/typo"),
        format!("external://localhost:0/kvconn.fs/?connector_name=FSConnector&base_path={dir}/typo"),
        format!("tiered://?front=memory%3A%2F%2F&back=fs%3A%2F%2F{inner}%2Ftypo"),
        format!("audit://?actual_remote_url=fs%3A%2F%2F{inner}%2Ftypo"),
    ]
}

#[test]
fn every_command_that_reads_fails_for_a_mistyped_directory_and_makes_none() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let path = dir.path().display().to_string();
    let (_config, plugin) =
        file(format!("extra_config: {{remote_storage_plugin.fs.a.base_path: {path}/typo}}").as_bytes());
    let into = format!("fs://{path}/copy");
    let plugin_url = "plugin://fs.a".to_owned();
    for url in mistyped(&path).iter().chain([&plugin_url]) {
        for command in [
            &["ls", url][..],
            &["exists", url, KEY],
            &["get", url, KEY],
            &["rm", url, KEY],
            &["rm", url, "--all"],
            &["stat", url, KEY],
            &["du", url],
            &["ping", url],
            &["cp", url, &into],
        ] {
            run(&[command, &["--config", &plugin]].concat()).fails_with(&[
                "/typo`",
                "No such file or directory",
                "the first put makes the directory",
            ]);
        }
        assert_eq!(entries(dir.path()), [""; 0], "{url}");
    }
    for url in &mistyped(&path)[..2] {
        run(&["scrub", url]).fails_with(&["/typo`"]);
    }
}

#[test]
fn a_command_that_writes_makes_the_directory_and_then_it_is_a_store() {
    for n in 0..4 {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let url = &mistyped(&dir.path().display().to_string())[n];
        put(url, KEY, b"x");
        for args in [&["ls", url][..], &["exists", url, KEY], &["get", url, KEY], &["ping", url], &["rm", url, KEY]] {
            run(args).exits(0);
        }
        run(&["get", url, KEY]).exits(1);
        assert_eq!(run(&["ls", url]).exits(0).text(), "");
    }
}

#[test]
fn an_interrupt_ends_a_command_that_waits_for_stdin() {
    let (dir, url) = store();
    for name in [Signal::INT, Signal::TERM] {
        let mut child = started(&["put", &url, KEY, "-", "-v"]);
        // More than a pipe holds, so a part of it was read.
        child.stdin.as_mut().expect("a pipe").write_all(&[7; 100_000]).expect("the command reads");
        signal(&child, name);
        ended(child).exits(130);
        assert_eq!(entries(dir.path()), [""; 0]);
    }
}

#[test]
fn an_interrupt_ends_a_command_that_waits_for_the_reader_of_a_pipe() {
    let (dir, url) = store();
    fill(dir.path(), 4000);
    put(&url, KEY, &[7; 200_000]);
    for args in [&["ls", &url][..], &["get", &url, KEY]] {
        let mut child = started(args);
        let mut stdout = BufReader::with_capacity(1, child.stdout.take().expect("a pipe"));
        assert_eq!(stdout.fill_buf().expect("the output begins").len(), 1);
        signal(&child, Signal::INT);
        ended(child).exits(130);
    }
    let pipe = dir.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe can be made");
    let mut child = started(&["get", &url, KEY, "-v", "-o", pipe.to_str().expect("temporary paths are UTF-8")]);
    wait_for_lines(&mut child, "opened", 1);
    signal(&child, Signal::INT);
    ended(child).exits(130);
}

#[test]
fn an_interrupt_ends_a_command_that_waits_for_its_configuration() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let pipe = dir.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe can be made");
    let child = started(&["ls", "memory://x", "--config", pipe.to_str().expect("temporary paths are UTF-8")]);
    // This open returns when the command has opened the pipe, too.
    let writer = std::fs::OpenOptions::new().write(true).open(&pipe).expect("the pipe can be opened");
    signal(&child, Signal::INT);
    ended(child).exits(130);
    drop(writer);
}

#[test]
fn an_interrupt_ends_a_command_that_waits_for_a_server() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("redis://{}?connect_timeout_ms=600000", server.local_addr().expect("it has an address"));
    for args in
        [&["exists", &url, KEY][..], &["ls", &url], &["ping", &url], &["cp", &url, "memory://x"], &["check", &url]]
    {
        let child = started(args);
        let _silent = server.accept().expect("the command connects");
        signal(&child, Signal::INT);
        ended(child).exits(130);
    }
}

#[test]
fn an_interrupt_ends_a_call_in_flight() {
    // An `exists` of this store takes ten minutes.
    let slow = "mock://1?peeking_latency=600000";
    for args in [&["exists", slow, KEY][..], &["ping", slow]] {
        let mut child = started(&[args, &["-v"]].concat());
        wait_for_lines(&mut child, "opened", 1);
        signal(&child, Signal::INT);
        ended(child).exits(130);
    }
}

#[test]
fn an_interrupt_ends_a_command_whose_cleanup_hangs() {
    // A `remove` and an `exists` of this store take ten minutes.
    let slow = "mock://1?peeking_latency=600000";
    // `check` opens the store once before the checks, and an interrupt then leaves nothing to clean up.
    for (args, opened) in [
        (&["bench", slow, "--keys", "1", "--chunk-size", "9"][..], 1),
        (&["check", slow, "--filter", "exists_agrees"], 2),
    ] {
        let mut command = kvconn(&[args, &["-v"]].concat());
        command.env("KVCONN_EXIT_PATIENCE", "0.1").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command starts");
        wait_for_lines(&mut child, "opened", opened);
        signal(&child, Signal::INT);
        let end = ended(child).exits(130);
        assert!(end.err.contains("stopped before everything was cleaned up"), "{args:?}: {end:?}");
    }
}

/// Reads stderr until so many lines with this word have come.
fn wait_for_lines(child: &mut Child, word: &str, mut lines: usize) {
    let mut stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while lines > 0 {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).expect("stderr is text"), 0, "the command ended too early");
        lines -= usize::from(line.contains(word));
    }
    child.stderr = Some(stderr.into_inner());
}

/// A write-back store whose back takes a byte a second.
const SLOW_BACK: &str =
    "tiered://?front=memory%3A%2F%2F&mode=write_back&back=mock%3A%2F%2F1%3Fwrite_throughput%3D0.000000001";

#[test]
fn an_interrupt_says_what_a_write_back_store_could_not_write_in_time() {
    let (dir, url) = store();
    fill(dir.path(), 3);
    let (_file, path) = file(&[7; 4096]);
    for (args, chunks) in [(&["put", SLOW_BACK, KEY, &path][..], "1 chunks"), (&["cp", &url, SLOW_BACK], "3 chunks")] {
        // Once, and then the time is over; or twice.
        for patience in ["0.3", "1000"] {
            let mut command = kvconn(args);
            command
                .env("KVCONN_EXIT_PATIENCE", patience)
                .env("RUST_LOG", "off")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = command.spawn().expect("the command starts");
            let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
            let mut shown = String::new();
            stdout.read_line(&mut shown).expect("the chunks are acknowledged");
            signal(&child, Signal::INT);
            if patience == "1000" {
                wait_for_lines(&mut child, "interrupt again", 1);
                signal(&child, Signal::INT);
            }
            let end = ended(child).exits(130);
            assert!(end.err.contains(chunks) && end.err.contains("are lost"), "{args:?} {patience}: {end:?}");
        }
    }
}
