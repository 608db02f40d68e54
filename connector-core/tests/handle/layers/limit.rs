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
