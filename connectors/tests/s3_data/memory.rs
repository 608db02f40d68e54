//! A put lends its chunk's memory. The memory may be used again as soon as the put has ended or was dropped.

use std::time::Duration;

use connectors::{ErrorKind, MemoryObj};
use kvconn_cloud_servers::{FakeS3, Fault, Operation, Then};

use crate::{BUCKET, MIB, OVERWRITTEN, bytes, key, overwrite, server, store};

const LEN: usize = 13 * MIB;

/// No byte of overwritten memory ever reached the server.
fn no_overwritten_byte(fake: &FakeS3, case: &str) {
    for request in fake.requests() {
        assert!(!request.body.contains(&OVERWRITTEN), "{case}: the server got a byte that was written after the put");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_ended_gave_its_memory_back() {
    let faults = [
        ("success", None),
        ("refused", Some(Fault::refuse(403, "AccessDenied", "no"))),
        ("early, reads on", Some(Fault::early(MIB, Then::ReadOn))),
        ("early, stalls", Some(Fault::early(MIB, Then::Stall))),
        ("early, closes", Some(Fault::early(MIB, Then::Close))),
        ("closes", Some(Fault::close())),
        ("no answer", Some(Fault::lose_answer())),
        ("stalls", Some(Fault::stall())),
    ];
    let fake = server();
    fake.keep_bodies();
    for parts in ["", "&parallel_from_bytes=6000000&part_bytes=5242880"] {
        let store = store(&fake, &format!("&io_timeout_ms=1500&retries=0{parts}")).await;
        for (n, (case, fault)) in (0..).zip(&faults) {
            fake.forget_requests();
            let stored = bytes(LEN, n);
            fake.put_object(BUCKET, key(n as u64).as_str(), stored.clone(), &[]);
            if let Some(fault) = fault {
                fake.always(fault.clone().on([Operation::Put, Operation::UploadPart]));
            }
            let chunk = MemoryObj::from(bytes(LEN, n + 1));
            let answer = store.put(&key(n as u64), chunk.clone()).await;
            overwrite(chunk);
            assert_eq!(answer.is_ok(), fault.is_none(), "{case}: {answer:?}");
            // hyper may hand out what it holds.
            tokio::time::sleep(Duration::from_millis(30)).await;
            fake.clear_faults();
            no_overwritten_byte(&fake, case);
            let object = fake.object(BUCKET, key(n as u64).as_str()).expect("an object");
            let new = bytes(LEN, n + 1);
            assert!(*object.bytes == stored || *object.bytes == new, "{case}: the object is neither chunk");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_was_dropped_gave_its_memory_back() {
    let fake = server();
    fake.keep_bodies();
    let store = store(&fake, "&io_timeout_ms=5000").await;
    for stalls in [false, true] {
        if stalls {
            fake.always(Fault::early(MIB, Then::Stall).on([Operation::Put]));
        }
        for micros in (0..12).map(|n| n * 1500) {
            let chunk = MemoryObj::from(bytes(LEN, 3));
            // It may have ended in time.
            let _ = tokio::time::timeout(Duration::from_micros(micros), store.put(&key(1), chunk.clone())).await;
            overwrite(chunk);
        }
    }
    fake.clear_faults();
    no_overwritten_byte(&fake, "dropped");
    store.put(&key(1), bytes(LEN, 4).into()).await.expect("the next put");
    store.close().await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_timed_out_gave_its_memory_back() {
    let fake = server();
    fake.keep_bodies();
    let store = store(&fake, "&timeout_ms=1000&open_timeout_ms=10000&retries=0").await;
    for fault in [Fault::stall(), Fault::early(MIB, Then::Stall), Fault::delay(Duration::from_secs(2))] {
        fake.always(fault.on([Operation::Put]));
        let chunk = MemoryObj::from(bytes(LEN, 5));
        let answer = store.put(&key(2), chunk.clone()).await;
        overwrite(chunk);
        let e = answer.expect_err("the server does not answer in time");
        assert!(matches!(e.kind(), ErrorKind::Timeout | ErrorKind::Throttled), "{e}");
        fake.clear_faults();
    }
    no_overwritten_byte(&fake, "timed out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_closed_gave_all_memory_back() {
    let fake = server();
    fake.keep_bodies();
    let store = store(&fake, "&io_timeout_ms=400&retries=0").await;
    fake.always(Fault::stall().on([Operation::Put]));
    let chunks: Vec<_> = (0..4).map(|n| MemoryObj::from(bytes(LEN, n))).collect();
    let puts: Vec<_> = (0..)
        .zip(&chunks)
        .map(|(n, chunk)| {
            let (store, chunk) = (store.clone(), chunk.clone());
            tokio::spawn(async move { store.put(&key(n), chunk).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.close().await.expect("close");
    chunks.into_iter().for_each(overwrite);
    for put in puts {
        put.await.expect("the put's task").expect_err("the server stalls");
    }
    no_overwritten_byte(&fake, "closed");
}
