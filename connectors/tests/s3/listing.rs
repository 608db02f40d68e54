//! Listings, and what they cost.

use connectors::{CacheKey, Connector, ErrorKind};
use futures::TryStreamExt;
use kvconn_cloud_servers::{Fault, Operation};

use crate::{BUCKET, chunk, fake, key, open};

pub(crate) async fn list(store: &Connector, prefix: &str) -> Vec<CacheKey> {
    let mut keys: Vec<CacheKey> = store.list(prefix).try_collect().await.expect("a listing");
    keys.sort();
    keys
}

fn keys(texts: &[&str]) -> Vec<CacheKey> {
    texts.iter().map(|text| key(text)).collect()
}

#[tokio::test]
async fn a_model_with_both_signs_is_listed_read_and_copied() {
    let fake = fake();
    let store = open(&fake, "/kv").await;
    let own = keys(&["org/my_model@01050805@0@aa", "org/my_model@1@0@aa@half", "org_my_model@1@0@bb@half"]);
    for key in &own {
        store.put(key, chunk(key.as_str())).await.unwrap();
    }
    // By LMCache.
    fake.put_object(BUCKET, "kv/org/my_model@01050805@0@cc", b"by its server".to_vec(), &[]);
    fake.put_object(BUCKET, "kv/org_my_model@1@0@cc@half", b"by its connector".to_vec(), &[]);
    let all = keys(&[
        "org/my_model@01050805@0@aa",
        "org/my_model@01050805@0@cc",
        "org/my_model@1@0@aa@half",
        "org_my_model@1@0@bb@half",
        "org_my_model@1@0@cc@half",
    ]);
    assert_eq!(list(&store, "").await, all);
    assert_eq!(list(&store, "org/my").await, all[..3]);
    assert_eq!(list(&store, "org_my_model@1").await, all[3..]);
    assert_eq!(list(&store, "org").await, all);
    assert_eq!(list(&store, "other").await, []);

    let copy = open(&fake, "/copy").await;
    for key in &all {
        let chunk = store.get(key).await.unwrap().expect("a listed chunk");
        copy.put(key, chunk).await.unwrap();
    }
    assert_eq!(list(&copy, "").await, all);
    for key in &all {
        let (one, other) = (store.get(key).await.unwrap(), copy.get(key).await.unwrap());
        assert_eq!(one.as_deref(), other.as_deref(), "{key}");
    }
}

#[tokio::test]
async fn objects_that_are_not_chunks_are_left_out() {
    let fake = fake();
    for name in ["readme.md", "dir/", "org/m@1@0@ff@half", "m@1@0@FF@half", "other/m@1@0@ff@half"] {
        fake.put_object(BUCKET, name, b"x".to_vec(), &[]);
    }
    let store = open(&fake, "").await;
    store.put(&key("m@1@0@ff@half"), chunk("12345")).await.unwrap();
    let entries: Vec<_> = store.list_entries("").try_collect().await.unwrap();
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!((entries[0].key.as_str(), entries[0].size), ("m@1@0@ff@half", Some(5)));
    assert!(entries[0].modified.is_some());
}

#[tokio::test]
async fn a_listing_filters_on_the_server_and_asks_for_heads_only_where_names_are_shared() {
    let fake = fake();
    let store = open(&fake, "").await;
    for n in 0..50 {
        for model in ["m", "a_b", "org/x"] {
            store.put(&key(&format!("{model}@1@0@{n:x}@half")), chunk("x")).await.unwrap();
            store.put(&key(&format!("{model}@01050805@0@{n:02x}")), chunk("x")).await.unwrap();
        }
    }
    fake.set_page(30);
    let asked = async |prefix: &str| {
        fake.forget_requests();
        let found = list(&store, prefix).await.len();
        let requests = fake.requests();
        let of = |operation: Operation| requests.iter().filter(|request| request.operation == operation).count();
        (found, of(Operation::List), of(Operation::Head))
    };
    assert_eq!(asked("").await, (300, 10, 100));
    assert_eq!(asked("m@").await, (100, 4, 0));
    // Object keys, in-process keys, and percent-encoded names.
    assert_eq!(asked("org/x").await, (100, 5, 50));
}

#[tokio::test]
async fn a_page_that_fails_is_an_error_and_the_end() {
    let fake = fake();
    let store = open(&fake, "?retries=0").await;
    for n in 0..50 {
        store.put(&key(&format!("m@1@0@{n:x}@half")), chunk("x")).await.unwrap();
    }
    fake.set_page(20);
    fake.always(Fault::refuse(403, "AccessDenied", "no").on([Operation::List]));
    let listed: Result<Vec<CacheKey>, _> = store.list("").try_collect().await;
    assert!(listed.is_err());
    fake.clear_faults();
    assert_eq!(list(&store, "").await.len(), 50);
}

#[tokio::test]
async fn a_page_that_comes_again_is_an_error() {
    let object =
        "<Contents><Key>m@1@0@ff@half</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>";
    for end in ["<IsTruncated>true</IsTruncated><NextContinuationToken>a</NextContinuationToken>", ""] {
        let fake = fake();
        let store = open(&fake, "?retries=0").await;
        let page = format!("<ListBucketResult>{object}{end}</ListBucketResult>");
        fake.always(Fault::answer(200, "application/xml", &page).on([Operation::List]));
        let listed: Result<Vec<CacheKey>, _> = store.list("").try_collect().await;
        let e = listed.expect_err("the listing has no end");
        assert!(e.to_string().contains("again"), "{e}");
    }
}

#[tokio::test]
async fn an_endless_page_is_an_error() {
    let fake = fake();
    let store = open(&fake, "?retries=0").await;
    let page = format!("<ListBucketResult>{}</ListBucketResult>", " ".repeat(65 << 20));
    fake.always(Fault::answer(200, "application/xml", &page).on([Operation::List]));
    let listed: Result<Vec<CacheKey>, _> = store.list("").try_collect().await;
    let e = listed.expect_err("the page is too long");
    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
}

#[tokio::test]
async fn a_prefix_with_a_space_at_its_end_finds_each_key_once() {
    let fake = fake();
    let store = open(&fake, "/p").await;
    let own = keys(&["a //b@01050805@0@ff", "a b@01050805@0@ff", "a b@01050805@0@ff@salt ", "ab@01050805@0@ff"]);
    for key in &own {
        store.put(key, chunk("x")).await.unwrap();
    }
    assert_eq!(list(&store, "a ").await, own[..3]);
    assert_eq!(list(&store, "a b@01050805@0@ff@salt ").await, own[2..3]);
}

#[tokio::test]
async fn a_web_page_is_an_error() {
    let fake = fake();
    let store = open(&fake, "?retries=0").await;
    fake.always(Fault::answer(200, "text/html; charset=utf-8", "<html><body>A console</body></html>"));
    let key = key("m@1@0@ff@half");
    let listed: Result<Vec<CacheKey>, _> = store.list("").try_collect().await;
    for e in [
        store.ping().await.expect_err("ping"),
        store.exists(&key).await.expect_err("exists"),
        store.get(&key).await.expect_err("get"),
        store.put(&key, chunk("x")).await.expect_err("put"),
        listed.expect_err("list"),
    ] {
        assert!(e.kind() == ErrorKind::Unavailable && e.to_string().contains("web page"), "{e}");
    }
}
