//! The requests of lookups and removals.

use connectors::CacheKey;
use kvconn_cloud_servers::{FakeS3, Fault, Operation};

use crate::{BUCKET, chunk, fake, key, open};

/// Keys whose objects are on the server.
fn stored(fake: &FakeS3, count: usize) -> Vec<CacheKey> {
    let keys: Vec<CacheKey> = (0..count).map(|n| key(&format!("m@1@0@{n:x}@half"))).collect();
    keys.iter().for_each(|key| fake.put_object(BUCKET, key.as_str(), b"x".to_vec(), &[]));
    keys
}

#[tokio::test]
async fn a_batch_is_removed_by_a_request_for_each_thousand() {
    let fake = fake();
    let store = open(&fake, "").await;
    let mut keys = stored(&fake, 2500);
    keys.insert(7, key("missing@1@0@ff@half"));
    fake.forget_requests();
    let removed: Vec<bool> = store.batched_remove(&keys).await.into_iter().map(Result::unwrap).collect();
    assert!(removed.iter().enumerate().all(|(at, removed)| *removed == (at != 7)));
    assert_eq!((fake.count(Operation::Head), fake.count(Operation::DeleteObjects)), (2501, 3));
    assert_eq!(fake.count(Operation::Delete), 0);
    assert_eq!(fake.keys(BUCKET), [""; 0]);
}

#[tokio::test]
async fn a_server_without_bulk_removals_gets_one_request_for_each_key() {
    let fake = fake();
    let store = open(&fake, "?retries=0").await;
    fake.always(Fault::refuse(501, "NotImplemented", "no").on([Operation::DeleteObjects]));
    for asked in [1, 0] {
        let keys = stored(&fake, 20);
        fake.forget_requests();
        assert!(store.batched_remove(&keys).await.into_iter().all(|removed| removed.unwrap()));
        assert_eq!((fake.count(Operation::DeleteObjects), fake.count(Operation::Delete)), (asked, 20));
    }
}

#[tokio::test]
async fn a_server_that_fails_at_a_bulk_removal_gets_one_request_for_each_key() {
    let fake = fake();
    let store = open(&fake, "?retries=0").await;
    fake.next(Fault::internal_error().on([Operation::DeleteObjects]));
    // It may have failed only this time.
    for alone in [20, 0] {
        let keys = stored(&fake, 20);
        fake.forget_requests();
        assert!(store.batched_remove(&keys).await.into_iter().all(|removed| removed.unwrap()));
        assert_eq!((fake.count(Operation::DeleteObjects), fake.count(Operation::Delete)), (1, alone));
        assert_eq!(fake.keys(BUCKET), [""; 0]);
    }
    fake.next(Fault::slow_down().on([Operation::DeleteObjects]));
    let keys = stored(&fake, 20);
    assert!(store.batched_remove(&keys).await.into_iter().all(|removed| removed.is_err()), "no more requests");
    assert_eq!(fake.keys(BUCKET).len(), 20);
}

#[tokio::test]
async fn a_key_that_cannot_be_removed_fails_alone() {
    let fake = fake();
    let store = open(&fake, "?retries=0").await;
    let keys = stored(&fake, 20);
    fake.always(Fault::refuse(403, "AccessDenied", "no").on([Operation::DeleteObjects]));
    fake.always(Fault::refuse(403, "AccessDenied", "no").on([Operation::Delete]).key("m@1@0@5@half"));
    let removed = store.batched_remove(&keys).await;
    assert!(removed.iter().enumerate().all(|(at, removed)| removed.is_ok() == (at != 5)), "{removed:?}");
    assert_eq!(fake.keys(BUCKET), ["m@1@0@5@half"]);
}

#[tokio::test]
async fn a_long_run_stops_soon_after_its_first_miss() {
    let fake = fake();
    let store = open(&fake, "?connections=16").await;
    let mut keys = stored(&fake, 1000);
    assert_eq!(store.batched_contains(&keys).await.unwrap(), 1000);
    keys.insert(3, key("missing@1@0@ff@half"));
    fake.forget_requests();
    assert_eq!(store.batched_contains(&keys).await.unwrap(), 3);
    assert!(fake.count(Operation::Head) <= 64, "{}", fake.count(Operation::Head));
    store.put(&keys[3], chunk("x")).await.unwrap();
    assert_eq!(store.batched_contains(&keys).await.unwrap(), 1001);
}

#[tokio::test]
async fn a_status_that_does_not_fit_the_request_is_an_error_that_says_so() {
    let fake = fake();
    let store = open(&fake, "?retries=0").await;
    for (status, says) in [(204, "status"), (304, "304 Not Modified")] {
        fake.always(Fault::answer(status, "application/xml", ""));
        for e in [
            store.exists(&key("m@1@0@ff@half")).await.expect_err("exists"),
            store.get(&key("m@1@0@ff@half")).await.expect_err("get"),
        ] {
            assert!(e.to_string().contains(says), "{e}");
        }
        fake.clear_faults();
    }
}
