//! The server refuses.

use connectors::ErrorKind::{self, Denied, InvalidOption, InvalidUrl, Throttled, Unavailable};
use connectors::PoolAllocator;
use kvconn_cloud_servers::{Credentials, FakeS3, Fault, Operation, Then};

use crate::call::{Call, End, each_call_under};
use crate::checked::{is_lost, key, until, within};
use crate::store::{BUCKET, Store, connect, url};

/// The answer to `HEAD` has no body, so status 404 is a miss there, whatever the reason.
const NOT_HEAD: [Operation; 6] = [
    Operation::Get,
    Operation::Put,
    Operation::List,
    Operation::Delete,
    Operation::DeleteObjects,
    Operation::HeadBucket,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_asks_for_fewer_requests_throttles() {
    within(async {
        let store = Store::open().await;
        each_call_under(&store, &Fault::slow_down(), |_| End::Fails(&[Throttled])).await;
        each_call_under(&store, &Fault::too_many_requests("0"), |_| End::Fails(&[Throttled])).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttling_does_not_open_the_breaker_and_a_lost_server_opens_it_for_an_interval() {
    within(async {
        let mut store = Store::open().await;
        let url = url(&store.fake, &store.fake.credentials(), "us-east-1");
        let url = url + "&breaker_failures=2&min_reconnect_interval=0.2";
        store.connector = connect(&url, &store.pool).await.expect("the store opens");
        for n in 100..103 {
            store.put(n, 1).await.expect("a put");
        }
        for fault in [Fault::slow_down(), Fault::too_many_requests("0")] {
            store.fake.always(fault);
            for call in Call::ALL {
                for _ in 0..3 {
                    let e = call.make(&store, 100).await.expect_err("the server refuses");
                    assert_eq!(e.kind(), Throttled, "{call:?}: {e}");
                }
            }
            store.fake.clear_faults();
            // An open breaker would refuse this call.
            assert_eq!(store.get(100).await.expect("a get"), Some(1));
        }

        store.fake.stop();
        for _ in 0..3 {
            is_lost(store.get(100).await);
        }
        store.fake.resume();
        until("the breaker closes", async || store.get(100).await.is_ok()).await;
        store.is_right().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_is_unavailable() {
    within(async {
        let store = Store::open().await;
        each_call_under(&store, &Fault::internal_error(), |_| End::Fails(&[Unavailable])).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_identity_or_clock_is_denied() {
    within(async {
        let store = Store::open().await;
        let denied = Fault::refuse(403, "AccessDenied", "Access Denied");
        // S3 also denies the absent object that `ping` asks for if the credentials may not list.
        each_call_under(&store, &denied, |call| if call == Call::Ping { End::Right } else { End::Fails(&[Denied]) })
            .await;
        each_call_under(&store, &Fault::skewed_clock(), |_| End::Fails(&[Denied])).await;
        // A `HEAD` with status 400 gives no reason.
        each_call_under(&store, &Fault::expired_token(), |call| match call.asks_by_head() {
            true => End::Fails(&[Denied, InvalidOption, Unavailable, ErrorKind::Other]),
            false => End::Fails(&[Denied]),
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_moved_or_is_gone_is_an_error_and_never_a_miss() {
    within(async {
        let store = Store::open().await;
        each_call_under(&store, &Fault::moved("eu-west-1"), |_| End::Fails(&[InvalidOption])).await;
        let gone = Fault::refuse(404, "NoSuchBucket", "The specified bucket does not exist");
        each_call_under(&store, &gone.on(NOT_HEAD), |call| match call {
            Call::Exists | Call::BatchedExists => End::Right,
            _ => End::Fails(&[InvalidUrl]),
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_end_of_a_request_gives_the_memory_back() {
    within(async {
        let store = Store::open().await;
        for then in [Then::ReadOn, Then::Stall, Then::Close] {
            // The rest of the request may break the connection before kvconn reads the answer.
            each_call_under(&store, &Fault::early(100_000, then), |call| match call.writes_chunks() {
                true => End::Fails(&[Throttled, Unavailable, ErrorKind::Timeout]),
                false => End::Fails(&[Throttled]),
            })
            .await;
        }
    })
    .await;
}

/// The system's buffers cannot take the rest of the request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_long_before_the_end_of_a_request_gives_the_memory_back() {
    within(async {
        let store = Store::open().await;
        for then in [Then::ReadOn, Then::Stall, Then::Close] {
            for _ in 0..5 {
                store.fake.always(Fault::early(1 << 20, then).on([Operation::Put]));
                let put = store.connector.put(&key(1), store.chunk(1, 1, 32 << 20)).await;
                store.fake.clear_faults();
                let e = put.expect_err("the server refuses");
                assert!(matches!(e.kind(), Throttled | Unavailable | ErrorKind::Timeout), "{then:?}: {e}");
                assert_eq!(store.pool.stats().in_use, 0, "{then:?}: the put has ended");
                store.is_right().await;
                assert_eq!(store.get(1).await.expect("a get"), None, "{then:?}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_or_a_wrong_region_fail_at_open() {
    within(async {
        let fake = FakeS3::start();
        fake.bucket(BUCKET);
        let pool = PoolAllocator::new(1 << 20);
        let known = fake.credentials();
        let wrong_secret = Credentials::new(&known.access_key_id, "wrong", None);
        let wrong_id = Credentials::new("AKIAWRONG", &known.secret_access_key, None);
        for (credentials, region, kinds) in [
            (&wrong_secret, "us-east-1", &[Denied][..]),
            (&wrong_id, "us-east-1", &[Denied]),
            (&known, "eu-west-1", &[InvalidOption, Denied]),
        ] {
            let e = connect(&url(&fake, credentials, region), &pool).await.expect_err("the server refuses");
            assert!(kinds.contains(&e.kind()), "{:?}: {e}", e.kind());
            assert!(!format!("{e} {e:?}").contains(&credentials.secret_access_key), "{e:?}");
        }
        connect(&url(&fake, &known, "us-east-1"), &pool).await.expect("the right ones open");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_s3s_is_an_error() {
    within(async {
        let store = Store::open().await;
        for status in [302, 404, 418, 502] {
            let fault = Fault::answer(status, "text/html", "<html><body>a proxy's page</body></html>").on(NOT_HEAD);
            each_call_under(&store, &fault, |call| match call {
                Call::Exists | Call::BatchedExists => End::Right,
                _ => End::Fails(&[InvalidOption, InvalidUrl, Unavailable, ErrorKind::Other]),
            })
            .await;
        }
    })
    .await;
}
