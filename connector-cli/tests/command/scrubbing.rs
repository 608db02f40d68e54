//! scrub.

use super::{KEY, OTHER, entries, put, run, store};

/// The name of a file that a writer of another process has in hand.
const LEFT_BEHIND: &str = ".kvconn-4711-00112233445566ff-7.tmp";

#[test]
fn a_store_of_whole_chunks_is_all_right() {
    let (dir, url) = store();
    put(&url, KEY, &[1; 5000]);
    put(&url, OTHER, &[2; 1000]);
    for place in [&*url, dir.path().to_str().unwrap()] {
        let said = run(&["scrub", place]).exits(0);
        assert!(said.text().contains("2 chunks, 5.9 KiB\n0 other files, 0 removed"), "{}", said.text());
    }
}

#[test]
fn what_is_no_chunk_is_named_with_its_reason_and_only_kvconns_own_rest_is_removed() {
    let (dir, url) = store();
    put(&url, KEY, &[1; 5000]);
    let torn = "opt@1@0@3d4c@half.data";
    for (name, bytes) in [(LEFT_BEHIND, 700), (torn, 14), ("opt@1@0@5e6f@half.tmp", 70), ("notes.txt", 3)] {
        std::fs::write(dir.path().join(name), vec![0; bytes]).unwrap();
    }
    let young = run(&["scrub", &url]).exits(1);
    assert!(young.text().contains("1 being written"), "{}", young.text());

    let expected = [
        ("left_behind", LEFT_BEHIND, 700),
        ("torn", torn, 14),
        ("unfinished", "5e6f@half.tmp", 70),
        ("foreign", "notes.txt", 3),
    ];
    let seen = run(&["scrub", &url, "--min-age", "0", "--json"]).exits(1).json();
    assert!(seen["chunks"] == 1 && seen["chunk_bytes"] == 5028, "{seen}");
    for (kind, name, bytes) in expected {
        let found = seen["findings"].as_array().unwrap().iter().find(|f| f["kind"] == kind).expect(kind);
        assert!(found["path"].as_str().unwrap().ends_with(name) && found["bytes"] == bytes, "{found}");
        assert!(found["removed"] == false && !found["reason"].as_str().unwrap().is_empty(), "{found}");
    }
    assert_eq!(entries(dir.path()).len(), 5, "a look removes nothing");

    let removing = run(&["scrub", &url, "--min-age", "0", "--remove"]).exits(1);
    assert!(
        removing.text().contains("its writer is gone; removed") && removing.text().contains("4 other files, 1 removed")
    );
    let mut left = entries(dir.path());
    left.sort();
    assert_eq!(left, ["notes.txt", "opt@1@0@1f2e@half.data", torn, "opt@1@0@5e6f@half.tmp"]);
}

#[test]
fn what_is_no_directory_of_chunks_is_refused() {
    run(&["scrub", "memory://x"]).fails_saying(&["not a store of files", "fs:///path"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "").unwrap();
    for name in ["a,b", "a?capacity=1", "a#b"] {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        run(&["scrub", path.to_str().unwrap()]).fails_saying(&["cannot be written as a store's URL", name]);
    }
    run(&["scrub", "/no/such/directory"]).fails_saying(&["`/no/such/directory` is not a directory"]);
}
