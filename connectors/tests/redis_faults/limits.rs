//! Chunks over a limit of the server, which then closes the connection. Only such a chunk fails.

use connectors::{ErrorKind, MemoryObj, Result};
use kvconn_redis_server::RedisServer;

use crate::store::{Kind, Store, chunk, connections_are_at_most, key};

const MIB: usize = 1 << 20;

/// Puts chunks of these lengths in one batch. `large` is the length from which a chunk must fail.
async fn puts(url: &str, lengths: &[usize], large: usize, fails: impl Fn(&Result<()>) -> bool) {
    let store = Store::open(url).await;
    let items: Vec<_> = (0..).zip(lengths).map(|(n, &len)| (key(n), chunk(n, 1, len))).collect();
    let answers = store.connector.batched_put(&items).await;
    for ((n, &len), answer) in (0..).zip(lengths).zip(&answers) {
        if len >= large {
            assert!(fails(answer), "{n}: {answer:?}");
        } else {
            assert!(answer.is_ok(), "{n}: {answer:?}");
            assert_eq!(store.get(n).await.unwrap(), Some(1), "{n}");
        }
    }
    store.is_right().await;
}

fn is_too_large(answer: &Result<()>) -> bool {
    answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::TooLarge && !e.is_temporary())
}

pub(crate) async fn a_chunk_over_the_servers_largest_value_fails_alone(kind: Kind) {
    let server = RedisServer::start(&["--proto-max-bulk-len", "1mb"]);
    let (small, large) = (100_000, 3 * MIB);
    let options = ["connections=1", "connections=8", if kind.scheme == "redis" { "ttl_sec=100" } else { "protocol=2" }];
    for options in options {
        let url = format!("{}?{options}", server.url(kind.scheme));
        puts(&url, &[small, large, small, small, small], large, is_too_large).await;
        puts(&url, &[large], large, is_too_large).await;
        // Chunks that stay in the sockets' buffers.
        puts(&url, &[1000, MIB + 1, 1000, 1000, MIB + 1, 1000, 1000], MIB + 1, is_too_large).await;
        // More of them than connections that a batch may take.
        let mut many = vec![large; 40];
        many.extend([small; 8]);
        puts(&url, &many, large, is_too_large).await;
        let store = Store::open(&url).await;
        let e = store.put(1, 1, large).await.expect_err("the server refuses it");
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::TooLarge, false), "{e}");
        assert!(e.hint().is_some_and(|hint| hint.contains("proto-max-bulk-len")), "{e}");
        store.is_right().await;
    }
    connections_are_at_most(&server, 8).await;
}

pub(crate) async fn a_request_over_the_servers_buffer_fails_alone(kind: Kind) {
    let server = RedisServer::start(&["--client-query-buffer-limit", "1mb"]);
    let (small, large) = (50_000, 8 * MIB);
    let is_lost = |answer: &Result<()>| answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unavailable);
    for connections in [1, 4] {
        let url = format!("{}?connections={connections}", server.url(kind.scheme));
        puts(&url, &[small, small, large, small, small, small, large, small], large, is_lost).await;
    }
}

pub(crate) async fn an_answer_over_the_servers_buffer_fails_alone(kind: Kind) {
    let server = RedisServer::start(&["--client-output-buffer-limit", "normal 1mb 1mb 0"]);
    let store = Store::open(&format!("{}?connections=1", server.url(kind.scheme))).await;
    let numbers: Vec<u64> = (0..48).collect();
    for &n in &numbers {
        store.put(n, 1, if n == 20 { 32 * MIB } else { 900 * 60 }).await.unwrap();
    }
    let answers = store.batched_get(&numbers).await;
    for (n, answer) in answers.iter().enumerate() {
        match n {
            20 => assert!(answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unavailable), "{answer:?}"),
            _ => assert!(matches!(answer, Ok(Some(1))), "{n}: {answer:?}"),
        }
    }
    store.is_right().await;
    store.leaks_nothing().await;
}

pub(crate) async fn a_server_that_evicts_clients_costs_no_chunk_that_it_can_take(kind: Kind) {
    let server = RedisServer::start(&["--maxmemory-clients", "2mb"]);
    let (small, large) = (20_000, 24 * MIB);
    let fails = |answer: &Result<()>| answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unavailable);
    let url = format!("{}?connections=1", server.url(kind.scheme));
    puts(&url, &[small, small, small, large, small, small], large, fails).await;
    let store = Store::open(&url).await;
    store.connector.put(&key(1), MemoryObj::from(vec![1; small])).await.unwrap();
}
