//! The network or the server stalls, cuts, loses, delays and splits.

use std::time::Duration;

use connectors::ErrorKind::{Corrupt, Other, SizeMismatch, Timeout, Unavailable};
use kvconn_cloud_servers::Fault;

use crate::call::{Call, End, each_call_under};
use crate::checked::{is_lost, until, within};
use crate::store::{IO_TIMEOUT_MS, Store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_is_a_timeout() {
    within(async {
        let store = Store::open().await;
        each_call_under(&store, &Fault::stall(), |_| End::Fails(&[Timeout])).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_stops_half_way_is_a_timeout() {
    within(async {
        let store = Store::open().await;
        each_call_under(&store, &Fault::stall_in_body(100), |call| match call {
            Call::Put | Call::BatchedPut | Call::Exists | Call::BatchedExists | Call::Remove => End::Right,
            // The answer to a request for many removals may be shorter than that.
            Call::BatchedRemove | Call::Ping => End::May(&[Timeout]),
            _ => End::Fails(&[Timeout]),
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_unavailable() {
    within(async {
        let store = Store::open().await;
        each_call_under(&store, &Fault::close(), |_| End::Fails(&[Unavailable])).await;
        each_call_under(&store, &Fault::lose_answer(), |_| End::Fails(&[Unavailable])).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_cut_or_shorter_than_announced_is_an_error() {
    within(async {
        let store = Store::open().await;
        for fault in [Fault::cut_body(0), Fault::cut_body(10), Fault::content_length(1), Fault::content_length(5_000)] {
            each_call_under(&store, &fault, |call| match call {
                // The announced length may not fit the caller's memory.
                Call::GetInto => End::Fails(&[Unavailable, Corrupt, SizeMismatch]),
                Call::Get | Call::BatchedGet | Call::List => End::Fails(&[Unavailable, Corrupt]),
                _ => End::May(&[Unavailable, Corrupt]),
            })
            .await;
        }
        // A chunk is cut near its end.
        each_call_under(&store, &Fault::cut_body(299_999), |call| match call.reads_chunks() {
            true => End::Fails(&[Unavailable, Corrupt]),
            false => End::May(&[Unavailable]),
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_come_late_or_in_parts_are_the_same_chunks() {
    within(async {
        let store = Store::open().await;
        let pause = Duration::from_millis(IO_TIMEOUT_MS / 8);
        each_call_under(&store, &Fault::delay(pause), |_| End::Right).await;
        // Each pause is shorter than the timeout, and all of them are longer.
        each_call_under(&store, &Fault::drip(30_000, pause), |_| End::Right).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_a_length_is_a_right_chunk_or_an_error() {
    within(async {
        let store = Store::open().await;
        each_call_under(&store, &Fault::chunked(), |_| End::May(&[Corrupt, Other])).await;
        store.put(1, 1).await.expect("a put");
        store.fake.next(Fault::chunked());
        let e = store.get(1).await.expect_err("the length is unknown");
        assert!(e.to_string().contains("`Content-Length`"), "{e}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_lost_until_it_is_back() {
    within(async {
        let mut store = Store::open().await;
        for n in 100..103 {
            store.put(n, 1).await.expect("a put");
        }
        store.fake.stop();
        for call in Call::ALL {
            is_lost(call.make(&store, 100).await);
        }
        store.fake.resume();
        until("the store is back", async || store.connector.ping().await.is_ok()).await;
        store.is_right().await;
    })
    .await;
}

/// The connections in kvconn's pool are dead, and the server is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_server_closed_between_calls_are_not_noticed() {
    within(async {
        let store = Store::open().await;
        for _ in 0..10 {
            store.is_right().await;
            store.fake.disconnect();
            // The system delivers the end of the connections in its own time.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
