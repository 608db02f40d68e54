//! The commands on an S3 URL: copies that resume, and secrets that stay in the environment.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kvconn_cloud_servers::{Credentials, FakeS3, Fault, Operation, S3sFs};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{Finished, KEY, OTHER, entries, file, kvconn, signal, store, wait_until};

const BUCKET: &str = "chunks";

/// The command with the server's keys in its environment. The URLs name only the variables.
fn with_keys(args: &[&str]) -> Command {
    let Credentials { access_key_id, secret_access_key, .. } = Credentials::example();
    let mut command = kvconn(args);
    command.env("KEY_ID", access_key_id).env("SECRET", secret_access_key);
    command
}

fn run(args: &[&str]) -> Finished {
    let done = Finished::from(with_keys(args).output().expect("the command starts"));
    assert_no_secret(&done);
    done
}

fn assert_no_secret(done: &Finished) {
    let shown = format!("{}{}", String::from_utf8_lossy(&done.out), done.err);
    for secret in [&*Credentials::example().secret_access_key, "Signature=", "AWS4-HMAC"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

fn url(endpoint: &str, prefix: &str) -> String {
    format!(
        "s3://{BUCKET}{prefix}?endpoint={endpoint}&region=us-east-1&access_key_id=${{KEY_ID}}&secret_access_key=${{SECRET}}"
    )
}

fn fake() -> (FakeS3, String) {
    let fake = FakeS3::start();
    fake.bucket(BUCKET);
    let url = url(&fake.endpoint(), "/kv");
    (fake, url)
}

#[test]
fn every_command_works_on_an_s3_url() {
    let (fake, url) = fake();
    let (_file, path) = file(b"a chunk");
    for key in [KEY, OTHER, "org/model@00000001@0@1f2e"] {
        run(&["put", &url, key, &path]).exits(0);
    }
    assert_eq!(fake.keys(BUCKET), ["kv/opt@1@0@1f2e@half", "kv/opt@1@0@3d4c@half", "kv/org/model@00000001@0@1f2e"]);
    assert_eq!(run(&["get", &url, KEY]).exits(0).out, b"a chunk");
    assert!(run(&["exists", &url, KEY, "opt@1@0@1@half"]).exits(1).text().contains("no   opt@1@0@1@half"));
    let listed = run(&["ls", &url, "-l", "--prefix", "opt@1@0@1"]).exits(0);
    assert!(listed.text().contains(" 7 ") && listed.text().ends_with(&format!("s  {KEY}\n")), "{listed:?}");
    let listed = run(&["ls", &url, "--json", "--prefix", "org"]).exits(0).json();
    assert_eq!((&listed["size"], &listed["kind"]), (&7.into(), &"object".into()));
    assert!(listed["modified"].as_f64().is_some_and(|time| time > 1e9), "{listed}");
    assert!(run(&["ping", &url]).exits(0).text().contains("kvconn.s3/S3Connector answered in"));
    let place = ["endpoint=\"http://127.0.0.1:", "bucket=\"chunks\"", "region=\"us-east-1\"", "in the path"];
    let pinged = run(&["ping", &url, "-v"]).exits(0);
    assert!(place.iter().all(|part| pinged.err.contains(part)), "{}", pinged.err);
    assert!(run(&["describe", &url]).exits(0).text().contains("secret_access_key  string, secret"));
    let measured = run(&["bench", &url, "--chunk-size", "64KiB", "--keys", "4", "--rounds", "1", "--json"]).exits(0);
    assert!(measured.json()["stores"][0]["url"].as_str().is_some_and(|url| url.contains("secret_access_key=***")));
    assert!(run(&["rm", &url, KEY, OTHER]).exits(0).text().contains(&format!("removed  {OTHER}")));
    assert_eq!(run(&["ls", &url]).exits(0).text(), "org/model@00000001@0@1f2e\n");
}

#[test]
fn the_contract_holds_on_s3s_fs() {
    let server = S3sFs::start();
    server.bucket(BUCKET);
    // An object is a file there, with a name of at most 255 bytes with the server's own part.
    let result = run(&["check", &format!("{}&max_name_bytes=150", url(&server.endpoint(), "/kv"))]).exits(0);
    assert!(result.text().contains(" 0 failed, "), "{result:?}");
}

#[test]
fn a_refusal_says_what_is_wrong_and_no_output_has_a_secret() {
    let (fake, url) = fake();
    let mut command = with_keys(&["ls", &url, "-vv"]);
    command.env("SECRET", "not-the-secret/of+the=server");
    let result = Finished::from(command.output().expect("the command starts")).exits(3);
    assert!(result.err.contains("SignatureDoesNotMatch"), "{}", result.err);
    assert!(!result.err.contains("not-the-secret") && !result.err.contains("not-the-secret%2F"), "{}", result.err);
    assert_no_secret(&result);
    run(&["ls", &url.replace(BUCKET, "missing"), "-vv"]).exits(2);
    run(&["ls", &url, "-vv"]).exits(0);
    fake.always(Fault::slow_down());
    assert!(run(&["ls", &url, "-vv"]).exits(3).err.contains("SlowDown"));
}

/// A directory with this many chunks of both kinds of keys, all different, and the URL of the store in it.
fn chunks(n: usize) -> (TempDir, String) {
    let (dir, url) = store();
    for i in 0..n {
        let name = match i % 2 {
            0 => format!("org-SEP-my_model@1@0@{i:x}@half.data"),
            _ => format!("org-SEP-my_model@0x00000001@0@{i:04x}.data"),
        };
        fs::write(dir.path().join(name), [&i.to_le_bytes()[..], &[7; 4088]].concat()).expect("a file can be written");
    }
    (dir, format!("{url}?save_chunk_meta=false"))
}

/// The files of a directory, by name.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| (name.clone(), fs::read(dir.join(name)).expect("a file can be read"));
    entries(dir).into_iter().map(read).collect()
}

fn copy_there_and_back(n: usize) {
    let server = S3sFs::start();
    server.bucket(BUCKET);
    let ((from_dir, from), to) = (chunks(n), url(&server.endpoint(), "/kv"));
    let (back_dir, back) = store();
    for (from, to) in [(&from, &to), (&to, &format!("{back}?save_chunk_meta=false"))] {
        let result = run(&["cp", from, to]).exits(0);
        assert!(result.text().starts_with(&format!("copied {n} chunks ")), "{result:?}");
    }
    assert_eq!(run(&["ls", &to]).exits(0).text().lines().count(), n);
    assert!(files(from_dir.path()) == files(back_dir.path()), "the copies differ");
}

#[test]
fn cp_moves_each_chunk_once_and_reads_it_back_only_with_verify() {
    let (_dir, from) = chunks(40);
    for (more, reads) in [(&[][..], 0), (&["--overwrite"], 0), (&["--verify"], 40)] {
        let (fake, to) = fake();
        let result = run(&[&["cp", &from, &to], more].concat()).exits(0);
        assert_eq!(result.text().contains("all verified"), reads > 0, "{result:?}");
        let got = fake.requests().iter().filter(|r| r.operation == Operation::Get && r.status == Some(200)).count();
        assert_eq!((fake.count(Operation::Put), got), (40, reads), "{more:?}");
    }
}

#[test]
fn cp_needs_memory_for_two_chunks_only() {
    let (_fake, there) = fake();
    let ((dir, from), (back_dir, back)) = (store(), store());
    for i in 0..24_u8 {
        let name = format!("large@1@0@{i:x}@half.data");
        fs::write(dir.path().join(name), vec![i; 3 << 20]).expect("a file can be written");
    }
    let raw = |url: &str| format!("{url}?save_chunk_meta=false");
    for (from, to) in [(&raw(&from), &there), (&there, &raw(&back))] {
        for more in [&[][..], &["--overwrite"]] {
            let mut command = with_keys(&[&["cp", from, to], more].concat());
            // GiB: three chunks.
            command.env("LMCACHE_MAX_LOCAL_CPU_SIZE", "0.0095");
            let result = Finished::from(command.output().expect("the command starts")).exits(0);
            assert!(result.text().contains("; failed 0") && result.err.is_empty(), "{result:?}");
        }
    }
    assert!(files(dir.path()) == files(back_dir.path()), "the copies differ");
}

fn interrupt_and_resume(n: usize) {
    let (fake, to) = fake();
    let (_dir, from) = chunks(n);
    let mut ended = Vec::new();
    // The command still runs when a signal comes.
    fake.always(Fault::delay(Duration::from_millis(5)).on([Operation::Put]));
    for with in [Signal::INT, Signal::KILL] {
        let args = ["cp", &from, &to, "--skip-existing", "--concurrency", "1"];
        let child = with_keys(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let (mut child, before) = (child.expect("the command starts"), fake.keys(BUCKET).len());
        wait_until(&mut child, || fake.keys(BUCKET).len() > before + n / 10);
        signal(&child, with);
        ended.push(Finished::from(child.wait_with_output().expect("the command ends")).code);
    }
    fake.clear_faults();
    assert_eq!(ended, [Some(130), None]);
    // A killed command sends nothing more, but the server may still read what it sent.
    fake.wait_for_requests(|all| all.iter().all(|request| request.status.is_some()));
    let moved = fake.keys(BUCKET).len();
    assert!((n / 5..n).contains(&moved), "{moved} of {n}");

    fake.forget_requests();
    let result = run(&["cp", &from, &to, "--skip-existing"]).exits(0);
    let done = (format!("copied {} chunks ", n - moved), format!("skipped {moved} present; failed 0"));
    assert!(result.text().starts_with(&done.0) && result.text().contains(&done.1), "{result:?}");
    // One write for each of the rest, and no byte is read.
    let reads = fake.requests().iter().filter(|r| r.operation == Operation::Get && r.status == Some(200)).count();
    assert_eq!((fake.count(Operation::Put), reads), (n - moved, 0));
    assert!(run(&["cp", &from, &to]).exits(0).text().contains(&format!("copied 0 chunks; skipped {n} equal")));
}

#[test]
fn cp_moves_chunks_to_an_object_store_and_back() {
    copy_there_and_back(300);
}

#[test]
fn an_interrupted_and_a_killed_cp_move_only_the_rest_when_they_run_again() {
    interrupt_and_resume(600);
}

#[test]
#[ignore = "slow: ./tests/run --full runs it"]
fn cp_moves_ten_thousand_chunks_and_resumes() {
    copy_there_and_back(10_000);
    interrupt_and_resume(10_000);
}
