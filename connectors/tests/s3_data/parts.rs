//! Large chunks: reads by ranges, and multipart uploads.

use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use connectors::{ErrorKind, MemoryObj, MemoryObjMut};
use kvconn_cloud_servers::{Fault, Operation};

use crate::{BUCKET, MIB, bytes, key, overwrite, raw, server, store, store_at, until};

/// Two full parts and a short one.
const LEN: usize = 12 * MIB + 5;
const IN_PARTS: &str = "&part_bytes=5242880&parallel_from_bytes=6000000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_chunk_is_written_and_read_in_parts() {
    let fake = server();
    let store = store(&fake, &format!("{IN_PARTS}&save_chunk_meta=true")).await;
    fake.forget_requests();
    store.put(&key(1), bytes(LEN, 1).into()).await.expect("a put");
    let counts = [Operation::Put, Operation::CreateUpload, Operation::UploadPart, Operation::CompleteUpload];
    assert_eq!(counts.map(|operation| fake.count(operation)), [0, 1, 3, 1]);
    assert!(*fake.object(BUCKET, key(1).as_str()).expect("an object").bytes == bytes(LEN, 1));

    let mut memory = MemoryObjMut::zeroed(LEN);
    assert_eq!(store.get_into(&key(1), &mut memory).await.expect("a get"), Some(LEN));
    assert!(*memory == *bytes(LEN, 1));
    let reads: Vec<_> = fake.requests().into_iter().filter(|r| r.operation == Operation::Get).collect();
    assert_eq!(reads.len(), 3);
    assert_eq!(reads.iter().filter(|read| read.header("if-match").is_some()).count(), 2);
    // The length of the last chunk is a guess for the next one.
    let chunk = store.get(&key(1)).await.expect("a get").expect("a chunk");
    assert!(*chunk == *bytes(LEN, 1));
    assert_eq!((fake.count(Operation::Get), fake.count(Operation::Head)), (6, 0));
}

/// A server whose object is replaced by another one of its length after each GET in `replaced`, counted from 1.
fn replacing(replaced: impl Fn(usize) -> bool + Send + Sync + 'static, knows_if_match: bool) -> String {
    let state = Mutex::new((0, 1_u8));
    raw::start(move |get| {
        let mut state = state.lock().expect("a lock");
        let version = state.1;
        state.0 += 1;
        if replaced(state.0) {
            state.1 += 1;
        }
        let etag = format!("\"{version}\"");
        if knows_if_match && get.if_match.is_some_and(|wanted| wanted != etag) {
            return (412, String::new(), Vec::new());
        }
        let range = get.range.map_or(0..LEN, |range| range.start..range.end.min(LEN));
        let headers = format!("ETag: {etag}\r\nContent-Range: bytes {}-{}/{LEN}\r\n", range.start, range.end - 1);
        (206, headers, vec![version; range.len()])
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_two_versions_never_mix() {
    for knows_if_match in [true, false] {
        for replaced_after in 1..=3 {
            let endpoint = replacing(move |get| get == replaced_after, knows_if_match);
            let store = store_at(&endpoint, &format!("{IN_PARTS}&retries=0")).await;
            let mut memory = MemoryObjMut::zeroed(LEN);
            assert_eq!(store.get_into(&key(1), &mut memory).await.expect("a get"), Some(LEN));
            assert!(memory.iter().all(|byte| *byte == memory[0]), "two versions are mixed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_changes_constantly_is_a_temporary_error() {
    let store = store_at(&replacing(|_| true, true), &format!("{IN_PARTS}&retries=0")).await;
    let mut memory = MemoryObjMut::zeroed(LEN);
    let e = store.get_into(&key(1), &mut memory).await.expect_err("no two parts are of one version");
    assert_eq!((e.kind(), e.is_temporary(), memory.is_taken()), (ErrorKind::Conflict, true, false), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_fails_is_aborted() {
    let fake = server();
    let store = store(&fake, &format!("{IN_PARTS}&retries=0")).await;
    for operation in [Operation::UploadPart, Operation::CompleteUpload] {
        fake.always(Fault::refuse(403, "AccessDenied", "no").on([operation]));
        store.put(&key(1), bytes(LEN, 1).into()).await.expect_err("the server refuses");
        fake.clear_faults();
        until("the upload is aborted", || fake.unfinished_uploads(BUCKET).is_empty()).await;
    }
    assert_eq!(fake.object(BUCKET, key(1).as_str()).map(|_| ()), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_is_dropped_is_aborted() {
    let fake = server();
    let store = store(&fake, IN_PARTS).await;
    fake.always(Fault::stall().on([Operation::UploadPart]));
    let chunk = MemoryObj::from(bytes(LEN, 1));
    let put = tokio::spawn({
        let chunk = chunk.clone();
        async move { store.put(&key(1), chunk).await }
    });
    until("the parts are under way", || fake.count(Operation::UploadPart) > 0).await;
    put.abort();
    assert!(put.await.expect_err("the put").is_cancelled());
    until("the upload is aborted", || fake.unfinished_uploads(BUCKET).is_empty()).await;
    // The abort may still hold the memory, but reads nothing of it.
    let mut held = Some(chunk);
    for _ in 0..500 {
        if held.is_none() {
            break;
        }
        held = held.and_then(|chunk| chunk.try_into_mut().err());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(held.is_none(), "the memory comes back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_chunk_is_a_chunk() {
    let fake = server();
    let store = store(&fake, IN_PARTS).await;
    let chunk = MemoryObj::from(Vec::new());
    store.put(&key(1), chunk.clone()).await.expect("a put");
    overwrite(chunk);
    assert_eq!(store.get(&key(1)).await.expect("a get").expect("a chunk").len(), 0);
    // A read by ranges: the server has no range of nothing.
    let mut memory = MemoryObjMut::zeroed(LEN);
    assert_eq!(store.get_into(&key(1), &mut memory).await.expect("a get"), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_object_in_place_of_a_range_is_an_error() {
    let endpoint = raw::start(|_| (200, "ETag: \"1\"\r\n".to_owned(), vec![1; LEN]));
    let store = store_at(&endpoint, &format!("{IN_PARTS}&retries=0")).await;
    let mut memory = MemoryObjMut::zeroed(LEN);
    let e = store.get_into(&key(1), &mut memory).await.expect_err("the server ignores the range");
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
}

/// A server whose object has this ETag, and that gives these bytes for a range.
fn ranged(etag: &'static str, gives: impl Fn(Range<usize>) -> Range<usize> + Send + Sync + 'static) -> String {
    raw::start(move |get| match (get.range, get.if_match) {
        (_, Some(_)) if etag.starts_with("W/") => (412, String::new(), Vec::new()),
        (None, _) => (200, format!("ETag: {etag}\r\n"), bytes(LEN, 1)),
        (Some(range), _) => {
            let range = gives(range.start..range.end.min(LEN));
            let headers = format!("ETag: {etag}\r\nContent-Range: bytes {}-{}/{LEN}\r\n", range.start, range.end - 1);
            (206, headers, bytes(LEN, 1)[range].to_vec())
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weak_etag_names_no_version() {
    let store = store_at(&ranged("W/\"1\"", |range| range), &format!("{IN_PARTS}&retries=0")).await;
    let mut memory = MemoryObjMut::zeroed(LEN);
    assert_eq!(store.get_into(&key(1), &mut memory).await.expect("a get"), Some(LEN));
    assert!(*memory == *bytes(LEN, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_range_of_the_same_length_is_an_error() {
    for moved in [0, 1, 5] {
        let gives = move |range: Range<usize>| match range.start {
            0 => range,
            _ => moved..moved + range.len(),
        };
        let store = store_at(&ranged("\"1\"", gives), &format!("{IN_PARTS}&retries=0")).await;
        let mut memory = MemoryObjMut::zeroed(LEN);
        let e = store.get_into(&key(1), &mut memory).await.expect_err("the server ignores the range");
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    }
}
