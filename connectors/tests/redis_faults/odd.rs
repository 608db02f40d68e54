//! Servers whose answers are valid but unusual, or hostile.

use connectors::{ChunkHeader, ChunkLayout, ErrorKind};
use kvconn_redis_server::fake;

use crate::store::{Kind, Store, key};

/// A server that gives these answers to `MGET` of two names, and to `GET`.
fn server(mget: Vec<u8>, get: Vec<u8>) -> u16 {
    fake::answering(move |words| {
        Some(match (words[0].as_str(), words.len()) {
            ("HELLO", _) => b"%1\r\n+proto\r\n:3\r\n".to_vec(),
            ("PING", _) => b"+PONG\r\n".to_vec(),
            ("MGET", 3) => mget.clone(),
            ("GET", _) => get.clone(),
            _ => b"$-1\r\n".to_vec(),
        })
    })
}

fn header(len: usize) -> Vec<u8> {
    let header = ChunkHeader::new(&ChunkLayout::binary(len)).expect("a header");
    [b"$28\r\n", header.as_bytes(), b"\r\n"].concat()
}

async fn open(kind: Kind, port: u16) -> Store {
    Store::open(&format!("{}://127.0.0.1:{port}?io_timeout_ms=2000", kind.scheme)).await
}

pub(crate) async fn messages_and_attributes_inside_an_answer_are_dropped(kind: Kind) {
    let between = &b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n|1\r\n+ttl\r\n:9\r\n"[..];
    let value = &b"$5\r\nchunk\r\n"[..];
    let mget = [between, b"*2\r\n", between, &header(5), between, value, b">1\r\n+late\r\n"].concat();
    let get = [between, value, b">1\r\n+late\r\n"].concat();
    let store = open(kind, server(mget, get)).await;
    for _ in 0..2 {
        assert_eq!(store.connector.get(&key(1)).await.unwrap().as_deref(), Some(&b"chunk"[..]));
        for chunk in store.connector.batched_get(&[key(1), key(2), key(3)]).await {
            assert_eq!(chunk.unwrap().as_deref(), Some(&b"chunk"[..]));
        }
    }
    store.leaks_nothing().await;
}

pub(crate) async fn a_hostile_answer_is_corrupt_at_once(kind: Kind) {
    let deep = b"*1\r\n".repeat(1000);
    let endless = b"*9223372036854775807\r\n".to_vec();
    let over = b"$536870913\r\n".to_vec();
    for answer in [
        deep,
        endless,
        over,
        b"$-2\r\n".to_vec(),
        b"*-2\r\n".to_vec(),
        b"$18446744073709551615\r\n".to_vec(),
        b"$99999999999999999999\r\n".to_vec(),
        b"$5\r\nchunkXX".to_vec(),
        b"$4\nchun\n".to_vec(),
        b"%1\r\n+a\r\n+b\r\n".to_vec(),
        b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
        vec![0; 100],
    ] {
        let mget = match answer.starts_with(b"$") {
            true => [b"*2\r\n", &header(5)[..], &answer].concat(),
            false => answer.clone(),
        };
        let shown = answer[..answer.len().min(40)].escape_ascii().to_string();
        let store = open(kind, server(mget, answer)).await;
        let e = store.connector.get(&key(1)).await.expect_err("not a chunk");
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{shown}: {e}");
        for answer in store.connector.batched_get(&[key(1), key(2)]).await {
            assert_eq!(answer.expect_err("not a chunk").kind(), ErrorKind::Corrupt, "{shown}");
        }
        store.leaks_nothing().await;
    }
}

pub(crate) async fn exists_does_not_take_an_odd_answer_for_a_miss(kind: Kind) {
    for answer in ["*1\r\n:1\r\n", "$1\r\n1\r\n", "+OK\r\n"] {
        let port = fake::answering(move |words| {
            Some(match words[0].as_str() {
                "HELLO" => b"%1\r\n+proto\r\n:3\r\n".to_vec(),
                "PING" => b"+PONG\r\n".to_vec(),
                _ => answer.into(),
            })
        });
        let store = open(kind, port).await;
        let e = store.connector.exists(&key(1)).await.expect_err(answer);
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{answer}: {e}");
        store.leaks_nothing().await;
    }
}
