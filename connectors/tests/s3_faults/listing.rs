//! Listings on a server that fails in the middle of one.

use connectors::ErrorKind::{Denied, Throttled, Unavailable};
use connectors::{CacheKey, Connector, PoolAllocator};
use futures::{StreamExt, TryStreamExt};
use kvconn_cloud_servers::{FakeS3, Fault, Operation};

use crate::checked::{chunk, key, within};
use crate::store::{BUCKET, connect, url};

async fn store() -> (FakeS3, Connector) {
    let fake = FakeS3::start();
    fake.bucket(BUCKET);
    let url = url(&fake, &fake.credentials(), "us-east-1");
    let connector =
        connect(&url, &PoolAllocator::new(64 << 20)).await.unwrap_or_else(|e| panic!("the store opens: {e}"));
    (fake, connector)
}

async fn list(connector: &Connector) -> Vec<CacheKey> {
    connector.list("").try_collect().await.unwrap_or_else(|e| panic!("a listing: {e}"))
}

/// A server with 50 chunks in pages of 20, and their keys in the order of the listing.
async fn three_pages() -> (FakeS3, Connector, Vec<CacheKey>) {
    let (fake, connector) = store().await;
    let mut keys: Vec<CacheKey> = (0..50).map(key).collect();
    for key in &keys {
        connector.put(key, chunk(1, 1, 100)).await.expect("a put without a fault");
    }
    keys.sort();
    fake.set_page(20);
    (fake, connector, keys)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_goes_on_after_errors_that_pass() {
    within(async {
        let (fake, connector, keys) = three_pages().await;
        let faults = [
            Fault::internal_error(),
            Fault::slow_down(),
            Fault::too_many_requests("1"),
            Fault::close(),
            Fault::cut_body(1_000),
            Fault::stall_in_body(1_000),
        ];
        for fault in faults {
            for page in 0..3 {
                fake.forget_requests();
                fake.next(fault.clone().on([Operation::List]).after(page).times(1));
                assert_eq!(list(&connector).await, keys, "{fault:?} on page {page}");
                assert_eq!(fake.count(Operation::List), 4, "{fault:?} on page {page}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_ends_with_the_error_that_lasts() {
    within(async {
        let (fake, connector, keys) = three_pages().await;
        for (fault, kind, tries) in [
            (Fault::internal_error(), Unavailable, 6),
            (Fault::slow_down(), Throttled, 6),
            (Fault::refuse(403, "AccessDenied", "no"), Denied, 1),
        ] {
            fake.forget_requests();
            fake.always(fault.clone().on([Operation::List]).after(1));
            let (mut found, mut listing) = (Vec::new(), connector.list(""));
            let e = loop {
                match listing.next().await.expect("an error at the end") {
                    Ok(key) => found.push(key),
                    Err(e) => break e,
                }
            };
            assert!(listing.next().await.is_none(), "{fault:?}");
            assert!(e.kind() == kind && keys.starts_with(&found), "{fault:?}: {e}");
            assert_eq!(fake.count(Operation::List), 1 + tries, "{fault:?}");
            fake.clear_faults();
        }
    })
    .await;
}

/// The server lists no metadata, so that each of these names needs a lookup.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_of_a_listing_is_tried_again() {
    within(async {
        let (fake, connector) = store().await;
        let keys: Vec<CacheKey> = (0..9).map(|n| format!("a_b@1@0@{n}@half").parse().expect("a key")).collect();
        for key in &keys {
            connector.put(key, chunk(1, 1, 100)).await.expect("a put without a fault");
        }
        for fault in [Fault::slow_down(), Fault::close()] {
            fake.next(fault.on([Operation::Head]).after(4).times(3));
            assert_eq!(list(&connector).await, keys);
        }
    })
    .await;
}
