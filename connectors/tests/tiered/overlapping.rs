//! Puts, removes and reads of one key that overlap.

use std::time::Duration;

use futures::future::poll_immediate;
use tokio::time::timeout;

use super::{Tiered, WRITE_BACK, chunk, key, open, settle};

#[tokio::test(start_paused = true)]
async fn a_dropped_put_leaves_the_old_chunk_in_both() {
    let Tiered { connector, back, .. } = open("dropped", "").await;
    connector.put(&key(1), chunk(1)).await.unwrap();
    back.hold("put");
    let k = key(1);
    let mut put = Box::pin(connector.put(&k, chunk(2)));
    assert!(poll_immediate(&mut put).await.is_none());
    drop(put);
    back.release();
    assert_eq!(connector.get(&k).await.unwrap().unwrap(), chunk(1));
    connector.put(&k, chunk(3)).await.unwrap();
    assert_eq!(connector.get(&k).await.unwrap().unwrap(), chunk(3));
}

#[tokio::test(start_paused = true)]
async fn a_read_from_before_a_put_or_a_remove_leaves_no_old_chunk_in_the_front() {
    for (name, options) in [("stale", ""), ("stale-wb", WRITE_BACK)] {
        let Tiered { connector, front, back } = open(name, options).await;
        for removes in [false, true] {
            back.store(&key(1), chunk(1));
            back.hold("get");
            let reader = tokio::spawn({
                let connector = connector.clone();
                async move { connector.get(&key(1)).await.unwrap() }
            });
            settle().await;
            // The read has got the old chunk from the back, but has not ended.
            if removes {
                connector.remove(&key(1)).await.unwrap();
            } else {
                connector.put(&key(1), chunk(2)).await.unwrap();
            }
            let later = tokio::spawn({
                let connector = connector.clone();
                async move { connector.get(&key(1)).await.unwrap() }
            });
            settle().await;
            back.release();
            assert_eq!(reader.await.unwrap(), Some(chunk(1)), "it started before the change");
            let now = (!removes).then(|| chunk(2));
            assert_eq!(later.await.unwrap(), now, "it started after the change");
            assert_eq!(front.stored(&key(1)), now);
            assert_eq!(connector.get(&key(1)).await.unwrap(), now);
            connector.remove(&key(1)).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_waits_for_a_running_fill_and_replaces_its_chunk() {
    let Tiered { connector, front, back } = open("filling", "").await;
    back.store(&key(1), chunk(1));
    front.hold("put");
    let reader = tokio::spawn({
        let connector = connector.clone();
        async move { connector.get(&key(1)).await.unwrap() }
    });
    settle().await;
    assert_eq!(front.count("put"), 1, "the fill with the old chunk is running");
    let writer = tokio::spawn({
        let connector = connector.clone();
        async move { connector.put(&key(1), chunk(2)).await }
    });
    settle().await;
    assert!(!writer.is_finished());
    front.release();
    writer.await.unwrap().unwrap();
    reader.await.unwrap();
    assert_eq!((front.stored(&key(1)), back.stored(&key(1))), (Some(chunk(2)), Some(chunk(2))));
}

#[tokio::test(start_paused = true)]
async fn concurrent_puts_of_one_key_leave_the_same_chunk_in_both() {
    let Tiered { connector, front, back } = open("both", "").await;
    let puts: Vec<_> = (0..20)
        .map(|n| {
            let connector = connector.clone();
            tokio::spawn(async move {
                if n % 3 == 0 {
                    let items = [(key(1), chunk(n)), (key(2), chunk(n)), (key(1), chunk(n + 100))];
                    return connector.batched_put(&items).await.into_iter().collect();
                }
                connector.put(&key(n.into()), chunk(n)).await?;
                connector.put(&key(1), chunk(n)).await
            })
        })
        .collect();
    for put in puts {
        timeout(Duration::from_secs(60), put).await.expect("no deadlock").unwrap().unwrap();
    }
    for n in 1..3 {
        let far = back.stored(&key(n));
        assert!(far.is_some() && front.stored(&key(n)).is_none_or(|near| Some(near) == far));
    }
}

/// The put's fill of the front and the read's answer from the back end at the same time.
#[tokio::test(start_paused = true)]
async fn a_read_from_before_the_end_of_a_put_does_not_fill_the_front_after_it() {
    for (name, options) in [("unlocks", ""), ("unlocks-wb", WRITE_BACK)] {
        let Tiered { connector, front, back } = open(name, options).await;
        back.store(&key(1), chunk(1));
        back.hold("get");
        front.hold("remove");
        let put = tokio::spawn({
            let connector = connector.clone();
            async move { connector.put(&key(1), chunk(2)).await }
        });
        settle().await;
        let reader = tokio::spawn({
            let connector = connector.clone();
            async move { connector.get(&key(1)).await.unwrap() }
        });
        settle().await;
        front.release();
        front.hold("put");
        settle().await;
        front.release();
        back.release();
        put.await.unwrap().unwrap();
        reader.await.unwrap();
        settle().await;
        assert_eq!(back.stored(&key(1)), Some(chunk(2)));
        assert_eq!(connector.get(&key(1)).await.unwrap(), Some(chunk(2)), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_from_before_the_end_of_a_batch_does_not_fill_the_front_while_the_batch_does() {
    let Tiered { connector, front, back } = open("slow-batch", "").await;
    back.store(&key(1), chunk(1));
    back.hold("put");
    let put = tokio::spawn({
        let connector = connector.clone();
        async move { connector.batched_put(&[(key(1), chunk(2)), (key(2), chunk(2))]).await }
    });
    settle().await;
    back.hold("get");
    let reader = tokio::spawn({
        let connector = connector.clone();
        async move { connector.get(&key(1)).await.unwrap() }
    });
    settle().await;
    front.hold(&format!("put {}", key(2)));
    back.release();
    back.hold("get");
    settle().await;
    assert_eq!(front.stored(&key(1)), Some(chunk(2)));
    back.release();
    settle().await;
    front.release();
    assert!(put.await.unwrap().iter().all(Result::is_ok));
    reader.await.unwrap();
    assert_eq!(connector.get(&key(1)).await.unwrap(), Some(chunk(2)));
}

#[tokio::test(start_paused = true)]
async fn an_old_chunk_in_the_front_does_not_hide_a_dropped_put_that_ends_late() {
    let Tiered { connector, front, back } = open("late", "").await;
    connector.put(&key(1), chunk(1)).await.unwrap();
    back.hold("put");
    let k = key(1);
    let mut put = Box::pin(connector.put(&k, chunk(2)));
    assert!(poll_immediate(&mut put).await.is_none());
    drop(put);
    assert_eq!(connector.get(&k).await.unwrap(), Some(chunk(1)));
    // Now the back ends the dropped put.
    back.store(&k, chunk(2));
    assert_eq!(connector.get(&k).await.unwrap(), Some(chunk(2)));
    assert_eq!(front.stored(&k), None);
    back.release();
    connector.put(&k, chunk(3)).await.unwrap();
    front.chunks.lock().unwrap().clear();
    assert_eq!(connector.get(&k).await.unwrap(), Some(chunk(3)));
    assert_eq!(front.stored(&k), Some(chunk(3)), "reads fill the front again");
}
