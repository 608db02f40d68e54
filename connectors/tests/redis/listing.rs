//! Listings with sizes, and lookups of a leading run.

use connectors::ListEntry;
use futures::TryStreamExt;
use kvconn_redis_server::RedisServer;

use super::servers::{commands, reads};
use super::{header, key, kv, kv_bytes, metadata, object_key, open, set};

#[tokio::test]
async fn a_size_is_that_of_the_header_and_the_bytes() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    let chunks = [(key(1), kv(1, 1)), (key(2), kv(7, 2)), (object_key(3), kv(256, 3))];
    for (key, chunk) in &chunks {
        store.put(key, chunk.clone()).await.unwrap();
    }
    // Halves, a torn chunk and other names are not chunks.
    set(&server, &kv_bytes(&key(4)), &kv(1, 1));
    set(&server, &metadata(&key(5)), &header(&kv(1, 1)));
    set(&server, &metadata(&key(6)), &header(&kv(1, 1)));
    set(&server, &kv_bytes(&key(6)), &kv(2, 1));
    server.cli(&["SET", "another", "x"]);
    let mut entries: Vec<ListEntry> = store.list_entries("").try_collect().await.unwrap();
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    let mut expected: Vec<_> = chunks
        .iter()
        .map(|(key, chunk)| ListEntry::new(key.clone()).with_size((header(chunk).len() + chunk.len()) as u64))
        .collect();
    expected.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(entries, expected, "redis does not know when a value was put");
    let page = store.list_page("facebook", Some(expected[0].key.as_str()), 1).await.unwrap();
    assert_eq!((page.entries, page.next.as_deref()), (vec![expected[1].clone()], Some(expected[1].key.as_str())));
}

#[tokio::test]
async fn a_listing_asks_for_the_sizes_of_a_page_in_one_write() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    let items: Vec<_> = (0..60).map(|n| (key(n), kv(1, 1))).collect();
    assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
    let mut client = server.client();
    client.command(&["CONFIG", "RESETSTAT"]).unwrap();
    let before = reads(&mut client);
    let entries: Vec<ListEntry> = store.list_entries("").try_collect().await.unwrap();
    assert_eq!(entries.len(), 60);
    assert_eq!(reads(&mut client) - before, 1 + 2, "`SCAN`, and a pipeline of sizes");
    let ran = commands(&server);
    assert!(ran.contains(&("mget".into(), 60)) && ran.contains(&("strlen".into(), 60)), "{ran:?}");
}

#[tokio::test]
async fn a_lookup_of_64_keys_is_one_round_trip_whether_they_are_there_or_not() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    let stored: Vec<_> = (0..64).map(key).collect();
    let items: Vec<_> = stored.iter().map(|key| (key.clone(), kv(1, 1))).collect();
    assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
    let mut client = server.client();
    for (keys, found) in [(stored, 64), ((1000..1064).map(key).collect(), 0)] {
        let before = reads(&mut client);
        assert_eq!(store.batched_contains(&keys).await.unwrap(), found);
        assert_eq!(reads(&mut client) - before, 1 + 1);
    }
}

#[tokio::test]
async fn a_long_lookup_stops_soon_after_its_first_miss() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    let keys: Vec<_> = (0..10_000).map(key).collect();
    for key in &keys[..5] {
        store.put(key, kv(1, 1)).await.unwrap();
    }
    server.cli(&["CONFIG", "RESETSTAT"]);
    assert_eq!(store.batched_contains(&keys).await.unwrap(), 5);
    assert_eq!(commands(&server), [("mget".into(), 256), ("strlen".into(), 256)].into());
    server.cli(&["CONFIG", "RESETSTAT"]);
    let chunks = store.get_prefix(&keys).await.unwrap();
    assert_eq!(chunks, vec![kv(1, 1); 5]);
    assert_eq!(commands(&server), [("mget".into(), 261), ("strlen".into(), 256)].into(), "only the run is read");
}

#[tokio::test]
async fn a_prefix_ends_before_a_torn_chunk() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    let keys: Vec<_> = (0..4).map(key).collect();
    for key in &keys {
        store.put(key, kv(2, 1)).await.unwrap();
    }
    set(&server, &kv_bytes(&keys[2]), b"short");
    assert_eq!(store.get_prefix(&keys).await.unwrap(), vec![kv(2, 1); 2]);
}
