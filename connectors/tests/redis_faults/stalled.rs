//! The network stalls one connection, and the server answers on the others.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use connectors::{Error, ErrorKind, MemoryObjMut};
use futures::FutureExt;
use futures::future::{Either, join, join_all, select};
use kvconn_redis_server::{Fault, Proxy, RedisServer};

use crate::checked::version;
use crate::store::{Kind, Store, chunk, key, until};

const CONNECTIONS: usize = 4;
const LEN: usize = 50_000;
const NUMBERS: std::ops::Range<u64> = 0..24;
/// The most chunks that one connection of a batch has in flight: all connections start with equal shares.
const SHARE: usize = (NUMBERS.end as usize).div_ceil(CONNECTIONS);

async fn behind_proxy(kind: Kind) -> (RedisServer, Proxy, Store) {
    let server = RedisServer::start(&[]);
    let proxy = Proxy::start(server.address()).await;
    let url = format!("{}?io_timeout_ms=600&connections={CONNECTIONS}", proxy.url(kind.scheme));
    let store = Store::open(&url).await;
    for n in NUMBERS {
        store.put(n, 1, LEN).await.unwrap();
    }
    heal(&proxy, &store).await;
    (server, proxy, store)
}

/// Opens all connections again. The next fault is for one of them.
async fn heal(proxy: &Proxy, store: &Store) {
    proxy.heal();
    until("calls at the same time take all connections, and open none", async || {
        let (accepted, before) = (proxy.accepted(), proxy.round_trips());
        let got = join_all((0..CONNECTIONS as u64).map(|n| store.get(n))).await;
        assert!(got.iter().all(Result::is_ok));
        let asked = proxy.round_trips().into_iter().zip(before).filter(|(now, before)| now > before);
        proxy.accepted() == accepted && asked.count() == CONNECTIONS
    })
    .await;
}

#[track_caller]
fn is_timeout(e: &Error) {
    assert!(e.kind() == ErrorKind::Timeout && e.is_temporary(), "{e:?}");
}

/// Only the chunks in flight on the connection fail.
#[track_caller]
fn only_a_share_is_late<T>(answers: Vec<connectors::Result<T>>) -> Vec<(u64, T)> {
    let (late, rest): (Vec<_>, Vec<_>) = NUMBERS.zip(answers).partition(|(_, answer)| answer.is_err());
    late.iter().filter_map(|(_, answer)| answer.as_ref().err()).for_each(is_timeout);
    assert!((1..=SHARE).contains(&late.len()), "{} of {} chunks are late", late.len(), NUMBERS.end);
    rest.into_iter().filter_map(|(n, answer)| Some((n, answer.ok()?))).collect()
}

pub(crate) async fn a_stalled_connection_delays_only_its_own_chunks_of_a_batch(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind).await;
    let numbers: Vec<u64> = NUMBERS.collect();
    proxy.replies(Fault::StallNext);
    for (n, got) in only_a_share_is_late(store.batched_get(&numbers).await) {
        assert_eq!(got, Some(1), "{n}");
    }
    heal(&proxy, &store).await;
    let mut requests: Vec<_> = NUMBERS.map(|n| (key(n), MemoryObjMut::zeroed(LEN))).collect();
    proxy.replies(Fault::StallNext);
    let read = only_a_share_is_late(store.connector.batched_get_into(&mut requests).await);
    for (n, len) in read {
        assert_eq!(len, Some(LEN), "{n}");
        assert_eq!(version(n, &requests[n as usize].1), 1);
    }
    let items: Vec<_> = NUMBERS.map(|n| (key(n), chunk(n, 2, LEN))).collect();
    heal(&proxy, &store).await;
    proxy.requests(Fault::StallNext);
    let put = only_a_share_is_late(store.connector.batched_put(&items).await);
    proxy.heal();
    for (n, ()) in put {
        assert_eq!(store.get(n).await.unwrap(), Some(2), "{n}");
    }
    store.is_right().await;
    store.leaks_nothing().await;
}

/// More calls than connections run all the time, so some wait for a connection when the stalled one times out.
pub(crate) async fn a_stalled_connection_fails_only_its_own_call(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind).await;
    let before = proxy.struck();
    proxy.replies(Fault::StallNext);
    let failed = AtomicUsize::new(0);
    let is_over = || failed.load(Ordering::SeqCst) > 0;
    let calls = (0..2 * CONNECTIONS as u64).map(async |n| {
        let mut errors = Vec::new();
        // Goes on for a while after the failure.
        let mut left = 20;
        while left > 0 {
            left -= usize::from(is_over());
            match store.get(n).await {
                Ok(got) => assert_eq!(got, Some(1)),
                Err(e) => {
                    failed.fetch_add(1, Ordering::SeqCst);
                    errors.push(e);
                }
            }
        }
        errors
    });
    let errors: Vec<Error> = join_all(calls).await.into_iter().flatten().collect();
    assert!(errors.len() == 1 && proxy.struck() == before + 1, "{errors:?}");
    errors.iter().for_each(is_timeout);
    proxy.heal();
    store.is_right().await;
    store.leaks_nothing().await;
}

/// Another store on the same server, whose connections have no time limit while they open.
async fn fresh(kind: Kind, proxy: &Proxy) -> Store {
    let url = format!("{}?connect_timeout_ms=100000&connections={CONNECTIONS}", proxy.url(kind.scheme));
    Store::open(&url).await
}

/// Far below the time limits of the connections.
async fn soon<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), call).await.expect("the call ends")
}

fn all_numbers() -> Vec<u64> {
    NUMBERS.collect()
}

/// One of the connections that a batch opens never gets its greeting. The next batches do without it, and open no more than
/// one in its place.
pub(crate) async fn a_batch_does_not_wait_for_a_connection_that_it_does_not_need(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind).await;
    let mut opened = Vec::new();
    // On a busy machine, a batch that waits for over 100 ms opens one more.
    while !opened.last().is_some_and(|n| (CONNECTIONS..=CONNECTIONS + 1).contains(n)) {
        assert!(opened.len() < 5, "{opened:?} connections");
        let other = fresh(kind, &proxy).await;
        let (struck, accepted) = (proxy.struck(), proxy.accepted());
        proxy.replies(Fault::StallNext);
        for _ in 0..10 {
            for got in soon(other.batched_get(&all_numbers())).await {
                assert_eq!(got.unwrap(), Some(1));
            }
        }
        assert_eq!(proxy.struck(), struck + 1);
        opened.push(proxy.accepted() - accepted);
        proxy.heal();
        // The connection that stalled takes part now.
        for _ in 0..10 {
            soon(other.batched_get(&all_numbers())).await;
        }
        assert_eq!(Some(proxy.accepted() - accepted), opened.last().copied());
        other.leaks_nothing().await;
    }
    store.is_right().await;
}

pub(crate) async fn a_call_whose_greeting_stalls_takes_a_connection_that_comes_back(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind).await;
    let other = fresh(kind, &proxy).await;
    assert_eq!(other.get(1).await.unwrap(), Some(1));
    // Holds the only connection, until it is polled again. On a busy machine the answer may come within one poll.
    let mut first = Box::pin(other.get(1));
    while first.as_mut().now_or_never().is_some() {
        first = Box::pin(other.get(1));
    }
    // The answer passes the proxy.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let struck = proxy.struck();
    proxy.replies(Fault::StallNext);
    let mut second = pin!(other.get(2));
    let stalls = pin!(soon(proxy.strikes(struck)));
    assert!(matches!(select(second.as_mut(), stalls).await, Either::Right(_)), "the second call connects");
    let (first, second) = soon(join(first, second)).await;
    assert_eq!((first.unwrap(), second.unwrap()), (Some(1), Some(1)));
    store.is_right().await;
}

/// The first batches end before all connections are open. These come to the next batches.
pub(crate) async fn batches_of_a_fresh_store_open_each_connection_once(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind).await;
    let mut opened = Vec::new();
    for _ in 0..5 {
        let other = fresh(kind, &proxy).await;
        let accepted = proxy.accepted();
        for _ in 0..20 {
            assert!(other.batched_get(&all_numbers()).await.into_iter().all(|got| got.unwrap() == Some(1)));
        }
        opened.push(proxy.accepted() - accepted);
    }
    // On a busy machine, a batch that waits for over 100 ms opens one more.
    assert!(opened.iter().any(|opened| *opened <= CONNECTIONS), "{opened:?} connections");
    store.leaks_nothing().await;
}

pub(crate) async fn a_dropped_call_leaves_its_connection_to_the_next(kind: Kind) {
    let (_server, proxy, _store) = behind_proxy(kind).await;
    let other = fresh(kind, &proxy).await;
    let accepted = proxy.accepted();
    proxy.replies(Fault::Stall);
    for n in 0..4 {
        let mut call = pin!(other.get(n));
        assert!(call.as_mut().now_or_never().is_none());
        until("it connects", async || proxy.accepted() > accepted).await;
    }
    proxy.heal();
    assert_eq!(soon(other.get(1)).await.unwrap(), Some(1));
    let opened = proxy.accepted() - accepted;
    // The last call opens its own if the machine takes too long for the first one.
    assert!(opened <= 2, "{opened} connections");
}

pub(crate) async fn close_ends_a_connection_that_is_being_opened(kind: Kind) {
    let (server, proxy, store) = behind_proxy(kind).await;
    let other = fresh(kind, &proxy).await;
    let accepted = proxy.accepted();
    proxy.replies(Fault::Stall);
    {
        let mut call = pin!(other.get(1));
        assert!(call.as_mut().now_or_never().is_none());
        until("it connects", async || proxy.accepted() > accepted).await;
    }
    soon(other.connector.close()).await.unwrap();
    proxy.heal();
    soon(store.connector.close()).await.unwrap();
    until("the server sees that all connections were closed", async || {
        let list = server.cli(&["CLIENT", "LIST"]);
        !String::from_utf8_lossy(list.bytes().expect("a text")).contains("name=kvconn")
    })
    .await;
}
