//! A front or a back that fails.

use std::time::Duration;

use connectors::{CacheKey, Error, ErrorKind, MemoryObjMut};
use futures::StreamExt;
use tokio::time::sleep;

use super::{Tiered, WRITE_BACK, chunk, key, open};

#[tokio::test]
async fn a_front_that_fails_is_passed_by_in_both_modes() {
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
async fn what_the_front_failed_to_remove_is_never_given_out_again() {
    let Tiered { connector, front, back } = open("stuck", "").await;
    connector.put(&key(1), chunk(1)).await.unwrap();
    connector.put(&key(2), chunk(1)).await.unwrap();
    front.fail("remove");
    front.fail("put");
    connector.put(&key(1), chunk(2)).await.unwrap();
    assert!(connector.remove(&key(2)).await.unwrap());
    assert_eq!(front.stored(&key(1)), Some(chunk(1)), "the front has the old one still");
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
    assert_eq!((back.count("get"), front.stored(&key(1))), (reads, Some(chunk(2))), "the front is right again");
}

#[tokio::test]
async fn a_back_that_fails_leaves_the_hits_of_the_front_and_makes_no_misses() {
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
    assert_eq!(front.stored(&key(1)), None, "the front has not what the back has not");
    connector.remove(&key(2)).await.unwrap_err();
    back.heal();
    assert_eq!(connector.get(&key(1)).await.unwrap().unwrap(), chunk(1), "the old chunk");
}

#[tokio::test(start_paused = true)]
async fn a_front_that_is_back_is_set_right_without_help() {
    let Tiered { connector, front, .. } = open("healed", "").await;
    connector.put(&key(1), chunk(1)).await.unwrap();
    front.fail("remove");
    front.fail("put");
    connector.put(&key(1), chunk(2)).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    assert!(front.count("remove") < 50, "with pauses");
    front.heal();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(front.stored(&key(1)), None, "the old one is gone");
    let removes = front.count("remove");
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(front.count("remove"), removes, "nothing is left to do");
}

#[tokio::test(start_paused = true)]
async fn a_front_that_failed_to_remove_more_keys_than_are_remembered_is_emptied_and_used_again() {
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
    assert_eq!(connector.get(&key(0)).await.unwrap(), Some(chunk(2)), "not the front's");
    sleep(Duration::from_secs(60)).await;
    front.heal();
    sleep(Duration::from_secs(60)).await;
    assert!(front.chunks.lock().unwrap().is_empty());
    assert_eq!(connector.get(&key(0)).await.unwrap(), Some(chunk(2)));
    assert_eq!(front.stored(&key(0)), Some(chunk(2)), "the front is used again");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_front_cannot_name_is_no_failure_of_the_front() {
    let Tiered { connector, front, .. } = open("unnamed", "").await;
    front.fail_with("remove", || Error::new(ErrorKind::InvalidKey, "too long"));
    front.fail_with("put", || Error::new(ErrorKind::InvalidKey, "too long"));
    connector.put(&key(1), chunk(1)).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(front.count("remove"), 1, "nothing is set right that was not wrong");
    connector.exists(&key(1)).await.unwrap();
    assert_eq!(front.count("exists"), 1, "the key is not remembered as one that the front has wrong");
}
