//! Servers that restart, and the commands that they count.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use connectors::{Connector, ErrorKind, MemoryObjMut};
use kvconn_redis_server::{Client, RedisServer};

use super::{key, kv, open};

#[tokio::test]
async fn over_a_unix_socket_a_server_that_was_killed_is_an_error_until_it_is_back() {
    let mut server = RedisServer::start(&[]);
    let store = open(&format!("unix://{}", server.socket_path().display())).await;
    store.put(&key(1), kv(5, 1)).await.unwrap();
    server.kill9();
    for _ in 0..2 {
        let e = store.get(&key(1)).await.unwrap_err();
        assert!(e.kind() == ErrorKind::Unavailable && e.is_temporary(), "{e:?}");
        let e = store.exists(&key(1)).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    }
    server.restart();
    // kvconn tries to connect a few times a second.
    let deadline = Instant::now() + Duration::from_secs(30);
    while store.ping().await.is_err() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.get(&key(1)).await.unwrap(), None);
    store.put(&key(1), kv(5, 1)).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(5, 1)));
}

#[tokio::test]
async fn capabilities_are_those_of_the_store() {
    let server = RedisServer::start(&[]);
    let can = open(&server.url("redis")).await.capabilities();
    assert!(can.remove && can.list && can.ping && can.keeps_layout && !can.raw_object_keys);
    assert_eq!((can.max_chunk_bytes, can.dtypes.map(<[_]>::len)), (Some(512 << 20), Some(7)));
}

/// How often the server ran each command since the last `CONFIG RESETSTAT`.
pub(super) fn commands(server: &RedisServer) -> BTreeSet<(String, u64)> {
    let info = server.cli(&["INFO", "commandstats"]);
    let info = String::from_utf8_lossy(info.bytes().expect("INFO is text")).into_owned();
    let counts = info.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    });
    // Without the commands of the test itself and of new connections.
    counts.filter(|(name, _)| !matches!(name.as_str(), "config|resetstat" | "info" | "hello" | "ping")).collect()
}

/// How often the server read from its clients, with the question of this call.
pub(super) fn reads(client: &mut Client) -> u64 {
    let info = client.command(&["INFO", "stats"]).expect("the server answers");
    let info = String::from_utf8_lossy(info.bytes().expect("INFO is text")).into_owned();
    let line = info.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
    line.and_then(|n| n.trim().parse().ok()).expect("INFO counts the reads")
}

#[tokio::test]
async fn every_call_is_one_command_a_chunk_or_two() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    let keys: Vec<_> = (0..100).map(key).collect();
    let items: Vec<_> = keys.iter().map(|key| (key.clone(), kv(1, 1))).collect();
    let asked = async |what: &str, expected: &[(&str, u64)]| {
        let expected = expected.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        assert_eq!(commands(&server), expected, "{what}");
        server.cli(&["CONFIG", "RESETSTAT"]);
    };
    server.cli(&["CONFIG", "RESETSTAT"]);
    store.put(&keys[0], kv(1, 1)).await.unwrap();
    asked("put", &[("mset", 1)]).await;
    assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
    asked("batched_put", &[("mset", 100)]).await;
    assert!(store.get(&keys[0]).await.unwrap().is_some());
    assert!(store.get_into(&keys[0], &mut MemoryObjMut::zeroed(96)).await.unwrap().is_some());
    asked("get", &[("mget", 2)]).await;
    assert!(store.batched_get(&keys).await.iter().all(|got| matches!(got, Ok(Some(_)))));
    asked("batched_get", &[("mget", 100)]).await;
    assert!(store.exists(&keys[0]).await.unwrap());
    asked("exists", &[("mget", 1), ("strlen", 1)]).await;
    assert_eq!(store.batched_contains(&keys).await.unwrap(), 100);
    asked("batched_contains", &[("mget", 100), ("strlen", 100)]).await;
    assert!(store.remove(&keys[0]).await.unwrap());
    asked("remove", &[("unlink", 1)]).await;
    assert!(store.get(&keys[0]).await.unwrap().is_none());
    asked("a miss", &[("mget", 1), ("strlen", 2)]).await;
}

#[tokio::test]
async fn a_server_that_refuses_unlink_removes_by_del() {
    let rights = ["--user", "u", "on", ">pw", "~*", "+@all", "-unlink"];
    for (args, user) in [(&["--rename-command", "UNLINK", ""][..], ""), (&rights, "u:pw@")] {
        let server = RedisServer::start(args);
        let store = open(&format!("redis://{user}{}", server.address())).await;
        removes_by_del(&server, &store).await;
    }
}

async fn removes_by_del(server: &RedisServer, store: &Connector) {
    let all: Vec<_> = (1..4).map(key).collect();
    for key in &all[..2] {
        store.put(key, kv(1, 1)).await.unwrap();
    }
    let gone: Vec<_> = store.batched_remove(&all).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(gone, [true, true, false]);
    // A half that is left goes by the same command.
    store.put(&all[0], kv(1, 1)).await.unwrap();
    server.cli(&["DEL", &super::kv_bytes(&all[0])]);
    assert!(store.get(&all[0]).await.unwrap().is_none());
    assert_eq!(super::names(server), [""; 0]);
    for _ in 0..2 {
        store.put(&key(1), kv(1, 1)).await.unwrap();
        assert!(store.remove(&key(1)).await.unwrap());
        assert!(!store.remove(&key(1)).await.unwrap());
    }
}
