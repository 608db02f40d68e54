use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use connector_core::Capabilities;

use super::*;

const INTERVAL: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn a_lost_store_is_left_alone_until_the_interval_has_passed() {
    let store = Scripted::new([LOST; 3]);
    let connector = over(options!(breaker_failures: 2, min_reconnect_interval: 10.0), &store).await;
    for _ in 0..2 {
        assert_eq!(connector.get(&key()).await.unwrap_err().message(), "as scripted");
    }
    let e = connector.get(&key()).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Unavailable && e.to_string().contains("the store is lost: as scripted"), "{e}");
    assert_eq!(store.calls(), 2);
    tokio::time::advance(INTERVAL).await;
    // The third call goes through, fails, and the next interval begins.
    assert_eq!(connector.get(&key()).await.unwrap_err().message(), "as scripted");
    assert!(connector.ping().await.is_err() && store.calls() == 3);
    tokio::time::advance(INTERVAL).await;
    assert!(connector.get(&key()).await.is_ok() && connector.get(&key()).await.is_ok());
    assert_eq!(store.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_throttles_is_not_lost() {
    let throttled = Step::Throttle(SECOND);
    let store = Scripted::new([LOST, throttled, LOST, throttled, throttled, throttled]);
    let connector = over(options!(breaker_failures: 2, min_reconnect_interval: 10.0), &store).await;
    for call in 1..=6 {
        assert_eq!(connector.get(&key()).await.unwrap_err().message(), "as scripted");
        assert_eq!(store.calls(), call);
    }
    assert!(connector.get(&key()).await.is_ok());
}

#[tokio::test]
async fn a_ping_that_is_throttled_finds_a_lost_store() {
    let pings = Arc::new(AtomicUsize::new(0));
    let store = Pinged(Scripted::new([LOST, Step::Throttle(SECOND)]), pings.clone());
    let connector = over(options!(breaker_failures: 1, min_reconnect_interval: 0.02), &store).await;
    assert!(connector.get(&key()).await.is_err());
    tokio::time::timeout(SECOND * 10, async {
        while connector.get(&key()).await.is_err() {
            tokio::time::sleep(SECOND / 100).await;
        }
    })
    .await
    .expect("the breaker closes");
    assert_eq!(pings.load(Ordering::SeqCst), 1);
}

/// A store that `ping` reaches.
#[derive(Clone)]
struct Pinged(Scripted, Arc<AtomicUsize>);

impl RemoteConnector for Pinged {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.0.exists(key).await
    }
    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        self.0.get(key).await
    }
    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.0.put(key, chunk).await
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_ping()
    }
    async fn ping(&self) -> Result<()> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.ping().await
    }
}

/// The task that pings runs on kvconn's own runtime, whose clock a test cannot pause.
#[tokio::test]
async fn kvconn_pings_a_lost_store_so_that_no_call_waits_for_it() {
    let pings = Arc::new(AtomicUsize::new(0));
    // The call that finds the store lost, and two pings: the second takes its time, and finds the store.
    let store = Scripted::new([LOST, LOST, Step::Wait(SECOND)]);
    let store = Pinged(store, pings.clone());
    let connector = over(options!(breaker_failures: 1, min_reconnect_interval: 0.02), &store).await;
    assert_eq!(connector.get(&key()).await.unwrap_err().message(), "as scripted");
    let mut refused = 0;
    while let Err(e) = connector.get(&key()).await {
        assert!(e.message().starts_with("the store is lost: as scripted; "), "{e}");
        refused += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(refused > 0);
    // The calls that were refused did not reach the store.
    let (pings, calls) = (pings.load(Ordering::SeqCst), store.0.calls());
    assert!(pings >= 2 && calls == 2 + pings, "{pings} pings, {calls} calls");
}

#[tokio::test]
async fn the_pings_end_with_the_store() {
    let pings = Arc::new(AtomicUsize::new(0));
    // The ping does not end in the time of this test.
    for closes in [true, false] {
        let before = pings.load(Ordering::SeqCst);
        let store = Pinged(Scripted::new([LOST, Step::Wait(3600 * SECOND)]), pings.clone());
        let connector = over(options!(breaker_failures: 1, min_reconnect_interval: 0.01), &store).await;
        connector.get(&key()).await.unwrap_err();
        while pings.load(Ordering::SeqCst) == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if closes {
            connector.close().await.unwrap();
            // The call of the task is gone, and the connector is left.
            while store.0.running() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        drop(connector);
        while Arc::strong_count(&pings) > 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn while_one_call_finds_out_the_others_are_refused() {
    let store = Scripted::new([LOST]);
    let connector = over(options!(breaker_failures: 1, min_reconnect_interval: 10.0), &store).await;
    assert!(connector.get(&key()).await.is_err());
    tokio::time::advance(INTERVAL).await;
    store.then([Step::Wait(SECOND)]);
    let all = keys(5);
    let answers = join_all(all.iter().map(|key| connector.get(key))).await;
    assert_eq!((answers.iter().filter(|a| a.is_ok()).count(), store.calls()), (1, 2));
    assert!(connector.get(&key()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_before_it_finds_out_lets_the_next_one_try() {
    let store = Scripted::new([LOST, Step::Wait(SECOND * 3600)]);
    let connector = over(options!(breaker_failures: 1, min_reconnect_interval: 10.0), &store).await;
    assert!(connector.get(&key()).await.is_err());
    tokio::time::advance(INTERVAL).await;
    assert!(tokio::time::timeout(SECOND, connector.get(&key())).await.is_err());
    assert!(connector.get(&key()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_far_ahead_ends_the_interval_and_breaks_nothing() {
    let store = Scripted::new([LOST, LOST]);
    let connector = over(options!(breaker_failures: 1, min_reconnect_interval: 10.0), &store).await;
    for _ in 0..2 {
        assert_eq!(connector.get(&key()).await.unwrap_err().message(), "as scripted");
        // A machine that slept for a year.
        tokio::time::advance(SECOND * 86_400 * 365).await;
    }
    assert!(connector.get(&key()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_interval_longer_than_any_clock_is_an_interval() {
    let store = Scripted::new([LOST]);
    let connector = over(options!(breaker_failures: 1, min_reconnect_interval: 1e19), &store).await;
    assert!(connector.get(&key()).await.is_err());
    tokio::time::advance(SECOND * 86_400 * 365).await;
    assert!(connector.get(&key()).await.is_err());
    assert_eq!(store.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn errors_of_a_store_that_answers_and_misses_do_not_count() {
    use ErrorKind::{Corrupt, Denied, ReadOnly, StoreFull, Throttled};
    let store = Scripted::new([LOST, Step::Wait(SECOND), LOST]);
    store.then([Corrupt, Denied, ReadOnly, StoreFull, Throttled].iter().flat_map(|k| [Step::Fail(*k, false), LOST]));
    let connector = over(options!(breaker_failures: 2, min_reconnect_interval: 10.0), &store).await;
    for _ in 0..14 {
        let _ = connector.get(&key()).await;
    }
    assert_eq!(store.calls(), 14);
}

#[tokio::test(start_paused = true)]
async fn what_never_reached_the_store_says_nothing_of_it() {
    let refused = Step::Fail(ErrorKind::InvalidKey, false);
    let store = Scripted::new([LOST, refused, LOST]);
    let connector = over(options!(breaker_failures: 2, min_reconnect_interval: 10.0), &store).await;
    for _ in 0..3 {
        assert!(connector.get(&key()).await.is_err() && connector.batched_get(&[]).await.is_empty());
    }
    assert!(connector.get(&key()).await.unwrap_err().to_string().contains("the store is lost"));
    tokio::time::advance(INTERVAL).await;
    // As the probe it does not show the store's state either, so the next call is the probe.
    store.then([refused]);
    assert_eq!(connector.get(&key()).await.unwrap_err().kind(), ErrorKind::InvalidKey);
    store.then([LOST]);
    assert_eq!(connector.get(&key()).await.unwrap_err().message(), "as scripted");
    assert!(connector.get(&key()).await.unwrap_err().to_string().contains("the store is lost"));
}

/// Waits for memory of a pool that other chunks fill, or for the store.
#[derive(Clone)]
struct WaitsFor(bool);

impl ChunkAllocator for WaitsFor {
    fn allocate<'a>(&'a self, _: &'a ChunkLayout) -> BoxFuture<'a, Result<MemoryObjMut>> {
        Box::pin(std::future::pending())
    }
    fn allocate_many<'a>(&'a self, _: &'a [ChunkLayout]) -> BoxFuture<'a, Result<Vec<MemoryObjMut>>> {
        Box::pin(std::future::pending())
    }
}

impl RemoteConnector for WaitsFor {
    async fn exists(&self, _: &CacheKey) -> Result<bool> {
        Ok(true)
    }
    async fn get(&self, _: &CacheKey) -> Result<Option<MemoryObj>> {
        let backend = LocalCpuBackend::with_allocator(self.clone());
        match self.0 {
            true => backend.allocate(&ChunkLayout::binary(9)).await.map(|memory| Some(memory.freeze())),
            false => std::future::pending().await,
        }
    }
    async fn put(&self, _: &CacheKey, _: MemoryObj) -> Result<()> {
        let backend = LocalCpuBackend::with_allocator(self.clone());
        match backend.reserve(&[ChunkLayout::binary(9), ChunkLayout::binary(9)]).await.remove(0) {
            Ok(_) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_while_a_call_waits_for_local_memory_says_nothing_of_the_store() {
    for (memory, opens) in [(true, false), (false, true)] {
        let layers = options!(timeout_ms: 100, breaker_failures: 2, min_reconnect_interval: 10.0);
        let connector = over(layers, &WaitsFor(memory)).await;
        for _ in 0..5 {
            let e = connector.get(&key()).await.unwrap_err();
            assert!(e.is_unsent() == memory && (memory || e.status() != ErrorStatus::Permanent), "{e}");
            if memory {
                let e = connector.put(&key(), MemoryObj::from(vec![1])).await.unwrap_err();
                assert!(e.kind() == ErrorKind::Timeout && e.is_unsent(), "{e}");
            }
        }
        assert_eq!(connector.exists(&key()).await.is_err(), opens, "memory: {memory}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_in_front_does_not_retry_against_an_open_breaker() {
    let store = Scripted::new([LOST]);
    let inner = over(options!(breaker_failures: 1, min_reconnect_interval: 10.0), &store).await;
    assert!(inner.get(&key()).await.is_err());
    let begun = Instant::now();
    let e = over(options!(retries: 5), &inner).await.get(&key()).await.unwrap_err();
    assert_eq!((e.status(), store.calls(), begun.elapsed()), (ErrorStatus::Persistent, 1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_lost_only_if_all_of_it_is() {
    let store = Scripted::new([LOST, Step::Wait(SECOND)]);
    let connector = over(options!(breaker_failures: 1, min_reconnect_interval: 10.0), &store).await;
    assert!(connector.batched_get(&keys(2)).await[0].is_err());
    store.then([LOST, LOST]);
    assert!(connector.batched_get(&keys(2)).await.iter().all(Result::is_err));
    let refused = connector.batched_get(&keys(3)).await;
    assert_eq!((refused.len(), store.calls()), (3, 4));
    assert!(refused.iter().all(|a| a.as_ref().is_err_and(|e| e.to_string().contains("the store is lost"))));
}
