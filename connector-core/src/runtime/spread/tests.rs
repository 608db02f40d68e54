#![expect(clippy::await_holding_lock, reason = "each test has a runtime of its own")]

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::runtime::fork_join::is_helping;
use crate::runtime::{in_child, shut_down};

/// All calls of a process share its helpers, so one test at a time has them. A busy machine may start a helper of the test
/// before late.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    assert!(batch_threads() > 1, "these tests need two CPUs, or KVCONN_THREADS=2");
    let alone = lock(&ONE);
    let begin = Instant::now();
    while is_helping() {
        assert!(begin.elapsed() < Duration::from_secs(60), "a helper does not end");
        thread::yield_now();
    }
    alone
}

/// Returns once `n` threads are here.
fn meet(here: &AtomicUsize, n: usize) {
    let begin = Instant::now();
    here.fetch_add(1, SeqCst);
    while here.load(SeqCst) < n {
        assert!(begin.elapsed() < Duration::from_secs(60), "no other thread comes");
        thread::yield_now();
    }
}

fn spread<'a, T: Send>(futures: Vec<BoxFuture<'a, T>>, bytes: usize) -> Spread<BoxFuture<'a, T>> {
    let mut spread = Spread::new(true);
    futures.into_iter().for_each(|future| spread.push(bytes, future));
    spread
}

async fn all<F: Future + Send>(mut spread: Spread<F>) -> Vec<F::Output>
where
    F::Output: Send,
{
    let mut outputs = Vec::new();
    while let Some(output) = spread.next().await {
        outputs.push(output);
    }
    outputs
}

/// Two futures that end only if two threads poll them at the same time.
async fn meeting() -> (ThreadId, ThreadId) {
    let here = AtomicUsize::new(0);
    let poll = || {
        async {
            meet(&here, 2);
            thread::current().id()
        }
        .boxed()
    };
    let threads = all(spread(vec![poll(), poll()], WORTH_A_THREAD)).await;
    (threads[0], threads[1])
}

/// Wakes the task that polls it `left` times, each time from another thread.
async fn woken(left: usize, wakers: &std::sync::mpsc::Sender<Waker>) -> ThreadId {
    for _ in 0..left {
        let mut was_polled = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut was_polled, true) {
                return Poll::Ready(());
            }
            wakers.send(cx.waker().clone()).unwrap();
            Poll::Pending
        })
        .await;
    }
    thread::current().id()
}

#[tokio::test]
async fn several_threads_poll_what_is_ready_and_the_caller_is_one_of_them() {
    let _alone = alone();
    for _ in 0..100 {
        let (one, other) = meeting().await;
        assert!(one != other && [one, other].contains(&thread::current().id()));
    }
}

#[tokio::test]
async fn too_little_work_stays_on_the_callers_thread() {
    let poll = || {
        async {
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            thread::current().id()
        }
        .boxed()
    };
    let few_bytes = spread((0..64).map(|_| poll()).collect(), 1000);
    let one = spread(vec![poll()], 64 << 20);
    let mut first_polls = Spread::new(false);
    (0..8).for_each(|_| first_polls.push(64 << 20, async { thread::current().id() }.boxed()));
    for threads in [all(few_bytes).await, all(one).await, all(first_polls).await] {
        assert!(threads.into_iter().all(|thread| thread == thread::current().id()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_future_ends_however_many_threads_wake_and_poll_it() {
    let _alone = alone();
    let (wakers, to_wake) = std::sync::mpsc::channel::<Waker>();
    let to_wake = Arc::new(Mutex::new(to_wake));
    let waking: Vec<_> = (0..3)
        .map(|_| {
            let to_wake = to_wake.clone();
            thread::spawn(move || {
                loop {
                    let Ok(waker) = lock(&to_wake).recv() else { return };
                    waker.wake();
                }
            })
        })
        .collect();
    let (mut outputs, mut running) = (Vec::new(), Spread::new(true));
    let work = |n: usize| {
        let wakers = &wakers;
        async move {
            let thread = woken(n % 100, wakers).await;
            if n.is_multiple_of(10) {
                // A timer that starts on the thread that polls.
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            (n, thread)
        }
    };
    for n in 0..3000 {
        running.push(WORTH_A_THREAD, work(n));
        if n >= 32 {
            outputs.push(running.next().await.unwrap());
        }
    }
    outputs.extend(all(running).await);
    let threads: HashSet<_> = outputs.iter().map(|(_, thread)| *thread).collect();
    let mut outputs: Vec<_> = outputs.into_iter().map(|(n, _)| n).collect();
    outputs.sort_unstable();
    assert_eq!(outputs, Vec::from_iter(0..3000));
    assert!(threads.len() > 1, "one thread did it all");
    drop(wakers);
    waking.into_iter().for_each(|thread| thread.join().unwrap());
}

#[tokio::test]
async fn a_panic_on_any_thread_is_the_callers_and_the_other_futures_go_on() {
    let _alone = alone();
    let caller = thread::current().id();
    for panics_on_caller in [true, false] {
        let here = AtomicUsize::new(0);
        let poll = || {
            async {
                meet(&here, 2);
                let is_caller = thread::current().id() == caller;
                assert!(is_caller != panics_on_caller, "the test wants a panic");
            }
            .boxed()
        };
        let mut polling = spread(vec![poll(), poll()], WORTH_A_THREAD);
        assert!(AssertUnwindSafe(polling.next()).catch_unwind().await.is_err());
        assert_eq!((polling.next().await, polling.next().await), (Some(()), None));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_at_any_time_drops_the_futures() {
    let _alone = alone();
    for n in 0..200 {
        let held = Arc::new(());
        let is_dropped = AtomicBool::new(false);
        let work = || {
            let (held, is_dropped) = (held.clone(), &is_dropped);
            async move {
                loop {
                    tokio::task::yield_now().await;
                    assert!(!is_dropped.load(SeqCst) && Arc::strong_count(&held) > 1);
                }
            }
            .boxed()
        };
        let polling = all(spread::<()>((0..8).map(|_| work()).collect(), WORTH_A_THREAD));
        assert!(tokio::time::timeout(Duration::from_micros(n * 3), polling).await.is_err());
        is_dropped.store(true, SeqCst);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}

#[tokio::test]
async fn futures_may_spread_their_own_futures() {
    let _alone = alone();
    let inner = |n: usize| {
        async move {
            tokio::task::yield_now().await;
            n
        }
        .boxed()
    };
    let outer = |n: usize| {
        async move {
            let outputs = all(spread((0..10).map(|i| inner(n * 10 + i)).collect(), WORTH_A_THREAD)).await;
            outputs.into_iter().sum::<usize>()
        }
        .boxed()
    };
    for _ in 0..50 {
        let outputs = all(spread((0..10).map(outer).collect(), WORTH_A_THREAD)).await;
        assert_eq!(outputs.into_iter().sum::<usize>(), (0..100).sum::<usize>());
    }
}

#[test]
fn a_child_of_fork_has_helpers_of_its_own_and_none_after_its_shut_down() {
    let _alone = alone();
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    run().block_on(meeting());
    assert!(in_child(|| {
        let (one, other) = run().block_on(meeting());
        shut_down(Duration::from_secs(1));
        let here = || async { thread::current().id() }.boxed();
        let alone = run().block_on(all(spread(vec![here(), here()], WORTH_A_THREAD)));
        one != other && alone.into_iter().all(|thread| thread == thread::current().id())
    }));
}

#[tokio::test]
async fn a_future_on_another_thread_has_the_callers_span_and_limits() {
    let _alone = alone();
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry());
    let span = tracing::info_span!("batch");
    let waits = LocalWaits::new();
    let here = AtomicUsize::new(0);
    let poll = || {
        async {
            meet(&here, 2);
            assert_eq!(Span::current().id(), span.id());
            crate::layer::local_wait(std::future::pending::<()>()).await;
        }
        .boxed()
    };
    let mut polling = spread(vec![poll(), poll()], WORTH_A_THREAD);
    let cx = Context::from_waker(Waker::noop());
    assert!(span.in_scope(|| waits.scope(|| polling.poll_next(&cx))).is_pending());
    assert_eq!(waits.count(), 2);
    drop(polling);
    assert_eq!(waits.count(), 0);
}
