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
    let e = over(options!(retries: 0, max_in_flight: 9), &Scripted::new([LOST])).await.get(&key()).await.unwrap_err();
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
async fn a_retry_waits_as_long_as_the_store_asks_up_to_its_longest_delay() {
    for (asked, least) in [(SECOND * 3, SECOND * 3), (SECOND * 60, SECOND * 4)] {
        let mut waited = Vec::new();
        for _ in 0..20 {
            let store = Scripted::new([Step::Throttle(asked)]);
            let layer = options!(retries: 1, retry_min_delay_ms: 1000, retry_max_delay_ms: 4000);
            let begun = Instant::now();
            over(layer, &store).await.get(&key()).await.unwrap();
            waited.push(begun.elapsed());
        }
        // Its own delay of a half to one second comes on top.
        let most = least + SECOND;
        assert!(waited.iter().all(|t| (least + SECOND / 2..=most).contains(t)), "{waited:?}");
        assert!(waited.iter().any(|t| *t != waited[0]), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_the_longest_time_that_the_store_asks_for() {
    let longest = SECOND * 3;
    let store = || Scripted::new([Step::Throttle(SECOND), LOST, Step::Throttle(longest), LOST]);
    let layer = || options!(retries: 1, retry_max_delay_ms: 9000);
    let (begun, connector) = (Instant::now(), over(layer(), &store()).await);
    assert!(connector.batched_get(&keys(5)).await.iter().all(Result::is_ok));
    assert!((longest..longest + SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());

    let (begun, connector) = (Instant::now(), over(layer(), &store()).await);
    let mut requests: Vec<_> = keys(5).into_iter().map(|key| (key, MemoryObjMut::zeroed(16))).collect();
    assert!(connector.batched_get_into(&mut requests).await.iter().all(Result::is_ok));
    assert!((longest..longest + SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
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
