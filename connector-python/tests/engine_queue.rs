//! The queue of an engine's submits, without Python: these files of the library need no interpreter.

#[path = "../src/engine"]
#[expect(dead_code, reason = "a part of the library's code")]
mod engine {
    pub(crate) mod job;
    pub(crate) mod keys;
    pub(crate) mod lookup;
    pub(crate) mod queue;
    pub(crate) mod stats;
    pub(crate) mod transfer;
    pub(crate) mod watch;
    pub(crate) mod worker;
}
#[path = "../src/span.rs"]
#[expect(dead_code, reason = "a part of the library's code")]
mod span;

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, Error, ErrorKind, MemoryObj, MemoryObjMut, RemoteConnector, Result};
use tokio::sync::Semaphore;

use engine::job::{AnswerTo, Completion, Kind, Transfer};
use engine::keys::{Keys, Names};
use engine::queue::{Limits, Queue};
use span::Span;

/// A store in memory. Calls wait for a permit and are written down.
struct Gated {
    permits: Arc<Semaphore>,
    calls: Arc<Mutex<Vec<String>>>,
    chunks: Mutex<HashMap<CacheKey, Vec<u8>>>,
}

impl Gated {
    async fn call(&self, what: &str, key: &CacheKey) {
        self.calls.lock().unwrap().push(format!("{what} {}", key.as_str().rsplit('@').next().unwrap()));
        self.permits.acquire().await.unwrap().forget();
    }
}

impl RemoteConnector for Gated {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.call("exists", key).await;
        Ok(self.chunks.lock().unwrap().contains_key(key))
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        Ok(self.chunks.lock().unwrap().get(key).map(|bytes| MemoryObj::from(bytes.clone())))
    }

    /// The destination is taken by work that outlives a dropped future, as a read from a disk does.
    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let (permits, mut taken) = (self.permits.clone(), dst.take());
        self.calls.lock().unwrap().push(format!("get {}", key.as_str().rsplit('@').next().unwrap()));
        let chunk = self.chunks.lock().unwrap().get(key).cloned();
        let (taken, chunk) = tokio::spawn(async move {
            permits.acquire().await.unwrap().forget();
            if let Some(chunk) = &chunk {
                taken.copy_from_slice(chunk);
            }
            (taken, chunk)
        })
        .await
        .unwrap();
        *dst = taken;
        Ok(chunk.map(|chunk| chunk.len()))
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.call("put", key).await;
        if key.as_str().ends_with("dead") {
            panic!("a store with a bug");
        }
        if key.as_str().ends_with("bad0") {
            return Err(Error::new(ErrorKind::Unavailable, "away"));
        }
        if key.as_str().contains("@51") {
            return Err(Error::new(ErrorKind::Timeout, "no answer"));
        }
        self.chunks.lock().unwrap().insert(key.clone(), chunk.to_vec());
        Ok(())
    }
}

/// Keeps the memory of a transfer alive. The drop counts.
struct Held(Arc<AtomicUsize>, #[expect(dead_code, reason = "kept alive")] Vec<Vec<u8>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Fixture {
    queue: Arc<Queue<Held>>,
    permits: Arc<Semaphore>,
    calls: Arc<Mutex<Vec<String>>>,
    names: Arc<Names>,
    dropped: Arc<AtomicUsize>,
}

const VALUE: usize = 1 << 20;

impl Fixture {
    fn new(permits: usize, limits: Limits) -> Self {
        let (permits, calls) = (Arc::new(Semaphore::new(permits)), Arc::default());
        let store = Gated { permits: permits.clone(), calls: Arc::clone(&calls), chunks: Mutex::default() };
        let queue = Queue::new(Connector::new("test/Gated", store), limits).unwrap();
        let names = Arc::new(Names::new("m", 0).unwrap());
        Self { queue, permits, calls, names, dropped: Arc::default() }
    }

    fn keys(&self, hashes: &[u16]) -> Keys {
        let mut keys = Keys::new(&self.names, "").unwrap();
        for hash in hashes {
            keys.push_bytes(&[&hash.to_be_bytes()[..], &[0; 4]].concat()).unwrap();
        }
        keys
    }

    fn submit(&self, kind: Kind, tag: i64, hashes: &[u16], answer_to: AnswerTo<Held>) -> u64 {
        let mut memory: Vec<Vec<u8>> = hashes.iter().map(|hash| vec![*hash as u8; VALUE]).collect();
        let spans = memory.iter_mut().map(|m| Span::new(NonNull::new(m.as_mut_ptr()).unwrap(), m.len())).collect();
        let held = Held(self.dropped.clone(), memory);
        let keys = self.keys(hashes);
        self.queue.submit(kind, Transfer { tag, keys, spans, pieces: 1, held, answer_to })
    }

    fn drained(&self, kind: Kind, count: usize) -> Vec<Completion<Held>> {
        let (mut done, end) = (Vec::new(), Instant::now() + Duration::from_secs(30));
        while done.len() < count {
            assert!(Instant::now() < end, "{} of {count} completions", done.len());
            std::thread::sleep(Duration::from_millis(1));
            done.extend(self.queue.drain(kind));
        }
        done
    }

    fn calls_reach(&self, count: usize) -> Vec<String> {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let calls = self.calls.lock().unwrap().clone();
            if calls.len() >= count {
                return calls;
            }
            assert!(Instant::now() < end, "{count} calls: {calls:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

const LIMITS: Limits = Limits { lookup_timeout: Duration::from_millis(50), store_backlog: u64::MAX };

#[test]
fn stores_leave_room_for_loads_and_loads_go_first() {
    let test = Fixture::new(0, LIMITS);
    for tag in 0..20 {
        test.submit(Kind::Store, tag, &[tag as u16], AnswerTo::Drain);
    }
    let begun = test.calls_reach(4);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(test.calls_reach(4).len(), 4, "stores take half of the places");
    assert!(begun.iter().all(|call| call.starts_with("put")));
    for tag in 0..6 {
        test.submit(Kind::Load, tag, &[tag as u16], AnswerTo::Drain);
    }
    let mut loads = test.calls_reach(8).split_off(4);
    loads.sort();
    assert_eq!(loads, ["get 0000", "get 0001", "get 0002", "get 0003"]);
    // Two stores end, and the two loads that wait take their places.
    test.permits.add_permits(2);
    let mut loads = test.calls_reach(10).split_off(8);
    loads.sort();
    assert_eq!(loads, ["get 0004", "get 0005"]);
    test.permits.add_permits(98);
    assert_eq!(test.drained(Kind::Load, 6).len(), 6);
    assert_eq!(test.drained(Kind::Store, 20).len(), 20);
}

#[test]
fn a_full_backlog_sheds_the_oldest_that_waits_and_never_what_runs() {
    let test = Fixture::new(0, Limits { store_backlog: 8 * VALUE as u64, ..LIMITS });
    for tag in 0..4 {
        test.submit(Kind::Store, tag, &[tag as u16], AnswerTo::Drain);
    }
    test.calls_reach(4);
    for tag in 4..20 {
        test.submit(Kind::Store, tag, &[tag as u16], AnswerTo::Drain);
    }
    let shed = test.drained(Kind::Store, 12);
    assert_eq!(shed.iter().map(|done| done.tag).collect::<Vec<_>>(), (4..16).collect::<Vec<_>>());
    assert!(shed.iter().all(|done| done.yes == [0] && done.error.as_ref().unwrap().contains("backlog")));
    // Larger than the bound, and not alone.
    test.submit(Kind::Store, 99, &(100..120).collect::<Vec<_>>(), AnswerTo::Drain);
    let mut tags: Vec<i64> = test.drained(Kind::Store, 5).iter().map(|done| done.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, [16, 17, 18, 19, 99]);
    test.permits.add_permits(100);
    assert!(test.drained(Kind::Store, 4).iter().all(|done| done.yes == [1] && done.error.is_none()));
}

#[test]
fn memory_is_held_until_the_last_use_of_it_ends() {
    let test = Fixture::new(1, LIMITS);
    let (send, done) = channel();
    test.submit(Kind::Store, 1, &[7], AnswerTo::Thread(send.clone()));
    assert_eq!(done.recv().unwrap().yes, [1]);
    assert_eq!(test.dropped.load(Ordering::SeqCst), 1);
    test.submit(Kind::Load, 2, &[7], AnswerTo::Thread(send));
    test.calls_reach(2);
    test.queue.close();
    test.queue.cut();
    // The future of the load is gone, but the work behind it still has the memory.
    assert!(done.recv_timeout(Duration::from_millis(50)).is_err());
    assert_eq!((test.queue.pending().0, test.dropped.load(Ordering::SeqCst)), (1, 1));
    assert!(!test.queue.wait_idle(Duration::from_millis(10)));
    let now = Instant::now();
    assert_eq!(test.queue.state().overdue(now), (0, 0));
    assert_eq!(test.queue.state().overdue(now + Duration::from_secs(60)), (1, VALUE as u64));
    test.permits.add_permits(1);
    let done = done.recv().unwrap();
    assert!(done.yes == [0] && done.error.unwrap().contains("cut off"));
    assert!(test.queue.wait_idle(Duration::ZERO));
}

#[test]
fn a_panic_or_an_error_fails_its_keys_only() {
    let test = Fixture::new(100, LIMITS);
    test.submit(Kind::Store, 1, &[1, 0xbad0, 2], AnswerTo::Drain);
    test.submit(Kind::Store, 2, &[0xdead], AnswerTo::Drain);
    test.submit(Kind::Store, 3, &[3], AnswerTo::Drain);
    let mut done = test.drained(Kind::Store, 3);
    done.sort_by_key(|done| done.tag);
    assert_eq!(done.iter().map(|done| done.yes.clone()).collect::<Vec<_>>(), [vec![1, 0, 1], vec![0], vec![1]]);
    assert!(done[0].error.as_ref().unwrap().contains("away") && done[1].error.as_ref().unwrap().contains("panicked"));
    assert_eq!((done[0].bytes, &done[2].error), (2 * VALUE as u64, &None));
}

#[test]
fn a_long_job_is_moved_in_parts_and_a_cancel_stops_the_rest() {
    let test = Fixture::new(0, LIMITS);
    let hashes: Vec<u16> = (0..100).collect();
    let number = test.submit(Kind::Store, 1, &hashes, AnswerTo::Drain);
    // Four parts of 4 MiB, each with four calls.
    test.calls_reach(16);
    test.queue.cancel(number, &engine::job::cut_off());
    test.permits.add_permits(1000);
    let done = test.drained(Kind::Store, 1).remove(0);
    assert_eq!(done.yes.iter().filter(|yes| **yes == 1).count(), 16);
    assert!(done.yes[..16].iter().all(|yes| *yes == 1) && done.error.unwrap().contains("84 of 100 keys"));
}

#[test]
fn one_lookup_is_overdue_and_the_others_are_answered_at_once() {
    let test = Fixture::new(0, LIMITS);
    test.queue.lookup(1, test.keys(&[1, 2]), false, AnswerTo::Drain);
    let late = test.drained(Kind::Lookup, 1).remove(0);
    assert!(late.yes == [0, 0] && late.error.unwrap().contains("no answer within 50ms"));
    assert_eq!(test.queue.condition(), "lost");
    for tag in 0..10 {
        test.queue.lookup(tag, test.keys(&[1]), tag % 2 == 0, AnswerTo::Drain);
        // At once: on the thread that asks.
        assert_eq!(test.queue.drain(Kind::Lookup).len(), 1);
    }
    test.permits.add_permits(100);
    let end = Instant::now() + Duration::from_secs(30);
    while test.queue.condition() == "lost" {
        assert!(Instant::now() < end, "the late answer ends the wait");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(test.queue.drain(Kind::Lookup).is_empty(), "the late answer is dropped");
    // A busy machine may answer late again.
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        test.permits.add_permits(1);
        test.queue.lookup(2, test.keys(&[1]), false, AnswerTo::Drain);
        if test.drained(Kind::Lookup, 1).remove(0).error.is_none() {
            break;
        }
        assert!(Instant::now() < end, "the store is asked again");
    }
}

#[test]
fn random_submits_sheds_cancels_and_a_close_complete_each_submit_once() {
    for seed in 0..20u64 {
        let mut state = seed + 1;
        let mut dice = |sides: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides
        };
        let test = Fixture::new(0, Limits { store_backlog: 6 * VALUE as u64, ..LIMITS });
        let (mut numbers, closes_at) = (Vec::new(), 20 + dice(20) as i64);
        for tag in 0..50 {
            let hashes: Vec<u16> = (0..dice(3)).map(|_| dice(8) as u16).collect();
            let kind = if dice(2) == 0 { Kind::Store } else { Kind::Load };
            numbers.push(test.submit(kind, tag, &hashes, AnswerTo::Drain));
            test.queue.lookup(tag, test.keys(&hashes), dice(2) == 0, AnswerTo::Drain);
            match dice(6) {
                0 => test.queue.cancel(numbers[dice(numbers.len() as u64) as usize], &engine::job::cut_off()),
                1 => test.queue.cancel_stores(),
                2 => test.permits.add_permits(dice(6) as usize),
                _ => {}
            }
            if tag == closes_at {
                test.queue.close();
            }
        }
        test.queue.cut();
        test.permits.add_permits(1000);
        assert!(test.queue.wait_idle(Duration::from_secs(30)));
        let mut transfers: Vec<i64> = [Kind::Store, Kind::Load]
            .into_iter()
            .flat_map(|kind| test.queue.drain(kind))
            .map(|done| done.tag)
            .collect();
        transfers.sort_unstable();
        assert_eq!(transfers, (0..50).collect::<Vec<_>>(), "seed {seed}");
        let mut lookups: Vec<i64> = test.queue.drain(Kind::Lookup).iter().map(|done| done.tag).collect();
        lookups.sort_unstable();
        assert_eq!(lookups, (0..50).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!((test.dropped.load(Ordering::SeqCst), test.queue.pending()), (50, (0, 0)));
    }
}

#[test]
fn a_part_without_an_answer_in_time_ends_its_job_and_no_other() {
    let fixture = Fixture::new(0, LIMITS);
    let (slow, well): (Vec<u16>, Vec<u16>) = ((0x5100..0x5128).collect(), (0..20).collect());
    fixture.submit(Kind::Store, 1, &slow, AnswerTo::Drain);
    fixture.submit(Kind::Store, 2, &well, AnswerTo::Drain);
    fixture.calls_reach(16);
    fixture.permits.add_permits(1000);
    let mut done = fixture.drained(Kind::Store, 2);
    done.sort_by_key(|done| done.tag);
    assert!(done[0].yes == [0; 40] && done[1].yes == [1; 20]);
    assert!(done[0].error.as_deref().unwrap().contains("40 of 40 keys failed, first: "), "{:?}", done[0].error);
    let asked = fixture.calls.lock().unwrap().iter().filter(|call| call.starts_with("put 51")).count();
    assert_eq!(asked, 16);
}
