//! What waits for the store behind.

use std::time::Duration;

use connectors::{CacheKey, Error, ErrorKind, PoolAllocator};
use futures::StreamExt;
use tokio::time::{sleep, timeout};

use super::{Tiered, WRITE_BACK, chunk, key, open, settle, sized};

#[tokio::test(start_paused = true)]
async fn write_back_answers_before_the_back_has_the_chunk_and_close_writes_the_rest() {
    let Tiered { connector, front, back } = open("flush", WRITE_BACK).await;
    back.hold("put");
    let pool = PoolAllocator::new(1 << 20);
    let mut mine = pool.allocate_now(&connectors::ChunkLayout::binary(1000)).unwrap();
    mine.copy_from_slice(&chunk(1));
    connector.put(&key(1), mine.freeze()).await.unwrap();
    assert_eq!(pool.stats().in_use, 0, "the caller's memory is free");
    for n in 2..20 {
        connector.put(&key(n), chunk(n as u8)).await.unwrap();
    }
    assert!(back.chunks.lock().unwrap().is_empty());
    front.chunks.lock().unwrap().clear();
    assert_eq!(connector.get(&key(1)).await.unwrap().unwrap(), chunk(1), "also when the front dropped it");
    front.chunks.lock().unwrap().clear();
    assert!(connector.exists(&key(19)).await.unwrap());
    assert_eq!(connector.list("").count().await, 19);
    let closing = tokio::spawn({
        let connector = connector.clone();
        async move { connector.close().await }
    });
    settle().await;
    assert!(!closing.is_finished());
    back.let_go();
    closing.await.unwrap().unwrap();
    assert!((1..20).all(|n| back.stored(&key(n)) == Some(chunk(n as u8))));
    assert_eq!((back.count("close"), front.count("close")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn write_back_writes_the_newest_chunk_of_a_key_last_and_a_remove_cancels_it() {
    let Tiered { connector, back, .. } = open("order", WRITE_BACK).await;
    back.hold("put");
    for n in 1..5 {
        connector.put(&key(1), chunk(n)).await.unwrap();
        settle().await;
    }
    connector.put(&key(2), chunk(7)).await.unwrap();
    settle().await;
    let removing = tokio::spawn({
        let connector = connector.clone();
        async move { connector.remove(&key(2)).await }
    });
    settle().await;
    assert!(!removing.is_finished(), "a write that has begun would come after the remove");
    back.let_go();
    assert!(removing.await.unwrap().unwrap());
    connector.close().await.unwrap();
    assert_eq!((back.stored(&key(1)), back.stored(&key(2))), (Some(chunk(4)), None));
    assert_eq!(back.count(&format!("put {}", key(1))), 2, "the first, and the newest");
}

#[tokio::test(start_paused = true)]
async fn write_back_tries_a_failing_back_again_and_loses_nothing() {
    let Tiered { connector, back, .. } = open("again", WRITE_BACK).await;
    back.fail("put");
    for n in 0..10 {
        connector.put(&key(n), chunk(n as u8)).await.unwrap();
    }
    sleep(Duration::from_secs(3600)).await;
    let tries = back.count("put");
    assert!((40..1000).contains(&tries), "with pauses: {tries}");
    assert_eq!(connector.get(&key(3)).await.unwrap().unwrap(), chunk(3));
    back.heal();
    sleep(Duration::from_secs(60)).await;
    assert!((0..10).all(|n| back.stored(&key(n)) == Some(chunk(n as u8))));
}

#[tokio::test(start_paused = true)]
async fn a_full_buffer_makes_puts_wait_and_is_an_error_while_the_back_fails() {
    let Tiered { connector, back, .. } = open("full", "&mode=write_back&write_back_bytes=2500").await;
    assert_eq!(connector.capabilities().max_chunk_bytes, Some(2500));
    let e = connector.put(&key(1), sized(1, 2501)).await.unwrap_err();
    assert!(e.kind() == ErrorKind::TooLarge && e.to_string().contains("`write_back_bytes`"), "{e}");
    back.hold("put");
    connector.put(&key(1), chunk(1)).await.unwrap();
    connector.put(&key(2), chunk(2)).await.unwrap();
    let k = key(3);
    let mut third = Box::pin(connector.put(&k, chunk(3)));
    assert!(timeout(Duration::from_secs(10), &mut third).await.is_err(), "it waits");
    back.fail("put");
    back.let_go();
    let e = third.await.unwrap_err();
    assert!(e.kind() == ErrorKind::Unavailable && e.is_temporary() && e.to_string().contains("told to fail"), "{e}");
    back.heal();
    sleep(Duration::from_secs(60)).await;
    connector.put(&key(3), chunk(3)).await.unwrap();
    connector.close().await.unwrap();
    assert!((1..4).all(|n| back.stored(&key(n)) == Some(chunk(n as u8))));
}

#[tokio::test(start_paused = true)]
async fn a_close_that_cannot_write_the_rest_says_so_and_may_be_called_again() {
    let Tiered { connector, front, back } = open("unclosed", WRITE_BACK).await;
    back.fail("put");
    connector.put(&key(1), chunk(1)).await.unwrap();
    connector.put(&key(2), chunk(2)).await.unwrap();
    let e = connector.close().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    assert!(e.to_string().contains("2 chunks of 2000 bytes"), "{e}");
    assert_eq!((back.count("close"), front.count("close")), (0, 0));
    back.heal();
    connector.close().await.unwrap();
    assert!((1..3).all(|n| back.stored(&key(n)) == Some(chunk(n as u8))));
}

#[tokio::test(start_paused = true)]
async fn write_back_writes_the_rest_of_a_connector_that_was_dropped_unless_the_back_fails() {
    let Tiered { connector, back, .. } = open("gone", WRITE_BACK).await;
    back.hold("put");
    for n in 0..10 {
        connector.put(&key(n), chunk(n as u8)).await.unwrap();
    }
    drop(connector);
    settle().await;
    back.let_go();
    settle().await;
    assert!((0..10).all(|n| back.stored(&key(n)) == Some(chunk(n as u8))));

    let Tiered { connector, back, .. } = open("gone-failing", WRITE_BACK).await;
    back.fail("put");
    connector.put(&key(1), chunk(1)).await.unwrap();
    settle().await;
    drop(connector);
    settle().await;
    let tries = back.count("put");
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(back.count("put"), tries, "nobody tries for ever");
}

#[tokio::test]
async fn a_key_that_the_back_cannot_name_stays_in_front_and_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fs = format!("fs%3A%2F%2F{}", dir.path().display().to_string().replace('/', "%2F"));
    let url = format!("tiered://?front=memory%3A%2F%2F&back={fs}&mode=write_back");
    let connector = connectors::open(&url).await.unwrap();
    // Each `/` takes five bytes of a file's name: only the back itself knows that this is too long for it.
    let long: CacheKey = format!("{}m@1@0@ff@half", "a/".repeat(60)).parse().unwrap();
    connector.put(&long, chunk(1)).await.unwrap();
    connector.put(&key(2), chunk(2)).await.unwrap();
    assert_eq!(connector.get(&long).await.unwrap().unwrap(), chunk(1));
    assert!(connector.remove(&long).await.unwrap());
    connector.put(&long, chunk(1)).await.unwrap();
    connector.close().await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the other chunk was written");
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_the_back_never_takes_holds_up_nothing_and_leaves_no_older_one() {
    for (name, refusal) in [
        ("too-large", (|| Error::new(ErrorKind::TooLarge, "larger than the store")) as fn() -> Error),
        ("mismatch", || Error::new(ErrorKind::SizeMismatch, "not the size of a chunk")),
    ] {
        let Tiered { connector, front, back } = open(name, WRITE_BACK).await;
        back.store(&key(1), chunk(1));
        back.fail_with("put", refusal);
        connector.put(&key(1), chunk(2)).await.unwrap();
        settle().await;
        assert_eq!(back.stored(&key(1)), None, "the old chunk is not left");
        assert_eq!(connector.get(&key(1)).await.unwrap(), Some(chunk(2)));
        front.chunks.lock().unwrap().clear();
        assert_eq!(connector.get(&key(1)).await.unwrap(), None, "it was given up");
        connector.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_chunk_waits_until_the_back_has_removed_the_older_one() {
    let Tiered { connector, front, back } = open("unremoved", WRITE_BACK).await;
    back.store(&key(1), chunk(1));
    back.fail_with("put", || Error::new(ErrorKind::Unsupported, "no such chunks"));
    back.fail("remove");
    connector.put(&key(1), chunk(2)).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    front.chunks.lock().unwrap().clear();
    assert_eq!(connector.get(&key(1)).await.unwrap(), Some(chunk(2)), "from the buffer");
    back.heal();
    back.fail_with("put", || Error::new(ErrorKind::Unsupported, "no such chunks"));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(back.stored(&key(1)), None);
    connector.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_behind_is_tried_again() {
    let Tiered { connector, back, .. } = open("disk", WRITE_BACK).await;
    back.fail_with("put", || Error::io(std::io::ErrorKind::StorageFull.into(), "write"));
    connector.put(&key(1), chunk(1)).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    back.heal();
    connector.close().await.unwrap();
    assert_eq!(back.stored(&key(1)), Some(chunk(1)));
}

#[tokio::test(start_paused = true)]
async fn a_back_that_panics_is_tried_again() {
    let Tiered { connector, back, .. } = open("panics", WRITE_BACK).await;
    back.fail_with("put", || panic!("told to panic"));
    connector.put(&key(1), chunk(1)).await.unwrap();
    settle().await;
    back.heal();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(back.stored(&key(1)), Some(chunk(1)), "without another put or a close");
}
