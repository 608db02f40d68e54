//! Many callers and random faults.

use std::collections::HashSet;
use std::time::Duration;

use connectors::{CacheKey, ErrorKind};
use futures::TryStreamExt;
use kvconn_cloud_servers::{Fault, Then};

use crate::checked::{key, version, within};
use crate::store::Store;

const CALLERS: u64 = 16;
const CALLS: usize = 625;
/// The keys of each caller.
const KEYS: u64 = 8;

/// The possible states of a key.
#[derive(Default)]
struct Possible {
    versions: HashSet<u64>,
    missing: bool,
    /// Puts that failed. The server may store such a chunk later.
    failed: HashSet<u64>,
}

#[derive(Default, Debug)]
struct Counts {
    right: usize,
    failed: usize,
}

/// One caller, with keys of its own.
async fn call(store: &Store, caller: u64) -> Counts {
    let mut random = fastrand::Rng::with_seed(caller);
    let numbers: Vec<u64> = (0..KEYS).map(|i| 1_000 * (caller + 1) + i).collect();
    let mut possible: Vec<Possible> =
        numbers.iter().map(|_| Possible { missing: true, ..Possible::default() }).collect();
    let mut counts = Counts::default();
    for call in 1..=CALLS {
        let at = random.usize(0..numbers.len());
        let (n, key, expected) = (numbers[at], key(numbers[at]), &mut possible[at]);
        let new = call as u64;
        let len = random.usize(30..100_000);
        let failed = match random.u8(0..10) {
            0..3 => {
                let put = store.connector.put(&key, store.chunk(n, new, len)).await;
                expected.versions.insert(new);
                if put.is_ok() {
                    expected.versions.retain(|version| *version == new || expected.failed.contains(version));
                    expected.missing = false;
                } else {
                    expected.failed.insert(new);
                }
                put.err()
            }
            3..7 => match store.connector.get(&key).await {
                Ok(Some(chunk)) => {
                    let got = version(n, &chunk);
                    assert!(expected.versions.contains(&got), "call {call}: key {n} has version {got}");
                    None
                }
                Ok(None) => {
                    assert!(expected.missing, "call {call}: key {n} is missing");
                    None
                }
                Err(e) => Some(e),
            },
            7 => match store.connector.exists(&key).await {
                Ok(true) => {
                    assert!(!expected.versions.is_empty(), "call {call}: key {n} exists");
                    None
                }
                Ok(false) => {
                    assert!(expected.missing, "call {call}: key {n} is missing");
                    None
                }
                Err(e) => Some(e),
            },
            8 => {
                let removed = store.connector.remove(&key).await;
                if removed.is_ok() {
                    expected.versions.retain(|version| expected.failed.contains(version));
                }
                expected.missing = true;
                removed.err()
            }
            _ => match random.bool() {
                true => {
                    let keys: Vec<CacheKey> = numbers.iter().map(|&n| crate::checked::key(n)).collect();
                    let mut failed = None;
                    for (i, answer) in store.connector.batched_get(&keys).await.into_iter().enumerate() {
                        match answer {
                            Ok(Some(chunk)) => assert!(possible[i].versions.contains(&version(numbers[i], &chunk))),
                            Ok(None) => assert!(possible[i].missing, "call {call}: key {} is missing", numbers[i]),
                            Err(e) => failed = Some(e),
                        }
                    }
                    failed
                }
                false => {
                    let prefix = format!("faults@1@0@{n:x}");
                    let listed: Result<Vec<CacheKey>, _> = store.connector.list(&prefix).try_collect().await;
                    match &listed {
                        Ok(listed) if listed.contains(&key) => assert!(!expected.versions.is_empty()),
                        Ok(_) => assert!(expected.missing, "call {call}: key {n} is not listed"),
                        Err(_) => {}
                    }
                    listed.err()
                }
            },
        };
        match failed {
            None => counts.right += 1,
            Some(e) => {
                let kinds = [ErrorKind::Unavailable, ErrorKind::Timeout, ErrorKind::Throttled, ErrorKind::Corrupt];
                assert!(kinds.contains(&e.kind()), "call {call}: {:?}: {e}", e.kind());
                counts.failed += 1;
            }
        }
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_of_many_callers_under_random_faults_get_no_wrong_byte() {
    within(async {
        let store = Store::open().await;
        store.fake.seed(fastrand::u64(..));
        let (short, pause) = (Duration::from_millis(1), Duration::from_millis(20));
        for fault in [
            Fault::slow_down(),
            Fault::too_many_requests("0"),
            Fault::internal_error(),
            Fault::close(),
            Fault::lose_answer(),
            Fault::cut_body(20),
            Fault::cut_body(20_000),
            Fault::content_length(7),
            Fault::delay(pause),
            Fault::drip(20_000, short),
            Fault::early(10_000, Then::ReadOn),
            Fault::early(10_000, Then::Stall),
            Fault::early(10_000, Then::Close),
        ] {
            store.fake.always(fault.one_in(80));
        }
        // Each of these takes the whole timeout.
        store.fake.always(Fault::stall().one_in(1_000));
        store.fake.always(Fault::stall_in_body(1_000).one_in(1_000));

        let callers = (0..CALLERS).map(|caller| call(&store, caller));
        let counts = futures::future::join_all(callers).await;
        let (right, failed) =
            counts.iter().fold((0, 0), |(right, failed), counts| (right + counts.right, failed + counts.failed));
        assert_eq!(right + failed, CALLERS as usize * CALLS);
        // Both happen often.
        assert!(right > 5_000 && failed > 500, "{right} right, {failed} failed");
        store.fake.clear_faults();
        store.is_right().await;
    })
    .await;
}
