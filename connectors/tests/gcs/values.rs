//! The names of objects, keys that share one, and reads by ranges.

use super::{Bucket, chunk, key, keys, open, small};

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
    let (mine, other) = (key("org/my_model@1@0@1f@half"), key("org_my/model@1@0@1f@half"));
    store.put(&mine, small(1)).await.expect("a put");
    assert!(store.exists(&mine).await.expect("an answer"));
    assert!(!store.exists(&other).await.expect("an answer"));
    assert!(store.get(&other).await.expect("an answer").is_none());
    assert!(!store.remove(&other).await.expect("an answer"));
    assert_eq!(keys(&store).await, [mine.as_str()]);
    // An object of another program records no key, and belongs to both.
    bucket.write("org_my_model@1@0@1f@half", "a chunk of LMCache");
    for key in [&mine, &other] {
        assert_eq!(store.get(key).await.expect("a get").expect("a hit").to_vec(), b"a chunk of LMCache");
    }
    assert_eq!(keys(&store).await, ["org_my_model@1@0@1f@half"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_by_ranges_gives_one_version() {
    const LEN: usize = 12 << 20;
    let bucket = Bucket::new();
    // The server has no multipart uploads, so another store writes.
    let store = open(&bucket.url("", "&parallel_from_bytes=6291456&part_bytes=5242880")).await;
    let writer = open(&bucket.url("", "")).await;
    let key = key("m@1@0@1f@half");
    writer.put(&key, chunk(LEN, 0)).await.expect("a put");
    let written = key.clone();
    let writes = tokio::spawn(async move {
        for version in 1..6 {
            writer.put(&written, chunk(LEN, version)).await.expect("a put");
        }
    });
    let mut reads = 0;
    while !writes.is_finished() || reads == 0 {
        // A version that is replaced during the read is an error or a new try, and never a mixture.
        if let Ok(found) = store.get(&key).await {
            let found = found.expect("a hit").to_vec();
            assert!(found == chunk(LEN, found[0]).to_vec(), "two versions are mixed");
            reads += 1;
        }
    }
    writes.await.expect("the writes end");
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
