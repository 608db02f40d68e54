//! The time to live of chunks.

use connectors::ErrorKind;
use kvconn_redis_server::RedisServer;

use super::{header, key, kv, kv_bytes, metadata, names, open, set};

/// The remaining seconds of both halves; -1 without a limit.
fn left(server: &RedisServer) -> [i64; 2] {
    [metadata(&key(1)), kv_bytes(&key(1))].map(|name| server.cli(&["TTL", &name]).integer().expect("a number"))
}

#[tokio::test]
async fn without_a_time_to_live_chunks_stay() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    store.put(&key(1), kv(5, 1)).await.unwrap();
    store.get(&key(1)).await.unwrap();
    assert_eq!(left(&server), [-1, -1]);
}

#[tokio::test]
async fn a_put_gives_both_halves_the_same_time_and_a_read_leaves_it() {
    let server = RedisServer::start(&[]);
    let store = open(&format!("{}?ttl_sec=5000", server.url("redis"))).await;
    for (puts, chunk) in [(1, kv(5, 1)), (2, kv(5000, 2))] {
        match puts {
            1 => store.put(&key(1), chunk.clone()).await.unwrap(),
            _ => store.batched_put(&[(key(1), chunk.clone())]).await.remove(0).unwrap(),
        }
        assert!(left(&server).iter().all(|left| (4000..=5000).contains(left)), "{:?}", left(&server));
        for name in names(&server) {
            server.cli(&["EXPIRE", &name, "1000"]);
        }
        assert_eq!(store.get(&key(1)).await.unwrap(), Some(chunk));
        assert!(left(&server).iter().all(|left| (900..=1000).contains(left)), "{:?}", left(&server));
    }
}

#[tokio::test]
async fn a_read_renews_the_time_of_both_halves_if_asked() {
    let server = RedisServer::start(&[]);
    let store = open(&format!("{}?ttl_sec=5000&refresh_ttl=true", server.url("redis"))).await;
    // LMCache's chunks have no time to live.
    set(&server, &kv_bytes(&key(1)), &kv(5, 1));
    set(&server, &metadata(&key(1)), &header(&kv(5, 1)));
    for batched in [false, true] {
        match batched {
            false => assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(5, 1))),
            true => assert_eq!(store.batched_get(&[key(2), key(1)]).await.remove(1).unwrap(), Some(kv(5, 1))),
        }
        assert!(left(&server).iter().all(|left| (4000..=5000).contains(left)), "{:?}", left(&server));
        for name in names(&server) {
            server.cli(&["EXPIRE", &name, "1000"]);
        }
        assert!(store.exists(&key(1)).await.unwrap());
        assert!(left(&server).iter().all(|left| (900..=1000).contains(left)), "`exists` is not a read");
    }
    assert_eq!(names(&server).len(), 2, "a miss writes nothing");
}

#[tokio::test]
async fn a_user_without_the_right_to_renew_can_read() {
    let server = RedisServer::start(&["--user", "reader", "on", ">few", "~*", "+mget", "+multi", "+exec"]);
    set(&server, &kv_bytes(&key(1)), &kv(5, 1));
    set(&server, &metadata(&key(1)), &header(&kv(5, 1)));
    let store = open(&format!("redis://reader:few@{}?ttl_sec=5000&refresh_ttl=true", server.address())).await;
    for _ in 0..3 {
        assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(5, 1)));
    }
    assert_eq!(left(&server), [-1, -1]);
}

#[tokio::test]
async fn a_refused_put_with_a_time_to_live_leaves_the_old_chunk() {
    let server = RedisServer::start(&["--maxmemory-policy", "noeviction"]);
    let store = open(&format!("{}?ttl_sec=5000", server.url("redis"))).await;
    store.put(&key(1), kv(5, 1)).await.unwrap();
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let e = store.put(&key(1), kv(6, 2)).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::StoreFull, "{e}");
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(5, 1)));
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    store.put(&key(1), kv(6, 2)).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(6, 2)));
}

#[tokio::test]
async fn a_user_without_transactions_cannot_have_a_time_to_live() {
    let server = RedisServer::start(&["--user", "writer", "on", ">few", "~*", "+set", "+mset", "+mget"]);
    let url = format!("redis://writer:few@{}", server.address());
    let e = connectors::open(&format!("{url}?ttl_sec=10")).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Denied && e.to_string().contains("`ttl_sec` needs transactions"), "{e}");
    open(&url).await.put(&key(1), kv(5, 1)).await.unwrap();
}
