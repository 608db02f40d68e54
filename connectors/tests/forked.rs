//! Stores in a child of `fork`, as C code forks: the child has none of its parent's threads.
#![expect(unsafe_code, reason = "forks")]

use std::time::Duration;

use connectors::{BlockingConnector, CacheKey, ErrorKind, MemoryObj};

fn key(n: usize) -> CacheKey {
    format!("m@1@0@{n:x}@half").parse().unwrap()
}

fn open(url: &str) -> BlockingConnector {
    connectors::builder(url).open_blocking().unwrap()
}

/// Runs `check` in a child, and says whether it gave true within a minute.
fn in_child(check: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs the check and exits.
    match unsafe { libc::fork() } {
        0 => {
            let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).unwrap_or(false);
            // SAFETY: ends the child without the test harness's handlers.
            unsafe { libc::_exit(i32::from(!ok)) }
        }
        child => {
            for _ in 0..6000 {
                let mut status = 0;
                // SAFETY: `status` is valid for the call.
                if unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == child {
                    return status == 0;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            // SAFETY: the child is this test's own, and was not waited for.
            unsafe { libc::kill(child, libc::SIGKILL) };
            false
        }
    }
}

#[test]
fn a_named_store_in_memory_belongs_to_one_process_although_threads_use_it_during_the_fork() {
    let parent = open("memory://forked");
    parent.put(&key(0), MemoryObj::from(vec![1; 100])).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let busy = || !stop.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        for n in 1..4 {
            let parent = &parent;
            // These hold the locks of the table, of the stores and of the schemas most of the time.
            scope.spawn(move || {
                while busy() {
                    parent.put(&key(n), MemoryObj::from(vec![n as u8; 100_000])).unwrap();
                    open("memory://forked").get(&key(n)).unwrap();
                }
            });
        }
        let answers: Vec<bool> = (0..20)
            .map(|_| {
                in_child(|| {
                    let child = open("memory://forked");
                    let is_empty = child.get(&key(0)).unwrap().is_none() && child.list("").count() == 0;
                    child.put(&key(0), MemoryObj::from(vec![2; 100_000])).unwrap();
                    is_empty && open("memory://forked").get(&key(0)).unwrap().unwrap()[0] == 2
                })
            })
            .collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(answers.iter().all(|ok| *ok), "{answers:?}");
    });
    assert_eq!(parent.get(&key(0)).unwrap().unwrap()[0], 1);
}

#[test]
fn a_store_of_the_parent_is_refused_in_the_child_and_stays_whole_in_the_parent() {
    let dir = tempfile::tempdir().unwrap();
    let mut parent = Some(open(&format!("fs://{}", dir.path().display())));
    parent.as_ref().unwrap().put(&key(0), MemoryObj::from(vec![1; 100])).unwrap();
    assert!(in_child(|| {
        let store = parent.take().unwrap();
        let e = store.get(&key(0)).unwrap_err();
        let listed = store.list("").next().unwrap().unwrap_err();
        let batch = store.batched_exists(&[key(0), key(1)]);
        let all_closed =
            [e, listed].iter().all(|e| e.kind() == ErrorKind::Closed && e.to_string().contains("open it again"));
        store.close().unwrap();
        all_closed && batch.iter().all(Result::is_err)
    }));
    let parent = parent.unwrap();
    assert_eq!(parent.get(&key(0)).unwrap().unwrap().len(), 100);
    parent.close().unwrap();
}

/// The parent's subscriptions to the sentinels stay the parent's.
#[cfg(feature = "redis")]
#[test]
fn a_store_of_sentinels_is_opened_again_in_the_child() {
    let mut group = kvconn_redis_server::SentinelGroup::start(3, 1, &[]);
    let url = group.url("redis-sentinel");
    let mut parent = Some(open(&url));
    parent.as_ref().unwrap().put(&key(0), MemoryObj::from(vec![1; 100])).unwrap();
    assert!(in_child(|| {
        let store = parent.take().unwrap();
        let is_refused = store.get(&key(0)).unwrap_err().kind() == ErrorKind::Closed;
        drop(store);
        let child = open(&url);
        child.put(&key(1), MemoryObj::from(vec![2; 100])).unwrap();
        is_refused && child.get(&key(1)).unwrap().is_some()
    }));
    group.failover();
    let parent = parent.unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while parent.put(&key(2), MemoryObj::from(vec![3; 100])).is_err() {
        assert!(std::time::Instant::now() < deadline, "the parent's store follows");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(parent.get(&key(2)).unwrap().is_some());
    parent.close().unwrap();
}
