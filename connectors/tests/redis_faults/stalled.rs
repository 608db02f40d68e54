//! The network stalls one connection, and the server answers on the others.

use std::sync::atomic::{AtomicUsize, Ordering};

use connectors::{Error, ErrorKind, MemoryObjMut};
use futures::future::join_all;
use kvconn_redis_server::{Fault, Proxy, RedisServer};

use crate::checked::version;
use crate::store::{Kind, Store, chunk, key};

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
    // Each of these calls takes a connection at once.
    let got = join_all((0..CONNECTIONS as u64).map(|n| store.get(n))).await;
    assert!(got.iter().all(Result::is_ok));
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
