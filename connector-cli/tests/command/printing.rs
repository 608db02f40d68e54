//! Stdout and stderr: pipes, terminals, and readers that leave.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{Finished, KEY, OTHER, fill, kvconn, put, run, store};

/// A key that clears the screen, and one with a line break.
const CLEARS: &str = "a\x1b[2Jb@1@0@1@half";
const BREAKS: &str = "a\nb@1@0@2@half";

/// The output of the command on a terminal, and its exit code.
fn on_terminal(args: &[&str]) -> (String, Option<i32>) {
    shown_on_terminal(kvconn(args).env("TERM", "xterm"))
}

/// The same for a command with an environment. Its stdin stays as it is.
pub(super) fn shown_on_terminal(command: &mut Command) -> (String, Option<i32>) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal can be made");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("the terminal can be used");
    let name = ptsname(&terminal, Vec::new()).expect("the terminal has a name");
    let name = std::ffi::OsStr::from_bytes(name.to_bytes());
    let user = || OpenOptions::new().read(true).write(true).open(name).expect("the terminal can be opened");
    let mut child = command.stdout(user()).stderr(user()).spawn().expect("the command starts");
    // The command's copies of the terminal must be the only ones, so that the read below ends with it.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut shown = Vec::new();
    // The read fails when the last user of the terminal has closed it.
    let _ = File::from(terminal).read_to_end(&mut shown);
    (String::from_utf8(shown).expect("the output is text"), child.wait().expect("the command ends").code())
}

#[test]
fn a_pipe_gets_the_exact_bytes_of_a_key() {
    let (_dir, url) = store();
    put(&url, CLEARS, b"x");
    assert_eq!(run(&["ls", &url]).exits(0).text(), format!("{CLEARS}\n"));
    assert_eq!(run(&["exists", &url, CLEARS]).exits(0).text(), format!("yes  {CLEARS}\n"));
    let json = run(&["ls", &url, "--json"]).exits(0);
    assert_eq!(json.json()["key"], CLEARS);
    assert!(!json.text().contains('\x1b'), "{json:?}");
    assert!(!run(&["get", &url, CLEARS]).exits(0).err.contains('\x1b'));
}

#[test]
fn a_nul_byte_ends_a_line_on_request() {
    let (_dir, url) = store();
    put(&url, BREAKS, b"x");
    assert_eq!(run(&["ls", &url, "-0"]).exits(0).text(), format!("{BREAKS}\0"));
    assert_eq!(run(&["exists", &url, "--null", BREAKS, KEY]).exits(1).text(), format!("yes  {BREAKS}\0no   {KEY}\0"));
    assert_eq!(run(&["rm", "-0", &url, BREAKS]).exits(0).text(), format!("removed  {BREAKS}\0"));
}

#[test]
fn a_terminal_gets_no_control_character_of_a_key() {
    let (dir, url) = store();
    for key in [CLEARS, BREAKS, "a\u{9b}31m@1@0@3@half"] {
        put(&url, key, b"x");
    }
    std::fs::write(dir.path().join("evil\x1b[2J"), "").expect("the file can be written");
    let missing = format!("{CLEARS}missing");
    for (args, parts, code) in [
        (&["ls", &url][..], &["a\\u{1b}[2Jb@1@0@1@half", "a\\nb@1@0@2@half", "a\\u{9b}31m@"][..], 0),
        (&["ls", &url, "--json"], &["a\\u001b[2Jb@1@0@1@half", "a\\u009b31m@"], 0),
        (&["exists", &url, CLEARS], &["yes  a\\u{1b}[2Jb"], 0),
        (&["rm", &url, CLEARS, CLEARS], &["removed  a\\u{1b}[2Jb"], 1),
        (&["get", &url, CLEARS, "-o", "/dev/null"], &["a\\u{1b}[2Jb@1@0@1@half` is not in"], 1),
        (&["exists", &url, &missing], &["a\\u{1b}[2Jb"], 2),
        (&["ls", "fs:///no/such\x1b[2J"], &["it holds the control character"], 2),
        (&["ls", &url, "--config", "/no/such\x1b[2J"], &["such\\u{1b}[2J"], 3),
        (&["x\x1b[2J"], &["x\\u{1b}[2J"], 2),
        (&["scrub", &url], &["evil\\u{1b}[2J: foreign"], 1),
        (&["scrub", &url, "--json"], &["evil\\u001b[2J"], 1),
    ] {
        let (shown, ended) = on_terminal(args);
        for part in parts {
            assert!(shown.contains(part), "{args:?}: {part} in {shown:?}");
        }
        assert!(!shown.contains("\x1b[2J") && !shown.contains('\u{9b}'), "{args:?}: {shown:?}");
        assert_eq!(ended, Some(code), "{args:?}: {shown:?}");
    }
}

#[test]
fn colours_are_for_terminals() {
    let (shown, _) = on_terminal(&["connectors"]);
    assert!(shown.contains("\x1b[1mCONNECTOR"), "{shown:?}");
    assert!(!run(&["connectors"]).exits(0).text().contains('\x1b'));
    let forced = kvconn(&["connectors"]).env("CLICOLOR_FORCE", "1").output().expect("the command starts");
    assert!(forced.stdout.starts_with(b"\x1b[1m"), "{forced:?}");
    let always = run(&["connectors", "--color", "always"]).exits(0);
    assert!(always.text().starts_with("\x1b[1m"), "{always:?}");
}

/// The output, the errors, the help, the errors of the parser and the log.
#[test]
fn no_part_of_the_output_has_colours_if_the_user_wants_none() {
    let all: [&[&str]; 5] =
        [&["connectors"], &["ls", "fs:///no/such", "-v"], &["ls", "--help"], &["ls", "--no-such-option"], &["rm", "x"]];
    for args in all {
        for (variable, value) in [("NO_COLOR", "1"), ("TERM", "dumb"), ("CLICOLOR", "0")] {
            let (shown, _) = shown_on_terminal(kvconn(args).env("TERM", "xterm").env(variable, value));
            assert!(!shown.contains('\x1b') && !shown.is_empty(), "{args:?} {variable}: {shown:?}");
        }
        for never in [&["--color=never"][..], &["--color", "never"]] {
            let (shown, _) = on_terminal(&[args, never].concat());
            assert!(!shown.contains('\x1b') && !shown.is_empty(), "{args:?} {never:?}: {shown:?}");
        }
        let (shown, _) = on_terminal(args);
        assert!(shown.contains("\x1b["), "{args:?}: {shown:?}");
    }
}

#[test]
fn progress_is_for_terminals_that_can_draw_it() {
    let (dir, url) = store();
    fill(dir.path(), 300);
    let args = ["rm", &url, "--all", "--yes"];
    let (drawn, code) = on_terminal(&args);
    assert!(drawn.contains("\x1b[") && drawn.contains("removed 300 chunks") && code == Some(0), "{drawn:?}");
    for (args, variable) in [(&["--quiet"][..], ""), (&["--json"], ""), (&[], "dumb")] {
        fill(dir.path(), 300);
        let mut command = kvconn(&[&["rm", &url, "--all", "--yes"], args].concat());
        command.env("TERM", if variable.is_empty() { "xterm" } else { variable });
        let (shown, code) = shown_on_terminal(&mut command);
        assert!(!shown.replace("\r\n", "\n").contains(['\x1b', '\r']), "{args:?}: {shown:?}");
        assert_eq!(code, Some(0), "{args:?}: {shown:?}");
    }
}

#[test]
fn a_reader_that_left_does_not_change_the_exit_code() {
    let (dir, url) = store();
    put(&url, KEY, b"x");
    // Their answers are longer than the buffers.
    let long: Vec<&str> = std::iter::repeat_n(OTHER, 20_000).collect();
    let scrubbed = format!("{}?save_chunk_meta=false", url);
    std::fs::write(dir.path().join("foreign"), "").expect("the file can be written");
    for (args, code) in [
        ([&["exists", &url][..], &long].concat(), 1),
        ([&["rm", &url][..], &long].concat(), 1),
        (vec!["exists", &url, KEY], 0),
        (vec!["exists", &url, OTHER], 1),
        (vec!["get", &url, KEY], 0),
        (vec!["get", &url, OTHER], 1),
        (vec!["ls", &url], 0),
        (vec!["ping", &url], 0),
        (vec!["connectors"], 0),
        (vec!["connectors", "--json"], 0),
        (vec!["stores"], 0),
        (vec!["stat", &url, KEY], 0),
        (vec!["stat", &url, OTHER], 1),
        (vec!["du", &url], 0),
        (vec!["ls", &url, "--count"], 0),
        (vec!["rm", &url, "--all", "--dry-run"], 0),
        (vec!["version"], 0),
        (vec!["completions", "bash"], 0),
        (vec!["man"], 0),
        (vec!["describe", "fs"], 0),
        (vec!["scrub", &scrubbed], 1),
        (vec!["check", &url, "--filter", "removal"], 0),
        (vec!["check", "memory://small?capacity=4000", "--filter", "batches"], 1),
        (vec!["check", "--list"], 0),
        (vec!["bench", "memory://b", "--chunk-size", "1000", "--keys", "4", "--rounds", "1"], 0),
        (vec!["--help"], 0),
        (vec!["--version"], 0),
        (vec!["ls", "--help"], 0),
        (vec!["ls", "fs:///no/such/store"], 3),
    ] {
        let mut child = kvconn(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        let end = Finished::from(child.wait_with_output().expect("the command ends"));
        assert_eq!(end.code, Some(code), "{:?}: {}", &args[..2.min(args.len())], end.err);
        assert!(!end.err.contains("Broken pipe") && !end.err.contains("stdout"), "{}", end.err);
    }
}

#[test]
fn ls_ends_when_its_reader_has_left() {
    let (dir, url) = store();
    // The list is longer than a pipe's buffer.
    fill(dir.path(), 4000);
    let mut child = kvconn(&["ls", &url]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line comes");
    let end = child.wait_with_output().expect("the command ends");
    assert_eq!((end.status.code(), String::from_utf8_lossy(&end.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn a_full_disk_under_stdout_is_an_error() {
    let (_dir, url) = store();
    put(&url, KEY, b"x");
    for args in [
        &["--help"][..],
        &["--version"],
        &["ls", "--help"],
        &["connectors"],
        &["connectors", "--json"],
        &["stores", "--json"],
        &["version"],
        &["completions", "zsh"],
        &["man"],
        &["stat", &url, KEY],
        &["du", &url],
        &["ls", &url, "--count"],
        &["rm", &url, "--all", "--dry-run"],
        &["describe", "fs"],
        &["exists", &url, KEY],
        &["exists", &url, OTHER],
        &["ls", &url],
        &["ls", &url, "--json"],
        &["get", &url, KEY],
        &["ping", &url],
        &["scrub", &url],
        &["check", "--list"],
        &["check", &url, "--filter", "removal"],
        &["rm", &url, KEY],
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("the device is there");
        let output = kvconn(args).stdout(full).output().expect("the command starts");
        let end = Finished::from(output).exits(3);
        for part in ["cannot write to stdout", "No space left on device"] {
            assert!(end.err.contains(part) && end.err.lines().count() == 1, "{args:?}: {end:?}");
        }
    }
}

#[test]
fn a_closed_stdout_is_not_an_error() {
    let script = format!("exec {} list >&-", env!("CARGO_BIN_EXE_kvconn"));
    assert_eq!(Command::new("sh").args(["-c", &script]).status().expect("`sh` starts").code(), Some(0));
}
