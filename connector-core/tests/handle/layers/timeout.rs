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
    async fn servers(&self) -> Result<Vec<connector_core::ServerInfo>> {
        std::future::pending().await
    }
    async fn diagnose(&self) -> Result<Vec<connector_core::Diagnosis>> {
        std::future::pending().await
    }
    fn list<'a>(&'a self, _: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        futures::stream::pending().boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn every_operation_ends_in_its_time() {
    let connector = over(options!(timeout_ms: 1000, batch_timeout_ms: 3000), &Hangs).await;
    every_operation_ends_within(&connector, SECOND, 3 * SECOND).await;
    connector.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_the_caller_replaces_those_of_the_store() {
    let options =
        || options!(timeout_ms: 1000, batch_timeout_ms: 3000, lookup_timeout_ms: 500, max_in_flight: 4, retries: 2);
    for connector in [over(options(), &Hangs).await, Connector::new("plain", Hangs)] {
        every_operation_ends_within(&connector.within(2 * SECOND), 2 * SECOND, 2 * SECOND).await;
        let clone = connector.within(SECOND).clone();
        every_operation_ends_within(&clone.within(4 * SECOND), 4 * SECOND, 4 * SECOND).await;
        connector.close().await.unwrap();
    }
}

async fn every_operation_ends_within(connector: &Connector, one: Duration, batch: Duration) {
    let chunk = MemoryObj::from(vec![1]);
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
    ends!(one, connector.servers().await.unwrap_err());
    ends!(one, connector.diagnose().await.unwrap_err());
    ends!(one, connector.list("").next().await.unwrap().unwrap_err());
    ends!(one, connector.list_entries("").next().await.unwrap().unwrap_err());
    ends!(batch, connector.get_prefix(&all).await.unwrap_err());
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
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_the_caller_holds_for_all_retries_together() {
    let store = Scripted::new([LOST; 100]);
    let connector = over(options!(retries: 100, retry_min_delay_ms: 400, retry_max_delay_ms: 400), &store).await;
    let begun = Instant::now();
    let e = connector.within(SECOND).get(&key()).await.unwrap_err();
    assert_eq!((e.kind(), begun.elapsed()), (ErrorKind::Timeout, SECOND));
    assert_eq!((e.operation(), e.key().is_some(), e.connector().is_some()), (Some("get"), true, true), "{e}");
    let answers = connector.within(SECOND).batched_get(&keys(3)).await;
    assert!(answers.len() == 3 && answers.iter().all(|a| a.as_ref().is_err_and(|e| e.key().is_some())), "{answers:?}");
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_the_caller_says_nothing_about_the_store() {
    let store = Scripted::new([Step::Wait(SECOND)]);
    let connector = over(options!(breaker_failures: 1), &store).await;
    let e = connector.within(Duration::from_millis(1)).get(&key()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    assert!(connector.get(&key()).await.is_ok(), "the breaker is closed");
    // A limit that is too long for the clock does not end a call.
    store.then([Step::Wait(86_400 * SECOND)]);
    assert!(connector.within(Duration::MAX).get(&key()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_connector_knows_the_time_that_is_left() {
    #[derive(Clone)]
    struct Asks;
    impl RemoteConnector for Asks {
        async fn exists(&self, _: &CacheKey) -> Result<bool> {
            tokio::time::sleep(SECOND).await;
            Ok(connector_core::layer::time_left() == Some(2 * SECOND))
        }
        async fn get(&self, _: &CacheKey) -> Result<Option<MemoryObj>> {
            Ok(connector_core::layer::time_left().map(|_| MemoryObj::from(vec![1])))
        }
        async fn put(&self, _: &CacheKey, _: MemoryObj) -> Result<()> {
            Ok(())
        }
    }
    assert!(over(options!(timeout_ms: 3000), &Asks).await.exists(&key()).await.unwrap());
    let connector = over(options!(retries: 1), &Asks).await;
    assert!(connector.within(3 * SECOND).exists(&key()).await.unwrap());
    assert!(connector.get(&key()).await.unwrap().is_none(), "a call without a limit");
}

#[tokio::test(start_paused = true)]
async fn lookups_may_have_a_limit_of_their_own() {
    for (options, lookup, get) in [
        (options!(lookup_timeout_ms: 200, timeout_ms: 1000), 200, Some(1000)),
        (options!(lookup_timeout_ms: 2000, batch_timeout_ms: 500), 2000, None),
        (options!(lookup_timeout_ms: 200), 200, None),
    ] {
        let connector = over(options, &Hangs).await;
        for n in 0..3 {
            let begun = Instant::now();
            let e = match n {
                0 => connector.exists(&key()).await.unwrap_err(),
                1 => connector.batched_exists(&keys(2)).await.pop().unwrap().unwrap_err(),
                _ => connector.batched_contains(&keys(2)).await.unwrap_err(),
            };
            assert_eq!((e.kind(), begun.elapsed()), (ErrorKind::Timeout, Duration::from_millis(lookup)), "{n}");
        }
        let begun = Instant::now();
        let got = tokio::time::timeout(60 * SECOND, connector.get(&key())).await;
        assert_eq!(got.is_ok().then(|| begun.elapsed()), get.map(Duration::from_millis));
    }
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
