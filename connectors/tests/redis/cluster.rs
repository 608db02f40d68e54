//! A cluster of one node. It refuses a command with the names of both values, which belong to different slots.

use std::time::{Duration, Instant};

use connector_core::conformance::Kit;
use connectors::{ErrorKind, LocalCpuBackend, MemoryObjMut};
use kvconn_redis_server::RedisServer;

use super::{header, key, keys, kv, kv_bytes, metadata, names, open, raw, set};

/// A node that has all slots.
fn cluster(args: &[&str]) -> RedisServer {
    let server = RedisServer::start(&[&["--cluster-enabled", "yes"], args].concat());
    server.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let deadline = Instant::now() + Duration::from_secs(60);
    let is_ready = |info: &[u8]| String::from_utf8_lossy(info).contains("cluster_state:ok");
    while !server.cli(&["CLUSTER", "INFO"]).bytes().is_some_and(is_ready) {
        assert!(Instant::now() < deadline, "the cluster is not ready");
        std::thread::sleep(Duration::from_millis(5));
    }
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_for_one_writer_of_a_key() {
    let server = cluster(&[]);
    let url = server.url("redis");
    let open = move |backend: LocalCpuBackend| connectors::builder(&url).local_cpu_backend(backend).open();
    let report = Kit::new(open).run().await;
    let failures: Vec<_> = report.failures().collect();
    assert!(report.passed() && failures.is_empty(), "{failures:?}");
}

#[tokio::test]
async fn each_first_call_works_and_the_names_stay_lmcaches() {
    let server = cluster(&[]);
    let all: Vec<_> = (0..20).map(key).collect();
    for options in ["", "?ttl_sec=1000&refresh_ttl=true", "?namespace=a"] {
        server.cli(&["FLUSHALL"]);
        let url = format!("{}{options}", server.url("redis"));
        // A new handle for each call: none has learned from another.
        open(&url).await.put(&key(1), kv(3, 1)).await.unwrap();
        if options.is_empty() {
            assert_eq!(names(&server), [kv_bytes(&key(1)), metadata(&key(1))]);
            assert_eq!(raw(&server, &metadata(&key(1))), Some(header(&kv(3, 1))));
        }
        assert_eq!(open(&url).await.get(&key(1)).await.unwrap(), Some(kv(3, 1)));
        let mut into = MemoryObjMut::zeroed(kv(3, 1).len());
        assert_eq!(open(&url).await.get_into(&key(1), &mut into).await.unwrap(), Some(kv(3, 1).len()));
        assert_eq!(into.layout(), kv(3, 1).layout());
        assert!(open(&url).await.exists(&key(1)).await.unwrap());
        assert!(open(&url).await.remove(&key(1)).await.unwrap());
        assert_eq!(names(&server), [""; 0]);

        let items: Vec<_> = all.iter().zip(0..).map(|(key, n)| (key.clone(), kv(5, n))).collect();
        assert!(open(&url).await.batched_put(&items).await.iter().all(Result::is_ok));
        let chunks = open(&url).await.batched_get(&all).await;
        assert!(chunks.into_iter().zip(&items).all(|(got, (_, put))| got.unwrap().as_ref() == Some(put)));
        let mut into: Vec<_> = all.iter().map(|key| (key.clone(), MemoryObjMut::zeroed(kv(5, 0).len()))).collect();
        assert!(open(&url).await.batched_get_into(&mut into).await.iter().all(|got| matches!(got, Ok(Some(_)))));
        assert_eq!(keys(&open(&url).await, "").await.len(), 20);
        assert!(open(&url).await.batched_remove(&all).await.iter().all(|gone| matches!(gone, Ok(true))));
        assert_eq!(names(&server), [""; 0]);
    }
}

#[tokio::test]
async fn a_chunk_of_the_wrong_type_or_with_one_half_is_never_given() {
    let server = cluster(&[]);
    let store = open(&server.url("redis")).await;
    store.put(&key(1), kv(3, 1)).await.unwrap();
    server.cli(&["DEL", &kv_bytes(&key(1))]);
    assert!(store.get(&key(1)).await.unwrap().is_none());
    store.put(&key(1), kv(3, 1)).await.unwrap();
    set(&server, &kv_bytes(&key(1)), b"short");
    assert_eq!(store.get(&key(1)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    server.cli(&["DEL", &metadata(&key(1))]);
    server.cli(&["RPUSH", &metadata(&key(1)), "x"]);
    assert_eq!(store.get(&key(1)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    store.put(&key(1), kv(3, 2)).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(3, 2)));
}

#[tokio::test]
async fn a_put_that_the_full_server_refuses_in_part_leaves_nothing() {
    let server = cluster(&["--maxmemory-policy", "noeviction"]);
    let store = open(&server.url("redis")).await;
    store.put(&key(1), kv(3, 1)).await.unwrap();
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let e = store.put(&key(1), kv(3, 2)).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::StoreFull, "{e}");
    assert_eq!(names(&server), [""; 0]);
}
