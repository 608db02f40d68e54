//! The names of objects, keys that share one, and reads by ranges.

use super::Bucket;
use super::emulated::{key, keys, keys_that_share_a_name_differ, open, reads_give_one_version, small};

#[tokio::test]
async fn objects_have_the_names_of_s3() {
    let bucket = Bucket::new();
    let store = open(&bucket.url("/kv", "")).await;
    for (text, name) in [
        ("facebook/opt-125m@1@0@1f@half", "kv/facebook_opt-125m@1@0@1f@half"),
        ("org/my_model@01000100@0@1f", "kv/org/my_model@01000100@0@1f"),
    ] {
        store.put(&key(text), small(1)).await.expect("a put");
        assert!(bucket.has(name, 1), "{text} has the name {name}");
    }
    assert_eq!(keys(&store).await, ["facebook/opt-125m@1@0@1f@half", "org/my_model@01000100@0@1f"]);
}

#[tokio::test]
async fn an_object_of_another_key_with_the_same_name_is_a_miss() {
    let bucket = Bucket::new();
    let store = open(&bucket.url("", "")).await;
    keys_that_share_a_name_differ(&store).await;
    // An object of another program records no key, and belongs to both.
    bucket.write("org_my_model@1@0@1f@half", "a chunk of LMCache");
    for text in ["org/my_model@1@0@1f@half", "org_my/model@1@0@1f@half"] {
        assert_eq!(store.get(&key(text)).await.expect("a get").expect("a hit").to_vec(), b"a chunk of LMCache");
    }
    assert_eq!(keys(&store).await, ["org_my_model@1@0@1f@half"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_by_ranges_gives_one_version() {
    let bucket = Bucket::new();
    // The server has no multipart uploads, so another store writes.
    let store = open(&bucket.url("", "&parallel_from_bytes=6291456&part_bytes=5242880")).await;
    reads_give_one_version(&store, open(&bucket.url("", "")).await, 12 << 20).await;
}

#[tokio::test]
async fn a_batch_removes_what_it_finds() {
    let bucket = Bucket::new();
    let store = open(&bucket.url("", "")).await;
    let all: Vec<_> = (0..150).map(|n| key(&format!("m@1@0@{n:x}@half"))).collect();
    for key in &all[1..] {
        store.put(key, small(1)).await.expect("a put");
    }
    let removed = store.batched_remove(&all).await;
    assert!(matches!(removed[0], Ok(false)), "{:?}", removed[0]);
    assert!(removed[1..].iter().all(|answer| matches!(answer, Ok(true))), "{removed:?}");
    assert_eq!(keys(&store).await, [""; 0]);
}
