//! cp: verified, resumed, and what fails.

use std::process::Stdio;

use super::{Answer, KEY, OTHER, entries, file, fill, kvconn, put, run, signal, store, wait_until};

#[test]
fn everything_is_copied_with_its_layout() {
    let ((_a, from), (_b, to)) = (store(), store());
    put(&from, KEY, b"plain");
    let (_file, path) = file(&[1; 48]);
    run(&["put", &from, OTHER, &path, "--shape", "2,2,3,2", "--dtype", "half", "--format", "KV_2LTD"]).exits(0);
    let said = run(&["cp", &from, &to]).exits(0);
    assert!(said.text().contains("copied 2 chunks") && said.text().contains("all verified"), "{}", said.text());
    assert_eq!(run(&["get", &to, KEY]).exits(0).out, b"plain");
    assert!(run(&["get", &to, OTHER]).exits(0).err.contains("KV_2LTD float16 [2, 2, 3, 2]"));
}

#[test]
fn equal_chunks_are_skipped_and_different_ones_are_copied() {
    let ((_a, from), (_b, to)) = (store(), store());
    put(&from, KEY, b"same");
    put(&from, OTHER, b"new");
    put(&to, KEY, b"same");
    put(&to, OTHER, b"old");
    let said = run(&["cp", &from, &to]).exits(0);
    assert!(said.text().contains("copied 1 chunk ") && said.text().contains("skipped 1"), "{}", said.text());
    assert_eq!(run(&["get", &to, OTHER]).exits(0).out, b"new");
    assert!(run(&["cp", &from, &to]).exits(0).text().contains("copied 0 chunks; skipped 2"));
    assert!(run(&["cp", &from, &to, "--overwrite"]).exits(0).text().contains("copied 2 chunks"));
}

#[test]
fn a_chunk_of_equal_bytes_and_another_layout_is_different() {
    let ((_a, from), (_b, to)) = (store(), store());
    let (_file, path) = file(&[1; 48]);
    run(&["put", &from, KEY, &path, "--shape", "2,2,3,2", "--dtype", "half", "--format", "KV_2LTD"]).exits(0);
    put(&to, KEY, &[1; 48]);
    assert!(run(&["cp", &from, &to]).exits(0).text().contains("copied 1 chunk "));
    assert!(run(&["get", &to, KEY]).exits(0).err.contains("KV_2LTD"));
}

#[test]
fn a_torn_chunk_at_the_destination_is_replaced() {
    let ((_a, from), (b, to)) = (store(), store());
    put(&from, KEY, b"whole");
    std::fs::write(b.path().join(format!("{KEY}.data")), b"torn").expect("the file can be written");
    run(&["cp", &from, &to]).exits(0);
    assert_eq!(run(&["get", &to, KEY]).exits(0).out, b"whole");
}

#[test]
fn copies_from_a_store_without_layouts_are_said_to_be_plain() {
    let ((_a, from), (_b, to)) = (store(), store());
    let raw = format!("{from}?save_chunk_meta=false");
    put(&raw, KEY, b"bare bytes");
    let said = run(&["cp", &raw, &to]).exits(0);
    assert!(said.err.contains("the copies are plain bytes"), "{}", said.err);
    assert!(run(&["cp", &raw, &to]).exits(0).text().contains("skipped 1"));
    // The other way a chunk loses its layout, which is no difference to a store that keeps none.
    assert!(run(&["cp", &to, &raw]).exits(0).text().contains("skipped 1"));
}

#[test]
fn a_key_of_multiprocess_mode_is_copied_into_a_store_that_keeps_its_bytes_alone() {
    let ((_a, from), (_b, to)) = (store(), store());
    put(&from, "m@00000000@1@ff", b"x");
    assert!(run(&["cp", &from, &to]).exits(0).text().contains("copied 1 chunk "));
    assert!(run(&["cp", &from, &to]).exits(0).text().contains("skipped 1"));
}

#[test]
fn only_keys_with_the_prefix_are_copied() {
    let ((_a, from), (_b, to)) = (store(), store());
    put(&from, KEY, b"x");
    put(&from, "other@1@0@1@half", b"y");
    run(&["cp", &from, &to, "--prefix", "other@"]).exits(0);
    assert_eq!(run(&["ls", &to]).exits(0).text(), "other@1@0@1@half\n");
}

#[test]
fn a_failed_key_is_named_and_the_others_are_copied() {
    let ((_a, from), (b, to)) = (store(), store());
    put(&from, KEY, b"x");
    put(&from, OTHER, b"y");
    std::fs::create_dir(b.path().join(format!("{KEY}.data"))).expect("the directory can be made");
    let said = run(&["cp", &from, &to]).exits(1);
    assert!(said.err.contains(KEY) && !said.err.contains(OTHER), "{}", said.err);
    assert!(said.text().contains("copied 1 chunk ") && said.text().contains("failed 1"), "{}", said.text());
    assert_eq!(run(&["get", &to, OTHER]).exits(0).out, b"y");
}

#[test]
fn one_store_is_not_copied_into_itself() {
    run(&["cp", "memory://x", "memory://x"]).fails_saying(&["one store"]);
}

#[test]
fn an_interrupted_copy_goes_on_where_it_stopped() {
    let ((a, from), (b, to)) = (store(), store());
    const KEYS: usize = 3000;
    fill(a.path(), KEYS);
    let child = kvconn(&["cp", &from, &to, "--concurrency", "1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the command starts");
    wait_until(&mut child, || entries(b.path()).len() >= 10);
    signal(&child, "INT");
    let said = Answer::from(child.wait_with_output().expect("the command ends")).exits(130);
    assert!(said.err.contains("the same command again goes on"), "{}", said.err);
    let copied = entries(b.path());
    assert!((10..KEYS).contains(&copied.len()) && copied.iter().all(|name| name.ends_with(".data")), "{copied:?}");

    let said = run(&["cp", &from, &to]).exits(0);
    assert!(said.text().contains(&format!("skipped {} ", copied.len())), "{}", said.text());
    assert_eq!(entries(b.path()).len(), KEYS);
}
