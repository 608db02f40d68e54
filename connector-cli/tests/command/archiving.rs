//! `kvconn cp` from and to archives.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::{Finished, KEY, OTHER, entries, file, fill, kvconn, put, run, signal, slow, store, wait_until};

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| (name.clone(), std::fs::read(dir.join(name)).expect("a file can be read"));
    entries(dir).into_iter().map(read).collect()
}

/// A store with chunks of both kinds of keys, one with a layout.
fn filled() -> (tempfile::TempDir, String) {
    let (dir, url) = store();
    fill(dir.path(), 30);
    put(&url, "org/model@00000001@0@1f2e", b"an object");
    let (_file, path) = file(&[1; 48]);
    run(&["put", &url, OTHER, &path, "--shape", "2,2,3,2", "--dtype", "half", "--format", "KV_2LTD"]).exits(0);
    (dir, url)
}

#[test]
fn a_store_comes_back_from_its_archive() {
    let ((a, from), (b, to), (dir, _)) = (filled(), store(), store());
    let archive = dir.path().join("backup.tar");
    let archive = archive.to_str().expect("temporary paths are UTF-8");
    assert!(run(&["cp", &from, archive, "--batch", "7"]).exits(0).text().starts_with("copied 32 chunks"));
    assert!(run(&["cp", archive, &to, "--verify"]).exits(0).text().contains("all verified"));
    assert!(files(a.path()) == files(b.path()), "the copies differ");
    assert!(run(&["cp", archive, &to]).exits(0).text().contains("copied 0 chunks; skipped 32 equal"));
    assert!(run(&["cp", archive, &to, "--skip-existing"]).exits(0).text().contains("skipped 32 present"));
    assert!(run(&["cp", archive, &to, "--overwrite"]).exits(0).text().contains("copied 32 chunks"));
    let (c, part) = store();
    run(&["cp", archive, &part, "--prefix", "org/"]).exits(0);
    assert_eq!(entries(c.path()).len(), 1);
    // An old archive is replaced when the new one is complete.
    run(&["cp", &from, archive, "--prefix", "org/"]).exits(0);
    run(&["rm", &part, "org/model@00000001@0@1f2e"]).exits(0);
    assert!(run(&["cp", archive, &part]).exits(0).text().starts_with("copied 1 chunk "));
    assert_eq!(entries(dir.path()), ["backup.tar"]);
}

#[test]
fn an_archive_goes_through_a_pipe_and_tar_can_list_it() {
    let ((a, from), (b, to)) = (filled(), store());
    let saved = run(&["cp", &from, "-"]).exits(0);
    assert!(saved.err.contains("copied 32 chunks"), "{}", saved.err);
    let (_dir, path) = file(&saved.out);
    let load = |stdin: Stdio| Finished::from(kvconn(&["cp", "-", &to]).stdin(stdin).output().expect("it starts"));
    let loaded = load(std::fs::File::open(&path).expect("the file is there").into()).exits(0);
    assert!(loaded.text().starts_with("copied 32 chunks"), "{loaded:?}");
    assert!(files(a.path()) == files(b.path()), "the copies differ");
    let listed = Command::new("tar").args(["-tf", &path]).output().expect("`tar` starts");
    let listed = String::from_utf8(listed.stdout).expect("names are UTF-8");
    assert_eq!(listed.lines().count(), 33);
    assert!(listed.contains(&format!("{OTHER}.chunk\n")) && listed.contains("org%2Fmodel@00000001@0@1f2e.chunk\n"));
    assert!(listed.ends_with("kvconn-contents.json\n"), "{listed}");
}

#[test]
fn an_archive_that_was_cut_or_is_another_file_is_an_error() {
    let ((_a, from), (b, to)) = (filled(), store());
    let saved = run(&["cp", &from, "-"]).exits(0).out;
    // Within a chunk, and between two.
    for cut in [saved.len() / 2, saved.len() - 2048 - 1024] {
        let (_dir, path) = file(&saved[..cut]);
        let tar = path.replace("chunk.bin", "cut.tar");
        std::fs::rename(&path, &tar).expect("the file can be renamed");
        let result = run(&["cp", &tar, &to]).exits(3);
        assert!(result.err.contains("cut short"), "{}", result.err);
    }
    assert!(!entries(b.path()).is_empty(), "the chunks before the cut are copied");
    let (_dir, path) = file(b"not a tar file, but longer than a header".repeat(30).as_slice());
    let tar = path.replace("chunk.bin", "wrong.tar");
    std::fs::rename(&path, &tar).expect("the file can be renamed");
    run(&["cp", &tar, &to]).exits(3);
    run(&["cp", "/no/such/file.tar", &to]).fails_with(&["/no/such/file.tar", "No such file"]);
}

#[test]
fn an_archive_is_refused_where_it_makes_no_sense() {
    run(&["cp", "a.tar", "b.tar"]).refuses_with(&["are archives", "URL of a store"]);
    run(&["cp", "memory://x", "b.tar.gz"]).refuses_with(&["FILE.tar", "compress"]);
    run(&["cp", "memory://x", "b.tar", "--verify"]).refuses_with(&["--verify"]);
    let (dir, _) = store();
    let below = dir.path().join("missing/b.tar");
    let (_from, from) = filled();
    let result = run(&["cp", &from, below.to_str().expect("UTF-8")]).exits(3);
    assert!(result.err.contains("b.tar") && result.err.contains("No such file"), "{}", result.err);
    let full =
        kvconn(&["cp", &from, "-"]).stdout(std::fs::File::options().write(true).open("/dev/full").unwrap()).output();
    let result = Finished::from(full.expect("it starts")).exits(3);
    assert!(result.err.contains("cannot write to stdout"), "{}", result.err);
}

#[test]
fn an_interrupted_archive_leaves_the_old_one() {
    let (dir, _) = store();
    let archive = dir.path().join("old.tar");
    std::fs::write(&archive, "old").expect("the file can be written");
    let (a, from) = store();
    fill(a.path(), 3000);
    let mut command = kvconn(&["cp", &slow(&from, 1000), archive.to_str().expect("UTF-8"), "-v"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // The new archive grows in a file beside the old one.
    wait_until(&mut child, || entries(dir.path()).len() > 1);
    signal(&child, Signal::INT);
    let result = Finished::from(child.wait_with_output().expect("the command ends")).exits(130);
    assert!(result.err.contains("the archive is not complete"), "{}", result.err);
    assert_eq!(
        (entries(dir.path()), std::fs::read(&archive).expect("it is there")),
        (vec!["old.tar".into()], b"old".to_vec())
    );
}

#[test]
fn a_key_that_names_a_path_above_stays_in_the_archive() {
    let ((_a, from), (_b, to)) = (store(), store());
    let key = "../../etc@1@0@ff@half";
    put(&from, key, b"x");
    let saved = run(&["cp", &from, "-"]).exits(0).out;
    let (dir, path) = file(&saved);
    Command::new("tar").args(["-xf", &path, "-C"]).arg(dir.path()).status().expect("`tar` starts");
    assert!(entries(dir.path()).contains(&"..%2F..%2Fetc@1@0@ff@half.chunk".to_owned()), "{:?}", entries(dir.path()));
    let loaded = kvconn(&["cp", "-", &to]).stdin(std::fs::File::open(&path).expect("it is there")).output();
    Finished::from(loaded.expect("it starts")).exits(0);
    run(&["exists", &to, key, "--key-kind", "engine"]).exits(0);
}

#[test]
fn a_key_with_a_line_break_comes_back_from_an_archive() {
    let ((a, from), (b, to)) = (filled(), store());
    for key in ["ev\nil@1@0@aa@half", "12 path=x\n@1@0@bb@half"] {
        put(&from, key, b"a chunk");
    }
    let (_dir, path) = file(&run(&["cp", &from, "-"]).exits(0).out);
    let tar = path.replace("chunk.bin", "whole.tar");
    std::fs::rename(&path, &tar).expect("the file can be renamed");
    assert!(run(&["cp", &tar, &to]).exits(0).text().starts_with("copied 34 chunks"));
    assert!(files(a.path()) == files(b.path()), "the copies differ");
}

#[test]
fn a_stopped_copy_keeps_the_old_archive_and_a_partial_one_says_so() {
    let ((from_dir, from), (_b, to), (dir, _)) = (filled(), store(), store());
    let archive = dir.path().join("backup.tar");
    let path = archive.to_str().expect("temporary paths are UTF-8");
    run(&["cp", &from, path]).exits(0);
    let old = std::fs::read(&archive).expect("the archive is there");
    for name in entries(from_dir.path()).iter().filter(|name| name.ends_with(".data")).take(3) {
        std::fs::write(from_dir.path().join(name), b"torn").expect("the file can be written");
    }
    let stopped = run(&["cp", &from, path, "--max-errors", "1", "--concurrency", "1", "--batch", "1"]).exits(1);
    assert!(stopped.err.contains("kvconn did not keep it"), "{}", stopped.err);
    assert!(std::fs::read(&archive).expect("the archive is there") == old, "the old archive is not there");
    run(&["cp", &from, path]).exits(1);
    let loaded = run(&["cp", path, &to]).exits(0);
    assert!(loaded.err.contains("3 could not be read"), "{}", loaded.err);
}

#[test]
fn an_archive_is_written_through_a_link() {
    let ((_a, from), (dir, _)) = (filled(), store());
    let (link, target) = (dir.path().join("link.tar"), dir.path().join("target.tar"));
    std::os::unix::fs::symlink(&target, &link).expect("a link can be made");
    run(&["cp", &from, link.to_str().expect("temporary paths are UTF-8")]).exits(0);
    assert!(link.is_symlink() && target.is_file());

    // A copy that stops keeps the old archive, whatever leads to it.
    let old = std::fs::read(&target).expect("the archive is there");
    let (_c, damaged) = filled();
    let name = entries(_c.path()).into_iter().next().expect("a chunk");
    std::fs::write(_c.path().join(name), b"no chunk").expect("the file can be written");
    let link = link.to_str().expect("temporary paths are UTF-8");
    let stopped = run(&["cp", &damaged, link, "--max-errors", "1"]);
    assert!(stopped.err.contains("not complete"), "{}", stopped.err);
    assert!(std::fs::read(&target).expect("the archive is there") == old, "the old archive has changed");
    std::fs::hard_link(&target, dir.path().join("second.tar")).expect("a second name can be made");
    let refused = run(&["cp", &from, link]);
    assert!(refused.err.contains("remove it first"), "{}", refused.err);
    assert!(std::fs::read(&target).expect("the archive is there") == old, "the old archive has changed");
}

#[test]
fn records_of_any_size_take_no_memory() {
    let (_b, to) = store();
    let mut header = vec![0; 512];
    header[..4].copy_from_slice(b"name");
    header[124..136].copy_from_slice(b"30000000000\0");
    header[156] = b'x';
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let (_dir, path) = file(&header);
    let tar = path.replace("chunk.bin", "large.tar");
    std::fs::rename(&path, &tar).expect("the file can be renamed");
    let refused = run(&["cp", &tar, &to]).exits(3);
    assert!(refused.err.contains("records of 3221225472 bytes"), "{}", refused.err);
}

#[test]
fn a_chunk_that_is_larger_than_the_pool_fails_alone() {
    let ((a, from), (b, to)) = (filled(), store());
    put(&from, KEY, &[7; 100_000]);
    let saved = run(&["cp", &from, "-"]).exits(0).out;
    let (_dir, path) = file(&saved);
    let tar = path.replace("chunk.bin", "large.tar");
    std::fs::rename(&path, &tar).expect("the file can be renamed");
    let (_config, config) = file(b"max_local_cpu_size: 0.00005\n");
    let loaded = run(&["cp", &tar, &to, "--config", &config]).exits(1);
    assert!(loaded.text().starts_with("copied 32 chunks"), "{loaded:?}");
    assert!(loaded.err.contains(KEY) && loaded.err.contains("100000 bytes, more than the pool"), "{loaded:?}");
    run(&["rm", &from, KEY]).exits(0);
    assert!(files(a.path()) == files(b.path()), "the copies differ");
}

#[test]
fn archives_that_follow_each_other_are_all_read() {
    let ((a, from), (b, to)) = (filled(), store());
    let both = [run(&["cp", &from, "-", "--prefix", "org/"]).exits(0).out, run(&["cp", &from, "-"]).exits(0).out];
    let (_dir, path) = file(&both.concat());
    let tar = path.replace("chunk.bin", "both.tar");
    std::fs::rename(&path, &tar).expect("the file can be renamed");
    run(&["cp", &tar, &to]).exits(0);
    assert!(files(a.path()) == files(b.path()), "the copies differ");
    // Behind the first records of the second archive, and within its first chunk.
    for cut in [1024, 1536, 2100] {
        std::fs::write(&tar, [&both[0], &both[1][..cut]].concat()).expect("the file can be written");
        let cut = run(&["cp", &tar, &to]).exits(3);
        assert!(cut.err.contains("the archive is cut short"), "{cut:?}");
    }
    std::fs::write(&tar, b"\x1f\x8b\x08").expect("the file can be written");
    let compressed = run(&["cp", &tar, &to]).exits(3);
    assert!(compressed.err.contains("compressed by gzip"), "{compressed:?}");
}

#[test]
fn listings_and_copies_have_the_kind_of_key_that_the_user_names() {
    let ((a, from), (b, to), (dir, _)) = (filled(), store(), store());
    let archive = dir.path().join("all.tar");
    let archive = archive.to_str().expect("temporary paths are UTF-8");
    let count = |kind: &str| run(&["ls", &from, "--count", "--key-kind", kind]).exits(0).text().to_owned();
    assert_eq!((count("object").trim(), count("engine").trim()), ("1", "31"));
    assert!(run(&["du", &from, "--key-kind", "object"]).exits(0).text().contains("org/model"));
    run(&["cp", &from, archive]).exits(0);
    for source in [&from, archive] {
        run(&["cp", source, &to, "--key-kind", "object"]).exits(0);
        assert_eq!(entries(b.path()).len(), 1, "{source}");
        run(&["rm", &to, "--all", "--yes", "--key-kind", "engine"]).exits(0);
        assert_eq!(entries(b.path()).len(), 1, "{source}");
        run(&["rm", &to, "--all", "--yes", "--key-kind", "object"]).exits(0);
        assert_eq!(entries(b.path()).len(), 0, "{source}");
    }
    let shown = run(&["rm", &from, "--all", "--dry-run", "--key-kind", "object"]).exits(0);
    assert_eq!(shown.text().lines().count(), 1);
    assert!(run(&["rm", &from, "--all", "--yes", "--key-kind", "engine"]).exits(0).text().contains("31 chunks"));
    assert_eq!(entries(a.path()).len(), 1);
}

#[test]
fn a_copy_never_copies_its_own_copies() {
    let at = |place: &str| format!("s3://bucket{place}?endpoint=http://127.0.0.1:1&anonymous=true&retries=0");
    let redis = |options: &str| format!("redis://127.0.0.1:1{options}");
    for (source, target) in [
        (at(""), at("/team-a")),
        (at("/kv"), at("/kv/team-a/")),
        (redis(""), redis("?namespace=a")),
        (redis("/2"), redis("/2?namespace=a")),
    ] {
        run(&["cp", &source, &target]).refuses_with(&["would list the copies", "--prefix"]);
        let tried = run(&["cp", &source, &target, "--prefix", "m@"]);
        assert!(!tried.err.contains("would list the copies"), "{}", tried.err);
    }
    for (source, target) in [
        (at("/kv"), at("/kv2")),
        (at("/team-a"), at("")),
        (redis("?namespace=a"), redis("")),
        (redis("?namespace=a"), redis("?namespace=b")),
        (redis("/1"), redis("/2?namespace=a")),
    ] {
        let tried = run(&["cp", &source, &target]);
        assert!(!tried.err.contains("would list the copies"), "{source} {target}: {}", tried.err);
    }
}

#[test]
fn a_tiered_store_is_not_verified_from_its_front() {
    let ((_a, from), (_b, to)) = (filled(), store());
    let tiered = format!("tiered://?front=memory%3A%2F%2F&back={}", to.replace(':', "%3A").replace('/', "%2F"));
    run(&["cp", &from, &tiered, "--verify"]).refuses_with(&["--verify", "back"]);
    run(&["cp", &from, &tiered]).exits(0);
    run(&["cp", &from, &to, "--verify"]).exits(0);
}
