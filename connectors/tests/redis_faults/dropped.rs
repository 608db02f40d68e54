//! Futures that a caller drops in the middle of a transfer.

use std::future::Future;
use std::time::Duration;

use connectors::MemoryObjMut;
use futures::stream::{self, StreamExt};
use kvconn_redis_server::RedisServer;
use tokio::time::timeout;

use crate::store::{Kind, Store, chunk, connections_are_at_most, key};

const MIB: usize = 1 << 20;
const ROUNDS: u64 = 150;

/// Polls `work` for a time that grows with each round.
async fn for_a_while<T>(round: u64, work: impl Future<Output = T>) -> Option<T> {
    timeout(Duration::from_micros(round * 40), work).await.ok()
}

pub(crate) async fn a_get_that_is_dropped_anywhere_leaves_the_next_call_right(kind: Kind) {
    let server = RedisServer::start(&[]);
    let store = Store::open(&format!("{}?connections=2", server.url(kind.scheme))).await;
    for n in 0..4 {
        store.put(n, n, 4 * MIB + n as usize).await.unwrap();
    }
    let mut dropped = 0;
    for round in 0..ROUNDS {
        let mut dst = MemoryObjMut::zeroed(5 * MIB);
        let ended = match round % 2 {
            0 => for_a_while(round, store.get(round % 4)).await.is_some(),
            _ => for_a_while(round, store.connector.get_into(&key(round % 4), &mut dst)).await.is_some(),
        };
        dropped += u64::from(!ended);
        // Another key, to see whether the rest of the old answer is taken for its value.
        let next = (round + 1) % 4;
        assert_eq!(store.get(next).await.unwrap(), Some(next), "round {round}");
        assert_eq!(store.get(77).await.unwrap(), None, "round {round}");
        assert!(store.connector.exists(&key(next)).await.unwrap(), "round {round}");
    }
    assert!(dropped > 0, "no get took long enough to be dropped");
    store.is_right().await;
    store.leaks_nothing().await;
    connections_are_at_most(&server, 2).await;
}

pub(crate) async fn a_put_that_is_dropped_anywhere_leaves_a_whole_value(kind: Kind) {
    let server = RedisServer::start(&[]);
    let store = Store::open(&format!("{}?connections=2", server.url(kind.scheme))).await;
    store.put(1, 0, 4 * MIB).await.unwrap();
    let (mut dropped, mut last) = (0, 0);
    for round in 1..ROUNDS {
        let ended = for_a_while(round, store.put(1, round, 4 * MIB + round as usize)).await;
        dropped += u64::from(ended.is_none());
        // The old or the new chunk is whole, or the store has removed the old one. The server may read a request of
        // an earlier round only now.
        let found = store.get(1).await.unwrap();
        assert!(found.is_none_or(|v| (last..=round).contains(&v)), "round {round}: {found:?}, before {last}");
        if ended.is_some() {
            assert_eq!(found, Some(round));
        }
        last = found.unwrap_or(last);
    }
    assert!(dropped > 0, "no put took long enough to be dropped");
    store.is_right().await;
    store.leaks_nothing().await;
    connections_are_at_most(&server, 2).await;
}

pub(crate) async fn a_batch_that_is_dropped_anywhere_leaves_the_next_call_right(kind: Kind) {
    let server = RedisServer::start(&[]);
    let store = Store::open(&format!("{}?connections=3", server.url(kind.scheme))).await;
    let numbers: Vec<u64> = (0..24).collect();
    let items: Vec<_> = numbers.iter().map(|&n| (key(n), chunk(n, n, 256 << 10))).collect();
    for answer in store.connector.batched_put(&items).await {
        answer.unwrap();
    }
    let mut dropped = 0;
    for round in 0..ROUNDS {
        let ended = match round % 3 {
            0 => for_a_while(round, store.batched_get(&numbers)).await.is_some(),
            1 => for_a_while(round, store.connector.batched_put(&items)).await.is_some(),
            _ => {
                let keys: Vec<_> = numbers.iter().map(|&n| key(n)).collect();
                for_a_while(round, store.connector.batched_exists(&keys)).await.is_some()
            }
        };
        dropped += u64::from(!ended);
        let some = [round % 24, 99, (round + 7) % 24];
        let found: Vec<_> = store.batched_get(&some).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(found, [Some(some[0]), None, Some(some[2])], "round {round}");
    }
    assert!(dropped > 0, "no batch took long enough to be dropped");
    drop(items);
    store.is_right().await;
    store.leaks_nothing().await;
    connections_are_at_most(&server, 3).await;
}

/// Gets in a stream, which are not polled while the consumer awaits another call on the same store.
pub(crate) async fn calls_that_are_not_polled_do_not_stop_others(kind: Kind) {
    const LEN: usize = 8 << 20;
    let server = RedisServer::start(&[]);
    let store = Store::open(&server.url(kind.scheme)).await;
    for n in 0..6 {
        store.put(n, n, LEN).await.unwrap();
    }
    let mut gets = stream::iter(0..6).map(|n| store.get(n)).buffered(4);
    let mut n = 0;
    while let Some(got) = gets.next().await {
        assert_eq!(got.unwrap(), Some(n));
        store.put(100 + n, n, LEN).await.unwrap();
        assert_eq!(store.get(7).await.unwrap(), None);
        n += 1;
    }
    assert_eq!(n, 6);
    drop(gets);
    store.leaks_nothing().await;
}
