//! `kvconn demo`.

use tempfile::TempDir;

use super::{Finished, entries, file, fs_url, kvconn, run};

#[test]
fn the_demo_verifies_and_leaves_nothing() {
    let tmp = TempDir::new().expect("a directory can be made");
    let output = kvconn(&["demo"]).env("TMPDIR", tmp.path()).output().expect("the command starts");
    let shown = Finished::from(output).exits(0);
    for part in ["verified", "GiB/s", "facebook/opt-125m", "KV_2LTD float16 [2, 12, 256, 768], 9437184 bytes"] {
        assert!(shown.text().contains(part), "{part}: {}", shown.text());
    }
    assert!(entries(tmp.path()).is_empty());
}

#[test]
fn a_kept_demo_can_be_listed() {
    let tmp = TempDir::new().expect("a directory can be made");
    // Each of these characters has a meaning in a URL.
    let dir = tmp.path().join("a b&c=%41?#é");
    let path = dir.to_str().expect("it is UTF-8");
    let shown = run(&["demo", "--keep", path]).exits(0);
    assert!(shown.text().contains("verified"), "{}", shown.text());
    assert!(entries(&dir).len() >= 3);

    let plain = tmp.path().join("plain");
    std::fs::rename(&dir, &plain).expect("it can be renamed");
    let listed = run(&["ls", &fs_url(&plain)]).exits(0);
    assert!(listed.text().lines().all(|key| key.starts_with("facebook/opt-125m@1@0@")), "{}", listed.text());
    assert!(listed.text().lines().count() >= 3);
}

#[test]
fn a_demo_fails_if_it_cannot_make_its_directory() {
    let (_dir, path) = file(b"a regular file");
    let result = run(&["demo", "--keep", &format!("{path}/below")]).exits(3);
    assert!(result.err.contains(&path) && !result.text().contains("verified"), "{result:?}");
}
