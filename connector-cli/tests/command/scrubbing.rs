//! `kvconn scrub`.

use super::{KEY, OTHER, entries, put, run, store};

/// The name of a temporary file of another process.
const LEFT_BEHIND: &str = ".kvconn-4711-00112233445566ff-7.tmp";

#[test]
fn a_store_of_whole_chunks_has_no_findings() {
    let (dir, url) = store();
    put(&url, KEY, &[1; 5000]);
    put(&url, OTHER, &[2; 1000]);
    for place in [&*url, dir.path().to_str().unwrap()] {
        let result = run(&["scrub", place]).exits(0);
        assert!(result.text().contains("2 chunks, 5.9 KiB\n0 other files, 0 removed"), "{}", result.text());
    }
}

#[test]
fn scrub_reports_each_other_file_and_removes_only_kvconns_leftovers() {
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
    assert_eq!(entries(dir.path()).len(), 5, "without --remove, scrub removes nothing");

    let removing = run(&["scrub", &url, "--min-age", "0", "--remove"]).exits(1);
    assert!(
        removing.text().contains("its writer is gone; removed") && removing.text().contains("4 other files, 1 removed")
    );
    let mut left = entries(dir.path());
    left.sort();
    assert_eq!(left, ["notes.txt", "opt@1@0@1f2e@half.data", torn, "opt@1@0@5e6f@half.tmp"]);
}

#[test]
fn scrub_counts_the_directories_that_it_does_not_enter() {
    let (dir, url) = store();
    for name in ["team-a", "team-b"] {
        put(&format!("{url}?namespace={name}"), KEY, &[1; 50]);
    }
    let shown = run(&["scrub", dir.path().to_str().unwrap()]).exits(0);
    assert!(shown.text().contains("2 directories not scanned (`?namespace=NAME`"), "{}", shown.text());
    assert_eq!(run(&["scrub", &url, "--json"]).exits(0).json()["directories"], 2);
    let inside = run(&["scrub", &format!("{url}?namespace=team-a")]).exits(0);
    assert!(inside.text().contains("1 chunk,") && !inside.text().contains("director"), "{}", inside.text());
}

#[test]
fn scrub_refuses_a_store_that_is_not_a_directory_of_files() {
    run(&["scrub", "memory://x"]).refuses_with(&["not a store of files", "fs:///path"]);
    run(&["scrub", ""]).exits(2);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "").unwrap();
    for name in ["a,b", "a?capacity=1", "a#b"] {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        run(&["scrub", path.to_str().unwrap()]).refuses_with(&[
            "cannot be written as a store's URL",
            "a symbolic link",
            path.to_str().unwrap(),
        ]);
    }
    let with_options = format!("{}?namespace=team-a", dir.path().display());
    let url = format!("write `fs://{}?option=value`", dir.path().display());
    run(&["scrub", &with_options]).refuses_with(&["only a URL has options", &url]);
    let file = dir.path().join("a?b=c");
    std::fs::write(&file, "").unwrap();
    run(&["scrub", file.to_str().unwrap()]).fails_with(&[&format!("`{}` is not a directory", file.display())]);
    run(&["scrub", "/no/such/directory"]).fails_with(&["`/no/such/directory` is not a directory"]);
}
