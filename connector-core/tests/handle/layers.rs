//! Each layer over a store that fails, on tokio's paused clock.

use std::time::Duration;

use crate::layered::over;
use crate::scripted::{CHUNK, LOST, Scripted, Step};
use connector_core::{
    BoxStream, CacheKey, ChunkAllocator, ChunkLayout, Connector, ConnectorAdapter, ConnectorContext, ErrorKind,
    ErrorStatus, LMCacheEngineConfig, LocalCpuBackend, MemoryObj, MemoryObjMut, RemoteConnector, RemoteUrl, Result,
};
use futures::StreamExt;
use futures::future::{BoxFuture, join_all};
use tokio::time::Instant;

fn key() -> CacheKey {
    "m@1@0@ff@half".parse().unwrap()
}

fn keys(n: usize) -> Vec<CacheKey> {
    (1..=n).map(|i| format!("m@1@0@{i:x}@half").parse().unwrap()).collect()
}

const SECOND: Duration = Duration::from_secs(1);

mod timeout {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_call_is_given_up_in_time_and_the_next_one_works() {
        let store = Scripted::new([Step::Wait(5 * SECOND)]);
        let connector = over(options!(timeout_ms: 1000), &store).await;
        let begun = Instant::now();
        let e = connector.get(&key()).await.unwrap_err();
        assert_eq!((e.kind(), e.is_temporary(), begun.elapsed()), (ErrorKind::Timeout, true, SECOND));
        assert!(e.to_string().contains("no answer within 1s"), "{e}");
        assert_eq!(connector.get(&key()).await.unwrap().as_deref(), Some(CHUNK));
    }

    /// Never answers.
    #[derive(Clone)]
    struct Hangs;

    impl RemoteConnector for Hangs {
        async fn exists(&self, _: &CacheKey) -> Result<bool> {
            std::future::pending().await
        }
        async fn get(&self, _: &CacheKey) -> Result<Option<MemoryObj>> {
            std::future::pending().await
        }
        async fn put(&self, _: &CacheKey, _: MemoryObj) -> Result<()> {
            std::future::pending().await
        }
        async fn remove(&self, _: &CacheKey) -> Result<bool> {
            std::future::pending().await
        }
        async fn ping(&self) -> Result<()> {
            std::future::pending().await
        }
        fn list<'a>(&'a self, _: &'a str) -> BoxStream<'a, Result<CacheKey>> {
            futures::stream::pending().boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_operation_ends_in_its_time() {
        let connector = over(options!(timeout_ms: 1000, batch_timeout_ms: 3000), &Hangs).await;
        let (one, batch, chunk) = (SECOND, 3 * SECOND, MemoryObj::from(vec![1]));
        let (all, k) = (keys(20), key());
        let mut memory = MemoryObjMut::zeroed(8);
        let mut requests: Vec<_> = all.iter().map(|key| (key.clone(), MemoryObjMut::zeroed(8))).collect();
        let items: Vec<_> = all.iter().map(|key| (key.clone(), chunk.clone())).collect();
        let mut ended: Vec<(ErrorKind, Duration, Duration)> = Vec::new();
        macro_rules! ends {
            ($limit:expr, $call:expr) => {{
                let begun = Instant::now();
                let e = $call;
                ended.push((e.kind(), begun.elapsed(), $limit));
            }};
        }
        ends!(one, connector.exists(&k).await.unwrap_err());
        ends!(one, connector.get(&k).await.unwrap_err());
        ends!(one, connector.put(&k, chunk).await.unwrap_err());
        ends!(one, connector.get_into(&k, &mut memory).await.unwrap_err());
        ends!(one, connector.remove(&k).await.unwrap_err());
        ends!(one, connector.ping().await.unwrap_err());
        ends!(one, connector.list("").next().await.unwrap().unwrap_err());
        ends!(batch, connector.batched_exists(&all).await.pop().unwrap().unwrap_err());
        ends!(batch, connector.batched_contains(&all).await.unwrap_err());
        ends!(batch, connector.batched_get(&all).await.pop().unwrap().unwrap_err());
        ends!(batch, connector.batched_get_into(&mut requests).await.pop().unwrap().unwrap_err());
        ends!(batch, connector.batched_put(&items).await.pop().unwrap().unwrap_err());
        ends!(batch, connector.batched_remove(&all).await.pop().unwrap().unwrap_err());
        for (n, (kind, took, limit)) in ended.iter().enumerate() {
            assert_eq!((*kind, took), (ErrorKind::Timeout, limit), "call {n}");
        }
        assert_eq!(ended.len(), connector_core::connector::Operation::ALL.len() - 1, "all but `close`");
        connector.close().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_after_the_timeout_reaches_no_caller() {
        let store = Scripted::new([Step::Keep(5 * SECOND)]);
        let connector = over(options!(timeout_ms: 1000), &store).await;
        let mut memory = MemoryObjMut::zeroed(8);
        assert_eq!(connector.get_into(&key(), &mut memory).await.unwrap_err().kind(), ErrorKind::Timeout);
        // The I/O still has the memory, so it must not look like a chunk.
        assert!(memory.is_taken());
        assert_eq!(connector.get_into(&key(), &mut memory).await.unwrap_err().kind(), ErrorKind::InvalidInput);
        let mut memory = MemoryObjMut::zeroed(8);
        assert_eq!(connector.get_into(&key(), &mut memory).await.unwrap(), Some(CHUNK.len()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_has_a_time_of_its_own_and_answers_every_key() {
        let store = Scripted::new([Step::Wait(2 * SECOND), Step::Wait(9 * SECOND)]);
        let connector = over(options!(timeout_ms: 1000, batch_timeout_ms: 3000), &store).await;
        assert!(connector.batched_get(&keys(1)).await[0].is_ok());
        let answers = connector.batched_get(&keys(5)).await;
        assert_eq!(answers.len(), 5);
        assert!(answers.iter().all(|a| a.as_ref().is_err_and(|e| e.kind() == ErrorKind::Timeout && e.key().is_some())));
    }
}

mod retry {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_temporary_error_is_tried_again_and_no_other() {
        for (step, calls) in [(LOST, 3), (Step::Fail(ErrorKind::Corrupt, false), 1)] {
            let store = Scripted::new([step, step]);
            let answer = over(options!(retries: 2), &store).await.get(&key()).await;
            assert_eq!((answer.is_ok(), store.calls()), (calls == 3, calls), "{step:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_last_try_the_error_is_the_callers() {
        let store = Scripted::new([LOST; 9]);
        let e = over(options!(retries: 3), &store).await.put(&key(), MemoryObj::from(vec![1])).await.unwrap_err();
        assert_eq!((e.kind(), store.calls()), (ErrorKind::Unavailable, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outer_retry_does_not_try_again_when_the_inner_retries_are_spent() {
        let store = Scripted::new([LOST; 20]);
        let connector = over(options!(retries: 5), &over(options!(retries: 1), &store).await).await;
        let e = connector.get(&key()).await.unwrap_err();
        assert_eq!((e.status(), e.is_temporary(), store.calls()), (ErrorStatus::Persistent, true, 2));
        let answers = connector.batched_get(&keys(2)).await;
        assert!(answers.iter().all(|a| a.as_ref().is_err_and(|e| e.status() == ErrorStatus::Persistent)));
        assert_eq!(store.calls(), 2 + 4);
        let mut memory = MemoryObjMut::zeroed(16);
        let e = connector.get_into(&key(), &mut memory).await.unwrap_err();
        assert_eq!((e.status(), store.calls()), (ErrorStatus::Persistent, 2 + 4 + 2));
        let mut requests = [(key(), memory)];
        let e = connector.batched_get_into(&mut requests).await.remove(0).unwrap_err();
        assert_eq!((e.status(), store.calls()), (ErrorStatus::Persistent, 2 + 4 + 2 + 2));
    }

    #[tokio::test(start_paused = true)]
    async fn without_retries_a_temporary_error_stays_temporary() {
        let e =
            over(options!(retries: 0, max_in_flight: 9), &Scripted::new([LOST])).await.get(&key()).await.unwrap_err();
        assert_eq!(e.status(), ErrorStatus::Temporary);
    }

    #[tokio::test(start_paused = true)]
    async fn delays_double_up_to_the_longest_and_are_never_all_the_same() {
        let mut waited = Vec::new();
        for _ in 0..20 {
            let store = Scripted::new([LOST; 4]);
            let layer = options!(retries: 4, retry_min_delay_ms: 1000, retry_max_delay_ms: 4000);
            let begun = Instant::now();
            over(layer, &store).await.exists(&key()).await.unwrap();
            waited.push(begun.elapsed());
        }
        // 1 + 2 + 4 + 4 seconds, of each at most a half left out.
        assert!(waited.iter().all(|t| (SECOND * 11 / 2..=SECOND * 11).contains(t)), "{waited:?}");
        assert!(waited.iter().any(|t| *t != waited[0]), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_batch_only_the_keys_that_failed_are_asked_again() {
        let store = Scripted::new([LOST, Step::Wait(SECOND), Step::Fail(ErrorKind::Denied, false), LOST]);
        let connector = over(options!(retries: 1), &store).await;
        let answers = connector.batched_get(&keys(5)).await;
        let kinds: Vec<_> = answers.iter().map(|a| a.as_ref().err().map(connector_core::Error::kind)).collect();
        assert_eq!(kinds, [None, None, Some(ErrorKind::Denied), None, None]);
        assert_eq!(store.calls(), 5 + 2);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_comes_back_for_the_next_try_or_there_is_none() {
        let store = Scripted::new([LOST, LOST]);
        let connector = over(options!(retries: 1), &store).await;
        let mut requests: Vec<_> = keys(3).into_iter().map(|key| (key, MemoryObjMut::zeroed(16))).collect();
        let answers = connector.batched_get_into(&mut requests).await;
        assert!(answers.iter().all(|a| matches!(a, Ok(Some(n)) if *n == CHUNK.len())), "{answers:?}");
        assert!(requests.iter().all(|(_, memory)| &**memory == CHUNK && memory.capacity() == 16));

        // Memory that a try keeps after its timeout cannot be read into again.
        let store = Scripted::new([Step::Keep(9 * SECOND)]);
        let connector = over(options!(retries: 5, timeout_ms: 1000), &store).await;
        let mut memory = MemoryObjMut::zeroed(16);
        assert_eq!(connector.get_into(&key(), &mut memory).await.unwrap_err().kind(), ErrorKind::Timeout);
        assert_eq!(store.calls(), 1);
    }
}

mod limit {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_over_the_limit_wait_their_turn() {
        let store = Scripted::new([Step::Wait(SECOND); 12]);
        let connector = over(options!(max_in_flight: 4), &store).await;
        let begun = Instant::now();
        let all = keys(12);
        assert!(join_all(all.iter().map(|key| connector.get(key))).await.iter().all(Result::is_ok));
        assert_eq!((store.most(), begun.elapsed()), (4, 3 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_its_turn_no_longer_than_it_may_take() {
        let store = Scripted::new([Step::Wait(SECOND * 3600), Step::Wait(SECOND * 3600)]);
        let connector = over(options!(max_in_flight: 1, timeout_ms: 1000, batch_timeout_ms: 2000), &store).await;
        let all = keys(4);
        let begun = Instant::now();
        let timed = |answer: Result<Option<MemoryObj>>| (answer.unwrap_err().kind(), begun.elapsed());
        let slow = async { timed(connector.batched_get(&all[..1]).await.remove(0)) };
        let single = async { timed(connector.get(&all[1]).await) };
        let batch = async { timed(connector.batched_get(&all[2..]).await.remove(1)) };
        let seen = tokio::join!(slow, single, batch);
        assert_eq!(seen.0, (ErrorKind::Timeout, 2 * SECOND));
        assert_eq!(seen.1, (ErrorKind::Timeout, SECOND), "it waits for its turn");
        // The batch got its turn in the end, and then had its own time.
        assert!(seen.2.1 <= 4 * SECOND, "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_gives_its_place_back() {
        let store = Scripted::new([Step::Wait(SECOND * 3600); 3]);
        let connector = over(options!(max_in_flight: 1), &store).await;
        for _ in 0..3 {
            assert!(tokio::time::timeout(SECOND, connector.get(&key())).await.is_err());
        }
        assert!(connector.get(&key()).await.is_ok());
    }
}

mod breaker {
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
        store
            .then([Corrupt, Denied, ReadOnly, StoreFull, Throttled].iter().flat_map(|k| [Step::Fail(*k, false), LOST]));
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
}

/// The layers as URL, configuration and builder set them.
mod settings {
    use super::*;

    /// `script://`: a store that fails twice with a temporary error.
    struct Adapter;

    impl ConnectorAdapter for Adapter {
        fn can_parse(&self, url: &RemoteUrl) -> bool {
            url.scheme() == "script"
        }
        async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
            ctx.redirect(RemoteUrl::parse(&ctx.url().expose().replace("script://x", ENTRY))?).await
        }
    }

    const ENTRY: &str = "external://localhost:0/test.layers/";

    /// Fails twice with a temporary error.
    #[connector_core::external_connector(module = "test.layers", name = "Twice")]
    struct Twice(Scripted);

    impl connector_core::FromContext for Twice {
        async fn from_context(_: ConnectorContext) -> Result<Self> {
            Ok(Self(Scripted::new([LOST, LOST])))
        }
    }

    impl RemoteConnector for Twice {
        async fn exists(&self, key: &CacheKey) -> Result<bool> {
            self.0.exists(key).await
        }
        async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
            self.0.get(key).await
        }
        async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
            self.0.put(key, chunk).await
        }
    }

    fn config(extra: serde_json::Value) -> LMCacheEngineConfig {
        let mut config = LMCacheEngineConfig::default();
        config.set("extra_config", extra).unwrap();
        config
    }

    fn url(query: &str) -> String {
        format!("{ENTRY}?connector_name=Twice{query}")
    }

    #[tokio::test(start_paused = true)]
    async fn url_configuration_plugin_and_code_set_the_same_options() {
        let retries = options!(retries: 2);
        let none = serde_json::json!({});
        let plugin = serde_json::json!({
            "remote_storage_plugin.p.module_path": "test.layers",
            "remote_storage_plugin.p.class_name": "Twice",
            "remote_storage_plugin.p.retries": 2,
        });
        for (builder, enough) in [
            (connector_core::builder(&url("")), false),
            (connector_core::builder(&url("&retries=1")), false),
            (connector_core::builder(&url("&retries=2")), true),
            (connector_core::builder(&url("")).config(config(serde_json::json!({"kvconn_retries": "2"}))), true),
            (connector_core::builder("plugin://p").config(config(plugin)), true),
            (connector_core::builder(&url("")).layers(retries.clone()), true),
            (connector_core::builder("script://x?connector_name=Twice&retries=2").adapter(Adapter), true),
            // The URL wins.
            (connector_core::builder(&url("&retries=0")).config(config(none)).layers(retries), false),
        ] {
            let connector = builder.clone().open().await.unwrap();
            assert_eq!(connector.get(&key()).await.is_ok(), enough, "{builder:?}");
        }
    }

    /// `made://`: an adapter that makes its connector without the registry.
    struct Maker;

    impl ConnectorAdapter for Maker {
        fn can_parse(&self, url: &RemoteUrl) -> bool {
            url.scheme() == "made"
        }
        async fn create_connector(&self, ctx: ConnectorContext) -> Result<Connector> {
            Ok(Connector::new(ctx.connector_name(), Scripted::new([LOST, LOST])))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connector_that_its_adapter_made_has_layers_too() {
        for (url, enough) in [("made://x?retries=2", true), ("made://x?retries=1", false)] {
            let connector = connector_core::builder(url).adapter(Maker).open().await.unwrap();
            assert_eq!(connector.get(&key()).await.is_ok(), enough, "{url}");
        }
    }

    #[tokio::test]
    async fn a_wrong_value_or_name_says_where_it_stands() {
        let open = |query: &str| {
            let url = url(query);
            async move { connector_core::builder(&url).open().await.unwrap_err().to_string() }
        };
        let e = open("&timeout_ms=soon").await;
        assert!(e.contains("`timeout_ms` in the URL"), "{e}");
        let e = open("&timeout_ms=0").await;
        assert!(e.contains("remove it"), "{e}");
        let e = connector_core::builder("made://x?timeout_ms=0").adapter(Maker).open().await.unwrap_err();
        assert_eq!((e.kind(), e.operation()), (ErrorKind::InvalidOption, Some("open")));
        let extra = config(serde_json::json!({"kvconn_retires": 2}));
        let e = connector_core::builder(&url("")).config(extra).open().await.unwrap_err().to_string();
        assert!(e.contains("did you mean `kvconn_retries`?"), "{e}");
    }
}

/// The behaviour of the handle without layers.
mod handle {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn close_ends_a_listing_that_waits_and_it_does_not_pass_for_a_whole_one() {
        let connector = Connector::new("test", Scripted::new([]));
        let mut listed = connector.list("");
        assert_eq!(listed.next().await.unwrap().unwrap(), key());
        let (next, closed) = tokio::join!(listed.next(), connector.close());
        assert_eq!(next.unwrap().unwrap_err().kind(), ErrorKind::Closed);
        assert!(closed.is_ok() && listed.next().await.is_none());
    }

    /// Panics in every operation.
    struct Panics;

    impl RemoteConnector for Panics {
        async fn exists(&self, _: &CacheKey) -> Result<bool> {
            panic!("the test wants a panic")
        }
        async fn get(&self, _: &CacheKey) -> Result<Option<MemoryObj>> {
            panic!("the test wants a panic")
        }
        async fn put(&self, _: &CacheKey, _: MemoryObj) -> Result<()> {
            panic!("the test wants a panic")
        }
        // Panics before it gives the future.
        fn ping(&self) -> impl Future<Output = Result<()>> + Send {
            if true {
                panic!("the test wants a panic");
            }
            async { Ok(()) }
        }
        async fn close(&self) -> Result<()> {
            panic!("the test wants a panic")
        }
        fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
            assert!(!prefix.is_empty(), "the test wants a panic");
            let panics = |n| if n == 1 { panic!("the test wants a panic") } else { Ok(key()) };
            futures::stream::iter(0..3).map(panics).boxed()
        }
    }

    #[tokio::test]
    async fn a_connector_that_panics_is_an_error_with_its_name_and_operation() {
        let connector = Connector::new("acme.kv/Acme", Panics);
        let mut errors = vec![
            connector.exists(&key()).await.unwrap_err(),
            connector.get(&key()).await.unwrap_err(),
            connector.put(&key(), MemoryObj::from(vec![1])).await.unwrap_err(),
            connector.get_into(&key(), &mut MemoryObjMut::zeroed(8)).await.unwrap_err(),
            connector.ping().await.unwrap_err(),
            connector.list("").next().await.unwrap().unwrap_err(),
        ];
        let batch = connector.batched_get(&keys(3)).await;
        assert_eq!(batch.len(), 3);
        errors.extend(batch.into_iter().map(Result::unwrap_err));
        // A listing that panics in its middle must not look complete.
        let mut listed: Vec<_> = connector.list("m").collect().await;
        assert!(listed.len() == 2 && listed[0].is_ok(), "{listed:?}");
        errors.push(listed.pop().unwrap().unwrap_err());
        errors.push(connector.close().await.unwrap_err());
        for e in errors {
            assert!(e.kind() == ErrorKind::Other && e.message().contains("panicked"), "{e}");
            assert!(e.operation().is_some() && e.connector() == Some("acme.kv/Acme"), "{e}");
        }
    }

    #[tokio::test]
    async fn one_destination_without_memory_fails_alone() {
        let connector = Connector::new("test", Scripted::new([]));
        let mut requests: Vec<_> = keys(3).into_iter().map(|key| (key, MemoryObjMut::zeroed(16))).collect();
        let _elsewhere = requests[1].1.take();
        let answers = connector.batched_get_into(&mut requests).await;
        let kinds: Vec<_> = answers.iter().map(|a| a.as_ref().err().map(connector_core::Error::kind)).collect();
        assert_eq!(kinds, [None, Some(ErrorKind::InvalidInput), None]);
    }
}
