//! The names and values on the server, seen by another client.

use connectors::redis::layout;
use connectors::{ChunkLayout, Dtype, ErrorKind, Group, MemoryFormat, MemoryObj, Shape};
use kvconn_redis_server::RedisServer;

use super::{header, key, keys, kv, kv_bytes, metadata, names, object_key, open, raw, set};

#[tokio::test]
async fn a_chunk_is_two_keys_with_header_and_bytes() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    for key in [key(1), object_key(1), "m@1@0@ff@half@3".parse().unwrap()] {
        let chunk = kv(5, 1);
        store.put(&key, chunk.clone()).await.unwrap();
        assert_eq!(names(&server), [kv_bytes(&key), metadata(&key)]);
        assert_eq!((layout::kv_bytes_name(&key), layout::metadata_name(&key)), (kv_bytes(&key), metadata(&key)));
        assert_eq!(raw(&server, &metadata(&key)).unwrap(), header(&chunk));
        assert_eq!(raw(&server, &kv_bytes(&key)).unwrap(), &*chunk);
        assert!(store.remove(&key).await.unwrap());
        assert!(names(&server).is_empty());
    }
}

#[tokio::test]
async fn a_chunk_of_several_groups_comes_back_by_the_length_of_its_header() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    for groups in [2, 5, 64] {
        let group = |n| Group { shape: Shape::new(&[2, n]).unwrap(), dtype: Some(Dtype::Bfloat16) };
        let groups: Vec<_> = (1..=groups).map(group).collect();
        let layout = ChunkLayout::from_groups(MemoryFormat::Kv2ltd, &groups).unwrap();
        let chunk = MemoryObj::from_vec(vec![7; layout.len], layout).unwrap();
        store.put(&key(1), chunk.clone()).await.unwrap();
        assert_eq!(raw(&server, &metadata(&key(1))).unwrap().len(), 8 + 20 * groups.len());
        assert_eq!(store.get(&key(1)).await.unwrap(), Some(chunk));
    }
}

#[tokio::test]
async fn a_chunk_that_the_header_cannot_describe_is_refused_before_anything_is_written() {
    let server = RedisServer::start(&[]);
    let store = open(&format!("{}?max_value_bytes=1000", server.url("redis"))).await;
    let int8 = ChunkLayout::new(MemoryFormat::Kv2ltd, Shape::new(&[4]).unwrap(), Dtype::Int8).unwrap();
    let int8 = MemoryObj::from_vec(vec![0; 4], int8).unwrap();
    let too_long = MemoryObj::from(vec![0; 1001]);
    for (chunk, kind, why) in [
        (int8, ErrorKind::Unsupported, "no code for"),
        (too_long, ErrorKind::TooLarge, "1001 bytes is over the limit of 1000"),
    ] {
        let answers = store.batched_put(&[(key(1), kv(1, 1)), (key(2), chunk.clone())]).await;
        assert!(answers[0].is_ok() && answers[1].is_err(), "{answers:?}");
        let e = store.put(&key(2), chunk).await.unwrap_err();
        assert!(e.kind() == kind && e.to_string().contains(why), "{e}");
        assert_eq!(names(&server), [kv_bytes(&key(1)), metadata(&key(1))]);
    }
}

#[tokio::test]
async fn odd_keys_are_kept_apart_and_listed() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    let texts = [
        "a*b@1@0@1@half",
        "a[b]?@1@0@1@half",
        "a\\b@1@0@1@half",
        "axb@1@0@1@half",
        "m@1@0@1@half@t%kv_bytes",
        "m@1@0@1@half@t%metadata",
        "模型/x y@1@0@1@half",
    ];
    for (n, text) in texts.iter().enumerate() {
        store.put(&text.parse().unwrap(), kv(1 + n, n)).await.unwrap();
    }
    // Names of other programs, and one half.
    for name in ["notes", "kv_bytes", "metadata", "a*bkv_bytes", "h@1@0@1@halfkv_bytes"] {
        set(&server, name, b"x");
    }
    for (n, text) in texts.iter().enumerate() {
        assert_eq!(store.get(&text.parse().unwrap()).await.unwrap(), Some(kv(1 + n, n)), "{text}");
        assert_eq!(keys(&store, text).await, [*text]);
    }
    assert_eq!(keys(&store, "a*").await, ["a*b@1@0@1@half"]);
    assert_eq!(keys(&store, "").await, texts);
}

#[tokio::test]
async fn a_listing_of_many_keys_is_complete() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    let items: Vec<_> = (0..3000).map(|n| (key(n), MemoryObj::from(vec![1]))).collect();
    assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
    let mut expected: Vec<String> = items.iter().map(|(key, _)| key.to_string()).collect();
    expected.sort();
    assert_eq!(keys(&store, "facebook/").await, expected);
    assert!(keys(&store, "facebook/opt-125m@1@0@fffff").await.is_empty());
}
