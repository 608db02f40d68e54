//! Puts, removes and reads of one key that overlap.

use std::time::Duration;

use futures::future::poll_immediate;
use tokio::time::timeout;

use super::{Tiered, WRITE_BACK, chunk, key, open, settle};

#[tokio::test(start_paused = true)]
async fn a_put_that_is_dropped_leaves_the_old_chunk_in_both() {
    let Tiered { connector, back, .. } = open("dropped", "").await;
    connector.put(&key(1), chunk(1)).await.unwrap();
    back.hold("put");
    let k = key(1);
    let mut put = Box::pin(connector.put(&k, chunk(2)));
    assert!(poll_immediate(&mut put).await.is_none());
    drop(put);
    back.let_go();
    assert_eq!(connector.get(&k).await.unwrap().unwrap(), chunk(1));
    connector.put(&k, chunk(3)).await.unwrap();
    assert_eq!(connector.get(&k).await.unwrap().unwrap(), chunk(3));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_began_before_a_put_or_a_remove_leaves_nothing_old_in_the_front() {
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
            // The back has answered with the old chunk, which is on its way.
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
            back.let_go();
            assert_eq!(reader.await.unwrap(), Some(chunk(1)), "asked before the change");
            let now = (!removes).then(|| chunk(2));
            assert_eq!(later.await.unwrap(), now, "asked after it");
            assert_eq!(front.stored(&key(1)), now);
            assert_eq!(connector.get(&key(1)).await.unwrap(), now);
            connector.remove(&key(1)).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_waits_for_a_fill_that_has_begun_and_lies_over_it() {
    let Tiered { connector, front, back } = open("filling", "").await;
    back.store(&key(1), chunk(1));
    front.hold("put");
    let reader = tokio::spawn({
        let connector = connector.clone();
        async move { connector.get(&key(1)).await.unwrap() }
    });
    settle().await;
    assert_eq!(front.count("put"), 1, "the old chunk is being filled in");
    let writer = tokio::spawn({
        let connector = connector.clone();
        async move { connector.put(&key(1), chunk(2)).await }
    });
    settle().await;
    assert!(!writer.is_finished());
    front.let_go();
    writer.await.unwrap().unwrap();
    reader.await.unwrap();
    assert_eq!((front.stored(&key(1)), back.stored(&key(1))), (Some(chunk(2)), Some(chunk(2))));
}

#[tokio::test(start_paused = true)]
async fn puts_of_one_key_at_once_leave_one_chunk_in_both() {
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

/// The front's fill of the put and the back's answer of the read come at the same moment.
#[tokio::test(start_paused = true)]
async fn a_read_that_began_during_a_put_does_not_fill_when_the_put_unlocks_its_key() {
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
        front.let_go();
        front.hold("put");
        settle().await;
        front.let_go();
        back.let_go();
        put.await.unwrap().unwrap();
        reader.await.unwrap();
        settle().await;
        assert_eq!(back.stored(&key(1)), Some(chunk(2)));
        assert_eq!(connector.get(&key(1)).await.unwrap(), Some(chunk(2)), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_began_during_a_batch_does_not_fill_while_the_batch_fills_its_other_keys() {
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
    back.let_go();
    back.hold("get");
    settle().await;
    assert_eq!(front.stored(&key(1)), Some(chunk(2)));
    back.let_go();
    settle().await;
    front.let_go();
    assert!(put.await.unwrap().iter().all(Result::is_ok));
    reader.await.unwrap();
    assert_eq!(connector.get(&key(1)).await.unwrap(), Some(chunk(2)));
}

#[tokio::test(start_paused = true)]
async fn a_put_that_is_dropped_and_comes_late_is_not_hidden_by_an_old_chunk_in_front() {
    let Tiered { connector, front, back } = open("late", "").await;
    connector.put(&key(1), chunk(1)).await.unwrap();
    back.hold("put");
    let k = key(1);
    let mut put = Box::pin(connector.put(&k, chunk(2)));
    assert!(poll_immediate(&mut put).await.is_none());
    drop(put);
    assert_eq!(connector.get(&k).await.unwrap(), Some(chunk(1)));
    // What the store had begun ends now.
    back.store(&k, chunk(2));
    assert_eq!(connector.get(&k).await.unwrap(), Some(chunk(2)));
    assert_eq!(front.stored(&k), None);
    back.let_go();
    connector.put(&k, chunk(3)).await.unwrap();
    front.chunks.lock().unwrap().clear();
    assert_eq!(connector.get(&k).await.unwrap(), Some(chunk(3)));
    assert_eq!(front.stored(&k), Some(chunk(3)), "reads fill the front again");
}
