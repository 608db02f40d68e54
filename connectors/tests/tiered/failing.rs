//! A front or a back that fails.

use std::time::Duration;

use connectors::{CacheKey, Error, ErrorKind, MemoryObjMut};
use futures::StreamExt;
use tokio::time::sleep;

use super::{Tiered, WRITE_BACK, chunk, control, key, open};

/// Each store behind has the breaker of the program, so the front's chunks stay available.
#[tokio::test]
async fn while_the_back_is_lost_the_front_gives_its_chunks_and_no_call_waits_for_the_back() {
    let url = "tiered://?front=controlled%3A%2F%2Flost-front&back=controlled%3A%2F%2Flost-back";
    let mut layers = connectors::layer::LayerOptions::default();
    (layers.breaker_failures, layers.min_reconnect_interval) = (Some(1), Some(0.01));
    let connector = connectors::builder(url).layers(layers).open().await.unwrap();
    let (front, back) = (control("lost-front"), control("lost-back"));
    connector.put(&key(1), chunk(1)).await.unwrap();
    ["get", "exists", "ping"].iter().for_each(|operation| back.fail(operation));
    assert_eq!(connector.get(&key(2)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    for _ in 0..3 {
        assert_eq!(connector.get(&key(1)).await.unwrap(), Some(chunk(1)), "the front has it");
        let e = connector.get(&key(2)).await.unwrap_err();
        assert!(e.message().starts_with("the store is lost"), "{e}");
        assert_eq!(connector.batched_contains(&[key(1), key(2)]).await.unwrap(), 1);
    }
    assert_eq!((back.count("get"), back.count("exists"), front.count("ping")), (1, 0, 0));
    back.heal();
    while connector.get(&key(2)).await.is_err() {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn calls_work_without_the_front_in_both_modes() {
    for (name, options) in [("front-fails", ""), ("front-fails-wb", WRITE_BACK)] {
        let Tiered { connector, front, back } = open(name, options).await;
        for operation in ["exists", "get", "batched_get", "put", "list", "ping"] {
            front.fail(operation);
        }
        connector.put(&key(1), chunk(1)).await.unwrap();
        assert_eq!(connector.get(&key(1)).await.unwrap().unwrap(), chunk(1));
        assert!(connector.exists(&key(1)).await.unwrap());
        let mut memory = MemoryObjMut::zeroed(1000);
        assert_eq!(connector.get_into(&key(1), &mut memory).await.unwrap(), Some(1000));
        let answers = connector.batched_get(&[key(1), key(2)]).await;
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [Some(chunk(1)), None]);
        assert_eq!(connector.list("").count().await, 1);
        connector.ping().await.unwrap();
        connector.close().await.unwrap();
        assert_eq!(back.stored(&key(1)), Some(chunk(1)));
    }
}

#[tokio::test]
async fn a_read_never_gives_a_chunk_that_the_front_failed_to_remove() {
    let Tiered { connector, front, back } = open("stuck", "").await;
    connector.put(&key(1), chunk(1)).await.unwrap();
    connector.put(&key(2), chunk(1)).await.unwrap();
    front.fail("remove");
    front.fail("put");
    connector.put(&key(1), chunk(2)).await.unwrap();
    assert!(connector.remove(&key(2)).await.unwrap());
    assert_eq!(front.stored(&key(1)), Some(chunk(1)), "the front still has the old chunk");
    assert_eq!(connector.get(&key(1)).await.unwrap(), Some(chunk(2)));
    assert_eq!(connector.get(&key(2)).await.unwrap(), None);
    assert!(!connector.exists(&key(2)).await.unwrap());
    let mut requests = [1, 2].map(|n| (key(n), MemoryObjMut::zeroed(1000)));
    let lens = connector.batched_get_into(&mut requests).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!((lens, &requests[0].1[..]), (vec![Some(1000), None], &chunk(2)[..]));
    let listed: Vec<CacheKey> = connector.list("").map(Result::unwrap).collect().await;
    assert_eq!(listed, [key(1)]);

    front.heal();
    assert_eq!(connector.get(&key(1)).await.unwrap(), Some(chunk(2)));
    let reads = back.count("get");
    assert_eq!(connector.get(&key(1)).await.unwrap(), Some(chunk(2)));
    assert_eq!((back.count("get"), front.stored(&key(1))), (reads, Some(chunk(2))), "reads use the front again");
}

#[tokio::test]
async fn with_a_failing_back_the_front_serves_hits_and_all_else_is_an_error() {
    let Tiered { connector, front, back } = open("back-fails", "").await;
    connector.put(&key(1), chunk(1)).await.unwrap();
    connector.put(&key(2), chunk(1)).await.unwrap();
    for operation in ["exists", "get", "batched_get", "put", "ping", "list", "remove"] {
        back.fail(operation);
    }
    assert_eq!(connector.get(&key(1)).await.unwrap().unwrap(), chunk(1));
    assert!(connector.exists(&key(1)).await.unwrap());
    connector.exists(&key(3)).await.unwrap_err();
    connector.get(&key(3)).await.unwrap_err();
    let answers = connector.batched_get(&[key(1), key(3)]).await;
    assert!(answers[0].is_ok() && answers[1].is_err());
    connector.ping().await.unwrap_err();

    assert_eq!(connector.put(&key(1), chunk(2)).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(front.stored(&key(1)), None, "the front has no chunk that the back lacks");
    connector.remove(&key(2)).await.unwrap_err();
    back.heal();
    assert_eq!(connector.get(&key(1)).await.unwrap().unwrap(), chunk(1), "the old chunk");
}

#[tokio::test(start_paused = true)]
async fn stale_chunks_are_removed_when_the_front_works_again() {
    let Tiered { connector, front, .. } = open("healed", "").await;
    connector.put(&key(1), chunk(1)).await.unwrap();
    front.fail("remove");
    front.fail("put");
    connector.put(&key(1), chunk(2)).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    assert!(front.count("remove") < 50, "there are pauses");
    front.heal();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(front.stored(&key(1)), None, "the old chunk is removed");
    let removes = front.count("remove");
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(front.count("remove"), removes, "the task has ended");
}

#[tokio::test(start_paused = true)]
async fn a_front_with_too_many_stale_keys_is_emptied_and_used_again() {
    let Tiered { connector, front, back } = open("outage", "").await;
    connector.put(&key(0), chunk(1)).await.unwrap();
    connector.put(&key(200_000), chunk(1)).await.unwrap();
    front.fail("remove");
    front.fail("put");
    for n in 0..100_001 {
        connector.put(&key(n), chunk(2)).await.unwrap();
        if n > 0 {
            back.chunks.lock().unwrap().remove(&key(n));
        }
    }
    assert_eq!(connector.get(&key(0)).await.unwrap(), Some(chunk(2)), "the back's chunk");
    sleep(Duration::from_secs(60)).await;
    front.heal();
    sleep(Duration::from_secs(60)).await;
    assert!(front.chunks.lock().unwrap().is_empty());
    assert_eq!(connector.get(&key(0)).await.unwrap(), Some(chunk(2)));
    assert_eq!(front.stored(&key(0)), Some(chunk(2)), "reads use the front again");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_front_cannot_name_is_not_stale() {
    let Tiered { connector, front, .. } = open("unnamed", "").await;
    front.fail_with("remove", || Error::new(ErrorKind::InvalidKey, "too long"));
    front.fail_with("put", || Error::new(ErrorKind::InvalidKey, "too long"));
    connector.put(&key(1), chunk(1)).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(front.count("remove"), 1, "the removal is not retried");
    connector.exists(&key(1)).await.unwrap();
    assert_eq!(front.count("exists"), 1, "reads still ask the front for the key");
}
