//! Write-back.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use connectors::{CacheKey, Error, ErrorKind, ErrorStatus, PoolAllocator};
use futures::StreamExt;
use tokio::time::{sleep, timeout};

use super::{Tiered, WRITE_BACK, chunk, key, open, settle, sized};

#[tokio::test(start_paused = true)]
async fn a_put_ends_before_the_back_has_the_chunk_and_close_writes_the_rest() {
    let Tiered { connector, front, back } = open("flush", WRITE_BACK).await;
    back.hold("put");
    let pool = PoolAllocator::new(1 << 20);
    let mut memory = pool.allocate_now(&connectors::ChunkLayout::binary(1000)).unwrap();
    memory.copy_from_slice(&chunk(1));
    connector.put(&key(1), memory.freeze()).await.unwrap();
    assert_eq!(pool.stats().in_use, 0, "the caller's memory is free");
    for n in 2..20 {
        connector.put(&key(n), chunk(n as u8)).await.unwrap();
    }
    assert!(back.chunks.lock().unwrap().is_empty());
    front.chunks.lock().unwrap().clear();
    assert_eq!(connector.get(&key(1)).await.unwrap().unwrap(), chunk(1), "reads find it in the buffer");
    front.chunks.lock().unwrap().clear();
    assert!(connector.exists(&key(19)).await.unwrap());
    assert_eq!(connector.list("").count().await, 19);
    let closing = tokio::spawn({
        let connector = connector.clone();
        async move { connector.close().await }
    });
    settle().await;
    assert!(!closing.is_finished());
    back.release();
    closing.await.unwrap().unwrap();
    assert!((1..20).all(|n| back.stored(&key(n)) == Some(chunk(n as u8))));
    assert_eq!((back.count("close"), front.count("close")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_newest_chunk_of_a_key_is_written_last_and_a_remove_cancels_it() {
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
    assert!(!removing.is_finished(), "the remove waits for the running write");
    back.release();
    assert!(removing.await.unwrap().unwrap());
    connector.close().await.unwrap();
    assert_eq!((back.stored(&key(1)), back.stored(&key(2))), (Some(chunk(4)), None));
    assert_eq!(back.count(&format!("put {}", key(1))), 2, "the first chunk and the newest");
}

#[tokio::test(start_paused = true)]
async fn writes_to_a_failing_back_are_retried_until_all_chunks_are_there() {
    let Tiered { connector, back, .. } = open("again", WRITE_BACK).await;
    back.fail("put");
    for n in 0..10 {
        connector.put(&key(n), chunk(n as u8)).await.unwrap();
    }
    sleep(Duration::from_secs(3600)).await;
    let tries = back.count("put");
    assert!((40..1000).contains(&tries), "there are pauses: {tries}");
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
    back.release();
    let e = third.await.unwrap_err();
    assert!(
        e.kind() == ErrorKind::Unavailable && e.is_temporary() && e.to_string().contains("the test wants a failure"),
        "{e}"
    );
    back.heal();
    sleep(Duration::from_secs(60)).await;
    connector.put(&key(3), chunk(3)).await.unwrap();
    connector.close().await.unwrap();
    assert!((1..4).all(|n| back.stored(&key(n)) == Some(chunk(n as u8))));
}

#[tokio::test(start_paused = true)]
async fn a_put_into_a_full_buffer_fails_with_the_kind_of_the_backs_failure() {
    let Tiered { connector, back, .. } = open("full-kind", "&mode=write_back&write_back_bytes=1000").await;
    back.fail_with("put", || Error::new(ErrorKind::StoreFull, "no room"));
    connector.put(&key(1), chunk(1)).await.unwrap();
    let e = connector.put(&key(2), chunk(2)).await.unwrap_err();
    // The writers try again. A retry layer around this store must not.
    assert_eq!((e.kind(), e.status()), (ErrorKind::StoreFull, ErrorStatus::Persistent), "{e}");
    back.heal();
    sleep(Duration::from_secs(60)).await;
    connector.put(&key(2), chunk(2)).await.unwrap();
    connector.close().await.unwrap();
    assert!((1..3).all(|n| back.stored(&key(n)) == Some(chunk(n as u8))));
}

#[tokio::test(start_paused = true)]
async fn a_close_that_cannot_write_all_chunks_fails_and_may_be_called_again() {
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
async fn the_buffer_of_a_dropped_connector_is_written_as_soon_as_the_back_takes_it() {
    let Tiered { connector, back, .. } = open("gone", WRITE_BACK).await;
    back.hold("put");
    for n in 0..10 {
        connector.put(&key(n), chunk(n as u8)).await.unwrap();
    }
    drop(connector);
    settle().await;
    back.release();
    settle().await;
    assert!((0..10).all(|n| back.stored(&key(n)) == Some(chunk(n as u8))));

    let Tiered { connector, back, .. } = open("gone-failing", WRITE_BACK).await;
    back.fail("put");
    connector.put(&key(1), chunk(1)).await.unwrap();
    drop(connector);
    sleep(Duration::from_secs(3600)).await;
    back.heal();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(back.stored(&key(1)), Some(chunk(1)));
}

/// Every condition of a store that may pass.
#[tokio::test(start_paused = true)]
async fn a_condition_that_passes_loses_no_chunk_and_close_says_how_many_wait() {
    use ErrorKind::{Corrupt, Denied, Io, Other, PoolFull, ReadOnly, StoreFull, Throttled, Timeout, Unavailable};
    fn error<const KIND: usize>() -> Error {
        Error::new(KINDS[KIND], "not now")
    }
    const KINDS: [ErrorKind; 10] =
        [PoolFull, StoreFull, Throttled, ReadOnly, Denied, Timeout, Unavailable, Io, Corrupt, Other];
    let errors: [fn() -> Error; 10] = [
        error::<0>, error::<1>, error::<2>, error::<3>, error::<4>, error::<5>, error::<6>, error::<7>, error::<8>,
        error::<9>,
    ];
    for (kind, error) in KINDS.into_iter().zip(errors) {
        let Tiered { connector, back, .. } = open(&format!("passes-{kind}").replace('_', "-"), WRITE_BACK).await;
        back.fail_with("put", error);
        for n in 0..3 {
            connector.put(&key(n), chunk(n as u8)).await.unwrap();
        }
        sleep(Duration::from_secs(600)).await;
        let e = connector.close().await.unwrap_err();
        assert!(e.kind() == kind && e.to_string().contains("lacks 3 chunks of 3000 bytes"), "{e}");
        back.heal();
        connector.close().await.unwrap();
        assert!((0..3).all(|n| back.stored(&key(n)) == Some(chunk(n as u8))), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn close_says_once_how_many_chunks_the_back_refused_for_ever() {
    let Tiered { connector, back, .. } = open("refused", WRITE_BACK).await;
    back.fail_with("put", || Error::new(ErrorKind::TooLarge, "larger than the store"));
    for n in 0..4 {
        connector.put(&key(n), chunk(n as u8)).await.unwrap();
    }
    settle().await;
    back.heal();
    // A key that was put again or removed is not missing.
    connector.put(&key(0), chunk(9)).await.unwrap();
    connector.remove(&key(1)).await.unwrap();
    let e = connector.close().await.unwrap_err();
    assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::TooLarge, false));
    assert!(e.to_string().contains("refused 2 chunks of 2000 bytes"), "{e}");
    assert_eq!(back.count("close"), 1, "the stores are closed");
    connector.close().await.unwrap();
    assert_eq!(back.stored(&key(0)), Some(chunk(9)));
}

#[tokio::test]
async fn a_key_that_the_back_cannot_name_stays_in_the_front_and_blocks_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let fs = format!("fs%3A%2F%2F{}", dir.path().display().to_string().replace('/', "%2F"));
    let url = format!("tiered://?front=memory%3A%2F%2F&back={fs}&mode=write_back");
    let connector = connectors::open(&url).await.unwrap();
    // Each `/` takes five bytes of a file's name. The back's capabilities do not show that this key is too long.
    let long: CacheKey = format!("{}m@1@0@ff@half", "a/".repeat(60)).parse().unwrap();
    connector.put(&long, chunk(1)).await.unwrap();
    connector.put(&key(2), chunk(2)).await.unwrap();
    assert_eq!(connector.get(&long).await.unwrap().unwrap(), chunk(1));
    assert!(connector.remove(&long).await.unwrap());
    connector.put(&long, chunk(1)).await.unwrap();
    let e = connector.close().await.unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidKey && e.to_string().contains("refused 1 chunks"), "{e}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the back has the other chunk");
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_the_back_refuses_permanently_is_dropped_with_the_older_one() {
    for (name, refusal) in [
        ("too-large", (|| Error::new(ErrorKind::TooLarge, "larger than the store")) as fn() -> Error),
        ("mismatch", || Error::new(ErrorKind::SizeMismatch, "not the size of a chunk")),
    ] {
        let Tiered { connector, front, back } = open(name, WRITE_BACK).await;
        back.store(&key(1), chunk(1));
        back.fail_with("put", refusal);
        connector.put(&key(1), chunk(2)).await.unwrap();
        settle().await;
        assert_eq!(back.stored(&key(1)), None, "the old chunk is removed");
        assert_eq!(connector.get(&key(1)).await.unwrap(), Some(chunk(2)));
        front.chunks.lock().unwrap().clear();
        assert_eq!(connector.get(&key(1)).await.unwrap(), None, "the buffer dropped it");
        assert_eq!(connector.close().await.unwrap_err().kind(), refusal().kind());
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
    assert_eq!(connector.close().await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn a_write_to_a_full_disk_is_retried() {
    let Tiered { connector, back, .. } = open("disk", WRITE_BACK).await;
    back.fail_with("put", || Error::io(std::io::ErrorKind::StorageFull.into(), "write"));
    connector.put(&key(1), chunk(1)).await.unwrap();
    sleep(Duration::from_secs(60)).await;
    back.heal();
    connector.close().await.unwrap();
    assert_eq!(back.stored(&key(1)), Some(chunk(1)));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_panics_is_retried() {
    let Tiered { connector, back, .. } = open("panics", WRITE_BACK).await;
    back.fail_with("put", || panic!("the test wants a panic"));
    connector.put(&key(1), chunk(1)).await.unwrap();
    settle().await;
    back.heal();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(back.stored(&key(1)), Some(chunk(1)), "without another put or a close");
}

/// The log of a thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_runtime_that_ends_before_the_buffer_is_written_says_how_much_is_lost() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Tiered { connector, back, .. } = open("cut", WRITE_BACK).await;
            back.hold("put");
            connector.put(&key(0), chunk(0)).await.unwrap();
            drop(connector);
            tokio::task::yield_now().await;
        });
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("1 chunks of 1000 bytes") && log.contains("tiered://"), "{log}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn a_store_whose_runtime_has_ended_writes_on() {
    let first = runtime();
    let Tiered { connector, back, front } =
        first.block_on(open("moved", &format!("{WRITE_BACK}&write_back_bytes=4000")));
    drop(first);
    let all = async {
        for n in 0..20 {
            connector.put(&key(n), chunk(n as u8)).await.unwrap();
        }
        front.chunks.lock().unwrap().clear();
        assert_eq!(connector.get(&key(1)).await.unwrap(), Some(chunk(1)));
        connector.close().await.unwrap();
        assert!((0..20).all(|n| back.stored(&key(n)) == Some(chunk(n as u8))));
    };
    runtime().block_on(async { timeout(Duration::from_secs(60), all).await.expect("no put waits for ever") });
}

#[test]
fn writers_that_ended_with_their_runtime_are_replaced_when_the_buffer_is_full() {
    let first = runtime();
    let Tiered { connector, back, .. } = first.block_on(async {
        let opened = open("replaced", &format!("{WRITE_BACK}&write_back_bytes=4000")).await;
        opened.back.hold("put");
        for n in 0..4 {
            opened.connector.put(&key(n), chunk(n as u8)).await.unwrap();
        }
        opened
    });
    drop(first);
    back.release();
    let all = async {
        connector.put(&key(4), chunk(4)).await.unwrap();
        connector.close().await.unwrap();
        assert!((0..5).all(|n| back.stored(&key(n)) == Some(chunk(n as u8))));
    };
    runtime().block_on(async { timeout(Duration::from_secs(60), all).await.expect("the put finds a writer") });
}
