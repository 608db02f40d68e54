//! Chunks over TLS while the network or the server fails.

use std::time::Duration;

use connectors::Connector;
use kvconn_redis_server::{Fault, Proxy, RedisServer};
use tokio::time::timeout;

use crate::checked::{chunk, is_lost, key, until, version, within};

const MIB: usize = 1 << 20;

async fn behind_proxy(scheme: &str, options: &str) -> (RedisServer, Proxy, Connector) {
    let server = RedisServer::start_tls(&[]);
    let proxy = Proxy::start(([127, 0, 0, 1], server.tls_port()).into()).await;
    let ca = server.certificates().ca_pem();
    let url = format!("{}?tls=true&tls_ca={}{options}", proxy.url(scheme), ca.display());
    let store = connectors::open(&url).await.unwrap_or_else(|e| panic!("the store opens: {e}"));
    (server, proxy, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_rest_are_used_again() {
    within(async {
        let (_server, proxy, store) = behind_proxy("resp", "").await;
        store.put(&key(1), chunk(1, 1, MIB)).await.expect("a put");
        let before = proxy.accepted();
        for _ in 0..20 {
            // The server's tickets for later sessions arrive meanwhile.
            tokio::time::sleep(Duration::from_millis(10)).await;
            store.put(&key(1), chunk(1, 2, MIB)).await.expect("a put");
            assert!(store.get(&key(1)).await.expect("a get").is_some());
        }
        assert_eq!(proxy.accepted(), before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_a_timeout_in_the_handshake_and_after_it() {
    within(async {
        let (_server, proxy, store) = behind_proxy("redis", "&io_timeout_ms=500&connect_timeout_ms=500").await;
        store.put(&key(1), chunk(1, 1, 4 * MIB)).await.expect("a put");
        for _ in 0..2 {
            proxy.replies(Fault::Stall);
            is_lost(store.get(&key(1)).await);
            // New connections wait for the server's part of the handshake.
            is_lost(store.get(&key(1)).await);
            proxy.heal();
            until("the store is back", async || store.ping().await.is_ok()).await;
            proxy.requests(Fault::Stall);
            is_lost(store.put(&key(2), chunk(2, 1, 16 * MIB)).await);
            proxy.heal();
            until("the store is back", async || store.ping().await.is_ok()).await;
        }
        until("the chunk is there", async || {
            store.get(&key(1)).await.is_ok_and(|found| found.is_some_and(|chunk| version(1, &chunk) == 1))
        })
        .await;
    })
    .await;
}

/// The network cuts in the middle of handshakes, records and chunks, and callers drop calls in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_over_a_network_that_cuts_give_whole_chunks() {
    const OPERATIONS: usize = 10_000;
    const CALLERS: usize = 16;
    within(async {
        let (_server, proxy, store) = behind_proxy("resp", "&io_timeout_ms=2000&connect_timeout_ms=2000").await;
        let proxy = std::sync::Arc::new(proxy);
        let cutting = tokio::spawn({
            let proxy = proxy.clone();
            async move {
                let mut random = fastrand::Rng::with_seed(7);
                loop {
                    let bytes = 1 << random.u32(1..23);
                    if random.bool() {
                        proxy.replies(Fault::CutAfter(bytes));
                    } else {
                        proxy.requests(Fault::CutAfter(bytes));
                    }
                    tokio::time::sleep(Duration::from_millis(random.u64(1..4))).await;
                    proxy.heal();
                    tokio::time::sleep(Duration::from_millis(random.u64(10..60))).await;
                }
            }
        });
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let store = store.clone();
                tokio::spawn(async move { operate(&store, caller as u64, OPERATIONS / CALLERS).await })
            })
            .collect();
        let (mut done, mut failed) = (0, 0);
        for caller in callers {
            let counts = caller.await.expect("no chunk is wrong");
            done += counts.0;
            failed += counts.1;
        }
        cutting.abort();
        assert!(done > OPERATIONS / 4, "{done} operations ended well, {failed} failed");
        assert!(failed > 0 && proxy.struck() > 0, "the network cut");
        proxy.heal();
        until("the store is back", async || store.ping().await.is_ok()).await;
        store.put(&key(1), chunk(1, 1, MIB)).await.expect("a put");
    })
    .await;
}

/// The operations that ended well, and those that failed.
async fn operate(store: &Connector, caller: u64, operations: usize) -> (usize, usize) {
    let mut random = fastrand::Rng::with_seed(caller);
    let (mut done, mut failed) = (0, 0);
    for _ in 0..operations {
        let n = random.u64(0..24);
        let limit = match random.u8(0..10) {
            // The caller drops the call in the middle.
            0 => Duration::from_micros(random.u64(0..3000)),
            _ => Duration::from_secs(60),
        };
        let len = [100, 5_000, 70_000, 600_000][random.usize(0..4)] + random.usize(0..100);
        let kind = random.u8(0..4);
        let call = async {
            match kind {
                0 => store.put(&key(n), chunk(n, 1, len)).await,
                1 => store.exists(&key(n)).await.map(drop),
                _ => store.get(&key(n)).await.map(|found| {
                    if let Some(bytes) = found {
                        version(n, &bytes);
                    }
                }),
            }
        };
        match timeout(limit, call).await {
            Ok(Ok(())) => done += 1,
            Ok(Err(e)) => {
                // While the server is away, calls fail at once.
                tokio::time::sleep(Duration::from_millis(2)).await;
                assert!(e.is_temporary(), "{e:?}");
                failed += 1;
            }
            Err(_) => assert!(limit < Duration::from_secs(1), "a call hangs"),
        }
    }
    (done, failed)
}
