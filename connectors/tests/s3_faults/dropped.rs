//! Calls that are dropped half-way.

use std::time::Duration;

use connectors::ErrorKind;
use kvconn_cloud_servers::{Fault, Then};

use crate::call::Call;
use crate::checked::{key, until, version, within};
use crate::store::{BUCKET, Store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_dropped_anywhere_leaves_the_next_call_right() {
    within(async {
        let store = Store::open().await;
        for (i, call) in Call::ALL.into_iter().enumerate() {
            let n = 100 * (i as u64 + 1);
            for micros in (0..8_000).step_by(250) {
                for n in n..n + 3 {
                    store.put(n, 1).await.expect("a put");
                }
                // It may have ended in time, and then its answer was right.
                let _ = tokio::time::timeout(Duration::from_micros(micros), call.make(&store, n)).await;
                for n in n..n + 3 {
                    store.get(n).await.expect("a get");
                }
            }
            until("the memory comes back", async || store.pool.stats().in_use == 0).await;
        }
        store.is_right().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_put_stores_the_old_chunk_or_the_new_one_whole() {
    within(async {
        let store = Store::open().await;
        // Each key has one dropped put: the server may serve it after the next call.
        for n in 1..60 {
            store.put(n, 1).await.expect("a put");
            let _ = tokio::time::timeout(Duration::from_micros(100 * n), store.put(n, 2)).await;
            let stored = store.fake.object(BUCKET, &format!("chunks/{}", key(n))).expect("an object");
            let stored = version(n, &stored.bytes);
            assert!(stored == 1 || stored == 2, "{stored}, not 1 or 2");
        }
    })
    .await;
}

/// Each stalled call holds memory and a connection, and the drop gives both back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_while_the_server_stalls_hold_nothing() {
    within(async {
        let store = Store::open().await;
        for fault in [Fault::stall(), Fault::stall_in_body(1000), Fault::early(1000, Then::Stall)] {
            for (i, call) in Call::ALL.into_iter().enumerate() {
                let n = 100 * (i as u64 + 1);
                for n in n..n + 3 {
                    store.put(n, 1).await.expect("a put");
                }
                store.fake.always(fault.clone());
                for _ in 0..20 {
                    match tokio::time::timeout(Duration::from_millis(3), call.make(&store, n)).await {
                        Ok(Err(e)) if matches!(e.kind(), ErrorKind::Throttled | ErrorKind::Unavailable) => {}
                        Ok(Err(e)) => panic!("{call:?}: {e}"),
                        _ => {}
                    }
                }
                store.fake.clear_faults();
                store.is_right().await;
            }
        }
    })
    .await;
}
