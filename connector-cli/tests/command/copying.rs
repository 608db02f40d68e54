//! `kvconn cp` between two stores: compares, verifies, resumes and reports failures.

use std::process::Stdio;

use rustix::process::Signal;

use super::{Finished, KEY, OTHER, entries, file, fill, fs_url, kvconn, put, run, signal, slow, store, wait_until};

#[test]
fn cp_copies_every_chunk_with_its_layout() {
    let ((_a, from), (_b, to)) = (store(), store());
    put(&from, KEY, b"plain");
    let (_file, path) = file(&[1; 48]);
    run(&["put", &from, OTHER, &path, "--shape", "2,2,3,2", "--dtype", "half", "--format", "KV_2LTD"]).exits(0);
    let result = run(&["cp", &from, &to]).exits(0);
    assert!(result.text().contains("copied 2 chunks") && !result.text().contains("verified"), "{}", result.text());
    assert_eq!(run(&["get", &to, KEY]).exits(0).out, b"plain");
    assert!(run(&["get", &to, OTHER]).exits(0).err.contains("KV_2LTD float16 [2, 2, 3, 2]"));
}

#[test]
fn a_dry_run_counts_and_changes_nothing() {
    let ((a, from), (b, to)) = (store(), store());
    fill(a.path(), 9);
    put(&to, "many@1@0@3@half", b"theirs");
    let result = run(&["cp", &from, &to, "--dry-run"]).exits(0);
    assert_eq!(result.text(), "would copy 8 chunks; skipped 1 present; failed 0\n");
    assert_eq!(entries(b.path()).len(), 1);
    let json = run(&["cp", &from, &to, "-n", "--json", "--prefix", "many@1@0@1"]).exits(0).json();
    assert_eq!(
        (&json["dry_run"], &json["would_copy"], &json["copied"]),
        (&true.into(), &1.into(), &0.into()),
        "{json}"
    );
    let json = run(&["cp", &from, &to, "--json", "--overwrite"]).exits(0).json();
    assert_eq!((&json["copied"], &json["skipped"], &json["failed"]), (&9.into(), &0.into(), &0.into()), "{json}");
    assert!(json["bytes"] == 9 * 4096 && json["seconds"].is_number(), "{json}");
    let archive = b.path().join("all.tar");
    run(&["cp", &from, archive.to_str().unwrap(), "--dry-run"]).exits(0);
    assert!(!archive.exists());
}

#[test]
fn cp_prints_the_first_errors_and_stops_after_the_most() {
    let ((a, from), (b, _)) = (store(), store());
    fill(a.path(), 60);
    // Object keys only: every put fails.
    let to = format!("{}?layout=sglang", fs_url(b.path()));
    let result = run(&["cp", &from, &to]).exits(1);
    assert!(result.text().contains("copied 0 chunks") && result.text().contains("failed 60"), "{result:?}");
    let lines = |err: &str| err.lines().filter(|line| line.contains("only object keys")).count();
    assert_eq!(lines(&result.err), 10, "{}", result.err);
    assert!(result.err.contains("50 more errors, 60 in all"), "{}", result.err);
    let args = ["cp", &from, &to, "--max-errors", "7", "--batch", "4", "--concurrency", "1"];
    let result = run(&args).exits(1);
    assert!(result.text().contains("failed 8") && lines(&result.err) == 8, "{result:?}");
    assert!(result.err.contains("stopped after 8 errors"), "{}", result.err);
    run(&["cp", &from, &to, "--max-errors", "0"]).exits(2);
}

#[test]
fn cp_skips_equal_chunks_and_copies_different_ones() {
    let ((_a, from), (_b, to)) = (store(), store());
    put(&from, KEY, b"same");
    put(&from, OTHER, b"new");
    put(&to, KEY, b"same");
    put(&to, OTHER, b"old");
    let result = run(&["cp", &from, &to]).exits(0);
    assert!(result.text().contains("copied 1 chunk ") && result.text().contains("skipped 1"), "{}", result.text());
    assert_eq!(run(&["get", &to, OTHER]).exits(0).out, b"new");
    assert!(run(&["cp", &from, &to]).exits(0).text().contains("copied 0 chunks; skipped 2"));
    assert!(run(&["cp", &from, &to, "--overwrite"]).exits(0).text().contains("copied 2 chunks"));
}

#[test]
fn cp_with_skip_existing_reads_and_replaces_no_chunk_that_the_destination_has() {
    let ((a, from), (b, to)) = (store(), store());
    put(&from, OTHER, b"new");
    put(&to, KEY, b"theirs");
    // Nothing can read it, so a read would be an error.
    std::fs::write(a.path().join(format!("{KEY}.data")), b"torn").expect("the file can be written");
    let result = run(&["cp", &from, &to, "--skip-existing"]).exits(0);
    assert!(result.text().contains("copied 1 chunk ") && result.text().contains("skipped 1 present"), "{result:?}");
    assert_eq!(run(&["get", &to, KEY]).exits(0).out, b"theirs");
    assert_eq!(run(&["get", &to, OTHER]).exits(0).out, b"new");

    std::fs::write(b.path().join(format!("{OTHER}.data")), b"torn").expect("the file can be written");
    let result = run(&["cp", &from, &to, "--skip-existing"]).exits(0);
    assert!(
        result.text().contains("copied 1 chunk "),
        "a torn chunk is not a chunk that the destination has: {result:?}"
    );
    let result = run(&["cp", &from, &to, "--skip-existing", "--overwrite"]);
    assert!(result.exits(2).err.contains("--overwrite"));
}

#[test]
fn a_chunk_with_equal_bytes_and_another_layout_is_different() {
    let ((_a, from), (_b, to)) = (store(), store());
    let (_file, path) = file(&[1; 48]);
    run(&["put", &from, KEY, &path, "--shape", "2,2,3,2", "--dtype", "half", "--format", "KV_2LTD"]).exits(0);
    put(&to, KEY, &[1; 48]);
    assert!(run(&["cp", &from, &to]).exits(0).text().contains("copied 1 chunk "));
    assert!(run(&["get", &to, KEY]).exits(0).err.contains("KV_2LTD"));
}

#[test]
fn cp_replaces_a_torn_chunk_at_the_destination() {
    let ((_a, from), (b, to)) = (store(), store());
    put(&from, KEY, b"whole");
    std::fs::write(b.path().join(format!("{KEY}.data")), b"torn").expect("the file can be written");
    run(&["cp", &from, &to]).exits(0);
    assert_eq!(run(&["get", &to, KEY]).exits(0).out, b"whole");
}

#[test]
fn cp_warns_that_copies_from_a_store_without_layouts_are_plain_bytes() {
    let ((_a, from), (_b, to)) = (store(), store());
    let raw = format!("{from}?save_chunk_meta=false");
    put(&raw, KEY, b"bare bytes");
    let result = run(&["cp", &raw, &to]).exits(0);
    assert!(result.err.contains("the copies are plain bytes"), "{}", result.err);
    assert!(run(&["cp", &raw, &to]).exits(0).text().contains("skipped 1"));
    // In the other direction the layouts differ, but the destination keeps none, so the chunks count as equal.
    assert!(run(&["cp", &to, &raw]).exits(0).text().contains("skipped 1"));
}

#[test]
fn cp_copies_a_key_of_multiprocess_mode() {
    let ((_a, from), (_b, to)) = (store(), store());
    put(&from, "m@00000000@1@ff", b"x");
    assert!(run(&["cp", &from, &to]).exits(0).text().contains("copied 1 chunk "));
    assert!(run(&["cp", &from, &to]).exits(0).text().contains("skipped 1"));
}

#[test]
fn cp_copies_only_keys_with_the_prefix() {
    let ((_a, from), (_b, to)) = (store(), store());
    put(&from, KEY, b"x");
    put(&from, "other@1@0@1@half", b"y");
    run(&["cp", &from, &to, "--prefix", "other@"]).exits(0);
    assert_eq!(run(&["ls", &to]).exits(0).text(), "other@1@0@1@half\n");
    let none = run(&["cp", &from, &to, "--prefix", "othre@"]).exits(0);
    assert!(none.err.contains("no key starts with `othre@`"), "{none:?}");
}

#[test]
fn cp_names_a_failed_key_and_copies_the_others() {
    let ((_a, from), (b, to)) = (store(), store());
    put(&from, KEY, b"x");
    put(&from, OTHER, b"y");
    std::fs::create_dir(b.path().join(format!("{KEY}.data"))).expect("the directory can be made");
    let result = run(&["cp", &from, &to]).exits(1);
    assert!(result.err.contains(KEY) && !result.err.contains(OTHER), "{}", result.err);
    assert!(result.text().contains("copied 1 chunk ") && result.text().contains("failed 1"), "{}", result.text());
    assert_eq!(run(&["get", &to, OTHER]).exits(0).out, b"y");
}

#[test]
fn cp_refuses_to_copy_a_store_into_itself() {
    run(&["cp", "memory://x", "memory://x"]).refuses_with(&["the same store"]);
}

#[test]
fn an_interrupted_cp_can_be_resumed() {
    let ((a, from), (b, to)) = (store(), store());
    const KEYS: usize = 3000;
    fill(a.path(), KEYS);
    let mut command = kvconn(&["cp", &slow(&from, 100), &to, "--concurrency", "1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    wait_until(&mut child, || entries(b.path()).len() >= 10);
    signal(&child, Signal::INT);
    let result = Finished::from(child.wait_with_output().expect("the command ends")).exits(130);
    assert!(result.err.contains("run the same command again to continue"), "{}", result.err);
    let copied = entries(b.path());
    assert!((10..KEYS).contains(&copied.len()) && copied.iter().all(|name| name.ends_with(".data")), "{copied:?}");

    let result = run(&["cp", &from, &to]).exits(0);
    assert!(result.text().contains(&format!("skipped {} ", copied.len())), "{}", result.text());
    assert_eq!(entries(b.path()).len(), KEYS);
}

#[test]
fn an_interrupted_cp_to_a_write_back_store_loses_nothing_that_it_copied() {
    let ((a, from), (b, to)) = (store(), store());
    fill(a.path(), 3000);
    let behind = to.replace("://", "%3A%2F%2F").replace('/', "%2F");
    let tiered = format!("tiered://?front=memory%3A%2F%2F&back={behind}&mode=write_back");
    let mut command = kvconn(&["cp", &slow(&from, 100), &tiered]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
    wait_until(&mut child, || entries(b.path()).len() >= 10);
    signal(&child, Signal::INT);
    let result = Finished::from(child.wait_with_output().expect("the command ends")).exits(130);
    let copied = result.text().strip_prefix("copied ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    assert_eq!(copied, Some(entries(b.path()).len()), "{result:?}");
}

#[test]
fn files_of_vllm_and_sglang_are_listed_copied_removed_and_scrubbed() {
    for (layout, path, key) in [
        ("vllm", "org_m_0123456789ab_r1/1f2/e3_g0/1f2e3d.bin", "org_m_0123456789ab@00000001@0@1f2e3d"),
        ("sglang", "1f2e3d.mamba_org-m_0_1.bin", "org-m_0_1@00000000@0@1f2e3d@mamba"),
    ] {
        let ((from_dir, from), (_between, between), (to_dir, to)) = (store(), store(), store());
        let (from, to) = (format!("{from}?layout={layout}"), format!("{to}?layout={layout}"));
        let file = from_dir.path().join(path);
        std::fs::create_dir_all(file.parent().expect("it is below the store")).expect("the directory can be made");
        std::fs::write(&file, b"a row").expect("the file can be written");
        assert_eq!(run(&["ls", &from]).exits(0).text().trim(), key);
        run(&["cp", &from, &between]).exits(0);
        // An engine key has no name there.
        put(&between, KEY, b"of LMCache");
        let result = run(&["cp", &between, &to]).exits(1);
        assert!(result.text().contains("copied 1 chunk ") && result.err.contains("only object keys"), "{}", result.err);
        assert_eq!(std::fs::read(to_dir.path().join(path)).expect("the file is there"), b"a row");
        assert!(run(&["scrub", &to]).exits(0).text().contains("1 chunk"));
        run(&["rm", &from, key]).exits(0);
        assert!(!file.exists());
    }
}
