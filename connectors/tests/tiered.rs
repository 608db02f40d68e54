//! `tiered://`: reads that are shared, and two stores that never disagree for long.

mod controlled;

use std::sync::Arc;
use std::time::Duration;

use connectors::{CacheKey, Connector, ErrorKind, LMCacheEngineConfig, MemoryObj, MemoryObjMut, PoolAllocator};
use controlled::{Control, control};
use futures::StreamExt;
use futures::future::poll_immediate;
use tokio::time::{sleep, timeout};

fn key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().unwrap()
}

fn chunk(seed: u8) -> MemoryObj {
    sized(seed, 1000)
}

fn sized(seed: u8, len: usize) -> MemoryObj {
    MemoryObj::from((0..len).map(|i| (i % 251) as u8 ^ seed).collect::<Vec<_>>())
}

struct Tiered {
    connector: Connector,
    front: Arc<Control>,
    back: Arc<Control>,
}

async fn open(name: &str, options: &str) -> Tiered {
    let url = format!("tiered://?front=controlled%3A%2F%2F{name}-front&back=controlled%3A%2F%2F{name}-back{options}");
    let connector = connectors::open(&url).await.unwrap();
    Tiered { connector, front: control(&format!("{name}-front")), back: control(&format!("{name}-back")) }
}

const WRITE_BACK: &str = "&mode=write_back";

/// Lets everything run that can run now.
async fn settle() {
    // Paused time moves on only when nothing is left to do.
    sleep(Duration::from_millis(1)).await;
}

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
    back.let_go();
    for call in calls {
        assert_eq!(call.await.unwrap(), chunk(1));
    }
    assert_eq!((back.count("get"), front.count("put")), (1, 1));
    assert_eq!(connector.get(&key(1)).await.unwrap().unwrap(), chunk(1));
    assert_eq!(back.count("get"), 1, "from now on the front has it");
}

#[tokio::test(start_paused = true)]
async fn a_read_goes_on_for_those_who_wait_when_the_first_caller_is_gone_and_ends_with_the_last() {
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
    back.let_go();
    assert_eq!(second.await.unwrap().unwrap(), chunk(1));
    assert_eq!(back.count("get"), 1);

    let k = key(2);
    back.hold("get");
    let mut only = Box::pin(connector.get(&k));
    assert!(poll_immediate(&mut only).await.is_none());
    settle().await;
    drop(only);
    settle().await;
    // The read is given up: it holds up neither the close nor the next caller, who begins anew.
    back.store(&k, chunk(2));
    back.let_go();
    assert_eq!(connector.get(&k).await.unwrap().unwrap(), chunk(2));
    assert_eq!(back.count(&format!("get {k}")), 2);
    connector.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_close_does_not_wait_for_a_read_that_nobody_waits_for() {
    let Tiered { connector, back, .. } = open("nobody", "").await;
    back.hold("get");
    let k = key(1);
    let mut only = Box::pin(connector.get(&k));
    assert!(poll_immediate(&mut only).await.is_none());
    settle().await;
    drop(only);
    timeout(Duration::from_secs(60), connector.close()).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_back_goes_to_everyone_who_waits_and_is_no_miss() {
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
    back.let_go();
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

    let mut requests = keys.clone().map(|key| (key, MemoryObjMut::zeroed(1000)));
    let lens = connector.batched_get_into(&mut requests).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(lens, [Some(1000), Some(1000), Some(1000), None, Some(1000), Some(1000)]);
    assert_eq!(requests[4].1[..], chunk(1)[..]);
    assert_eq!(connector.batched_contains(&keys).await.unwrap(), 3);
}

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
    assert!(e.kind() == ErrorKind::OutOfMemory && e.to_string().contains("`write_back_bytes`"), "{e}");
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
async fn real_stores_stand_in_front_and_behind_and_the_list_has_no_key_twice() {
    let dir = tempfile::tempdir().unwrap();
    let fs = format!("fs%3A%2F%2F{}", dir.path().join("kv").display().to_string().replace('/', "%2F"));
    let query = format!("front=memory%3A%2F%2F%3Fcapacity%3D3000&back={fs}");
    let config = LMCacheEngineConfig::new()
        .with_extra_config("remote_storage_plugin.tiered.one.front", "memory://?capacity=3000")
        .with_extra_config("remote_storage_plugin.tiered.one.back", format!("fs://{}", dir.path().join("kv").display()))
        .with_extra_config("remote_storage_plugin.tiered.one.mode", "write_back");
    for url in [
        format!("tiered://?{query}"),
        format!("tiered:///?{query}"),
        format!("tiered://h:1/?{query}&mode=write_back&write_back_bytes=100000"),
        format!("external://h:0/kvconn.tiered/?connector_name=TieredConnector&{query}"),
        "plugin://tiered.one".to_owned(),
    ] {
        let connector = connectors::builder(&url).config(config.clone()).open().await.unwrap();
        for n in 0..10 {
            connector.put(&key(n), chunk(n as u8)).await.unwrap();
        }
        let mut listed: Vec<CacheKey> = connector.list("").map(Result::unwrap).collect().await;
        listed.sort();
        assert_eq!(listed, (0..10).map(key).collect::<Vec<_>>(), "{url}");
        for n in (0..10).rev() {
            assert_eq!(connector.get(&key(n)).await.unwrap().unwrap(), chunk(n as u8), "{url}");
        }
        let gone = connector.batched_remove(&(0..11).map(key).collect::<Vec<_>>()).await;
        assert_eq!(gone.into_iter().filter(|g| *g.as_ref().unwrap()).count(), 10);
        assert_eq!(connector.get(&key(0)).await.unwrap(), None);
        connector.close().await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("kv")).unwrap().count(), 0);
    }
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

#[tokio::test]
async fn urls_that_are_missing_or_wrong_say_which_and_no_password() {
    for (url, says) in [
        ("tiered://", "does not name its `front`"),
        ("tiered://?front=memory%3A%2F%2F", "does not name its `back`"),
        ("tiered://?front=x&back=memory%3A%2F%2F", "option `front`"),
        ("tiered://?front=memory%3A%2F%2F&back=redis%3A%2F%2Fu%3Ahunter2%40h%3A99999", "option `back`"),
        ("tiered://?front=memory%3A%2F%2F&back=memory%3A%2F%2F&mode=write_around", "write_through"),
        ("tiered://?frond=memory%3A%2F%2F", "did you mean `front`?"),
    ] {
        let e = connectors::open(url).await.unwrap_err();
        assert!(e.to_string().contains(says) && !e.to_string().contains("hunter2"), "{url}: {e}");
    }
}
