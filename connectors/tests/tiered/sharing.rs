//! Concurrent reads of one key.

use std::time::Duration;

use connectors::{ErrorKind, MemoryObjMut};
use futures::future::poll_immediate;
use tokio::time::timeout;

use super::{Tiered, chunk, key, open, settle};

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_that_miss_one_key_cause_one_read_of_the_back() {
    let Tiered { connector, front, back } = open("thousand", "").await;
    back.store(&key(1), chunk(1));
    back.hold("get");
    let calls: Vec<_> = (0..1000)
        .map(|n| {
            let connector = connector.clone();
            tokio::spawn(async move {
                if n % 2 == 0 {
                    return connector.get(&key(1)).await.unwrap().unwrap();
                }
                let mut memory = MemoryObjMut::zeroed(1000);
                assert_eq!(connector.get_into(&key(1), &mut memory).await.unwrap(), Some(1000));
                memory.freeze()
            })
        })
        .collect();
    settle().await;
    back.release();
    for call in calls {
        assert_eq!(call.await.unwrap(), chunk(1));
    }
    assert_eq!((back.count("get"), front.count("put")), (1, 1));
    assert_eq!(connector.get(&key(1)).await.unwrap().unwrap(), chunk(1));
    assert_eq!(back.count("get"), 1, "the front has the chunk");
}

#[tokio::test(start_paused = true)]
async fn a_read_outlives_its_first_caller_and_ends_with_its_last() {
    let Tiered { connector, back, .. } = open("leader", "").await;
    back.store(&key(1), chunk(1));
    back.hold("get");
    let k = key(1);
    let mut first = Box::pin(connector.get(&k));
    assert!(poll_immediate(&mut first).await.is_none());
    settle().await;
    let mut second = Box::pin(connector.get(&k));
    assert!(poll_immediate(&mut second).await.is_none());
    drop(first);
    settle().await;
    back.release();
    assert_eq!(second.await.unwrap().unwrap(), chunk(1));
    assert_eq!(back.count("get"), 1);

    let k = key(2);
    back.hold("get");
    let mut only = Box::pin(connector.get(&k));
    assert!(poll_immediate(&mut only).await.is_none());
    settle().await;
    drop(only);
    settle().await;
    // The read has ended: it blocks neither `close` nor the next caller, which starts a new read.
    back.store(&k, chunk(2));
    back.release();
    assert_eq!(connector.get(&k).await.unwrap().unwrap(), chunk(2));
    assert_eq!(back.count(&format!("get {k}")), 2);
    connector.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_close_does_not_wait_for_a_read_without_callers() {
    let Tiered { connector, back, .. } = open("abandoned", "").await;
    back.hold("get");
    let k = key(1);
    let mut only = Box::pin(connector.get(&k));
    assert!(poll_immediate(&mut only).await.is_none());
    settle().await;
    drop(only);
    timeout(Duration::from_secs(60), connector.close()).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn all_callers_get_an_error_of_the_back() {
    let Tiered { connector, back, .. } = open("errors", "").await;
    back.hold("get");
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let connector = connector.clone();
            tokio::spawn(async move { connector.get(&key(1)).await })
        })
        .collect();
    settle().await;
    back.fail("get");
    back.release();
    for call in calls {
        let e = call.await.unwrap().unwrap_err();
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::Unavailable, true));
        assert_eq!(e.connector(), Some("test.controlled/ControlledConnector"));
    }
    assert_eq!(back.count("get"), 1);
}

#[tokio::test]
async fn a_batch_asks_each_store_once_and_reads_a_key_once() {
    let Tiered { connector, front, back } = open("batch", "").await;
    for n in 0..6 {
        back.store(&key(n), chunk(n as u8));
    }
    connector.get(&key(0)).await.unwrap();
    let keys = [0, 1, 2, 9, 1, 5].map(key);
    let answers = connector.batched_get(&keys).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(answers, [Some(chunk(0)), Some(chunk(1)), Some(chunk(2)), None, Some(chunk(1)), Some(chunk(5))]);
    assert_eq!(back.count("batched_get 4"), 1, "{:?}", back.calls.lock().unwrap());
    assert_eq!(back.count("get"), 1);
    assert!([0, 1, 2, 5].iter().all(|n| front.stored(&key(*n)).is_some()));
    assert_eq!(front.count("batched_put 3"), 1, "{:?}", front.calls.lock().unwrap());

    let mut requests = keys.clone().map(|key| (key, MemoryObjMut::zeroed(1000)));
    let lens = connector.batched_get_into(&mut requests).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(lens, [Some(1000), Some(1000), Some(1000), None, Some(1000), Some(1000)]);
    assert_eq!(requests[4].1[..], chunk(1)[..]);
    assert_eq!(connector.batched_contains(&keys).await.unwrap(), 3);
}
