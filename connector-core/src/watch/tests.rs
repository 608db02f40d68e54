use std::future::poll_fn;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::thread;
use std::time::Duration;

use super::*;

fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (ours, theirs)
}

/// Counts how often it was woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn poll(watcher: &Watcher, socket: &UnixStream, woken: &Arc<Woken>) -> Option<Poll<io::Result<()>>> {
    let waker = Waker::from(woken.clone());
    watcher.enter(|| poll_read_ready(socket.as_fd(), &mut Context::from_waker(&waker)))
}

fn is_ready(polled: Option<Poll<io::Result<()>>>) -> bool {
    polled.expect("somebody watches").map(Result::unwrap).is_ready()
}

fn wait(watcher: &Watcher) {
    watcher.wait(Some(Duration::from_secs(10))).unwrap().into_iter().for_each(Waker::wake);
}

#[test]
fn nobody_watches_outside_of_a_watcher_and_after_it() {
    let (socket, _other) = pair();
    let watcher = Watcher::new().unwrap();
    let ask = || poll_read_ready(socket.as_fd(), &mut Context::from_waker(Waker::noop())).is_some();
    assert!(!ask() && !is_on());
    assert!(watcher.enter(|| ask() && is_on() && Watcher::new().unwrap().enter(ask) && ask()));
    assert!(std::panic::catch_unwind(|| watcher.enter(|| panic!("on purpose"))).is_err());
    assert!(!ask() && !is_on());
    assert!(watcher.enter(|| !thread::scope(|s| s.spawn(is_on).join().unwrap())), "it is one thread's");
}

#[test]
fn a_socket_wakes_who_asked_last_and_once() {
    let (mut socket, mut other) = pair();
    let (watcher, first, second) = (Watcher::new().unwrap(), Arc::default(), Arc::default());
    assert!(!is_ready(poll(&watcher, &socket, &first)) && !is_ready(poll(&watcher, &socket, &second)));
    assert!(watcher.wait(Some(Duration::ZERO)).unwrap().is_empty());
    other.write_all(b"ab").unwrap();
    wait(&watcher);
    assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
    assert!(is_ready(poll(&watcher, &socket, &first)), "it was ready");
    socket.read_exact(&mut [0]).unwrap();
    // One byte is left: the system says so again.
    assert!(!is_ready(poll(&watcher, &socket, &first)));
    wait(&watcher);
    assert!(is_ready(poll(&watcher, &socket, &first)));
    socket.read_exact(&mut [0]).unwrap();
    other.write_all(b"c").unwrap();
    assert!(watcher.wait(Some(Duration::ZERO)).unwrap().is_empty(), "nobody asked");
}

#[test]
fn a_socket_that_is_closed_is_ready_and_its_number_means_the_next_one() {
    let watcher = Watcher::new().unwrap();
    let (socket, other) = pair();
    let (number, woken) = (socket.as_raw_fd(), Arc::default());
    assert!(!is_ready(poll(&watcher, &socket, &woken)));
    drop(other);
    wait(&watcher);
    assert!(is_ready(poll(&watcher, &socket, &woken)));
    assert!(!is_ready(poll(&watcher, &socket, &woken)));
    let (next, mut other) = pair();
    let mut socket = OwnedFd::from(socket);
    rustix::io::dup2(next, &mut socket).unwrap();
    let socket = UnixStream::from(socket);
    assert_eq!(socket.as_raw_fd(), number);
    assert!(!is_ready(poll(&watcher, &socket, &woken)), "nothing is there");
    other.write_all(b"a").unwrap();
    wait(&watcher);
    assert!(is_ready(poll(&watcher, &socket, &woken)));
}

#[test]
fn what_cannot_be_watched_is_an_error() {
    let (watcher, file) = (Watcher::new().unwrap(), tempfile());
    let polled = watcher.enter(|| poll_read_ready(file.as_fd(), &mut Context::from_waker(Waker::noop())));
    assert!(matches!(polled, Some(Poll::Ready(Err(_)))), "{polled:?}");
}

fn tempfile() -> std::fs::File {
    std::fs::File::open("/proc/self/status").unwrap()
}

#[test]
fn a_thread_sleeps_until_its_socket_or_somebody_wakes_it() {
    let (mut socket, mut other) = pair();
    let (send, receive) = futures::channel::oneshot::channel();
    let echo = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        other.write_all(b"socket").unwrap();
        thread::sleep(Duration::from_millis(20));
        send.send("thread").unwrap();
        other
    });
    let mut text = [0; 6];
    let said = block_on(async {
        poll_fn(|cx| poll_read_ready(socket.as_fd(), cx).unwrap()).await.unwrap();
        socket.read_exact(&mut text).unwrap();
        // From within: another watcher.
        block_on(async { assert!(is_on()) });
        receive.await.unwrap()
    });
    assert_eq!((&text, said), (b"socket", "thread"));
    echo.join().unwrap();
}

#[test]
fn a_thread_looks_up_from_its_sleep_now_and_then() {
    let (socket, _other) = pair();
    let every = Duration::from_millis(1);
    let nothing = || poll_fn(|cx| poll_read_ready(socket.as_fd(), cx).unwrap());
    let mut looked = 0;
    let third = || {
        looked += 1;
        if looked == 3 { Err("enough") } else { Ok(()) }
    };
    assert!(matches!(try_block_on(nothing(), every, third), Err("enough")));
    assert_eq!(looked, 3);
    // Also where something always happens.
    let busy = poll_fn(|cx| {
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    });
    assert_eq!(try_block_on(busy, every, || Err("busy")), Err("busy"));
    // The socket that was left is nobody's trouble, and an answer needs no look.
    assert_eq!(try_block_on(async { 1 }, Duration::ZERO, || Err("looked")), Ok(1));
    let (send, receive) = futures::channel::oneshot::channel();
    let mut send = Some(send);
    let look = || send.take().map_or(Ok(()), |send| send.send("looked, and went on"));
    assert_eq!(try_block_on(receive, every, look), Ok(Ok("looked, and went on")));
    let (send, receive) = futures::channel::oneshot::channel();
    let other = thread::spawn(move || send.send("woken"));
    assert_eq!(try_block_on(receive, Duration::MAX, || Err("looked")), Ok(Ok("woken")));
    other.join().unwrap().unwrap();
}

#[test]
fn a_future_is_polled_for_a_while_and_can_be_waited_for_after_that() {
    let (socket, mut other) = pair();
    let watcher = Watcher::new().unwrap();
    let (send, receive) = futures::channel::oneshot::channel();
    let mut said = Box::pin(async {
        let byte = futures::future::join(read(&socket), read(&socket)).await;
        (byte, receive.await.unwrap())
    });
    assert!(poll_for(Duration::ZERO, said.as_mut()).is_pending());
    assert!(poll_for(Duration::from_millis(5), said.as_mut()).is_pending());
    let echo = thread::spawn(move || {
        other.write_all(b"s").unwrap();
        thread::sleep(Duration::from_millis(5));
        other.write_all(b"s").unwrap();
        thread::sleep(Duration::from_millis(20));
        send.send("thread").unwrap();
    });
    assert_eq!(poll_for(Duration::from_secs(60), said.as_mut()), Poll::Ready(((b's', b's'), "thread")));
    assert!(!is_on());
    echo.join().unwrap();

    let mut late = Box::pin(poll_fn(|cx| poll_read_ready(socket.as_fd(), cx).unwrap()));
    assert!(poll_for(Duration::ZERO, late.as_mut()).is_pending());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    assert!(watcher.enter(|| late.as_mut().poll(&mut Context::from_waker(&waker))).is_pending());
    wait(&watcher);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1, "the end of the other side wakes who polled last");
}

/// A byte, however often it has to try.
async fn read(mut socket: &UnixStream) -> u8 {
    let mut byte = [0];
    loop {
        match socket.read(&mut byte) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|cx| poll_read_ready(socket.as_fd(), cx).unwrap()).await.unwrap();
            }
            read => return read.map(|_| byte[0]).unwrap(),
        }
    }
}

#[test]
fn only_who_was_woken_is_polled_again() {
    let (_send, receive) = futures::channel::oneshot::channel::<()>();
    let (mut receive, mut polls) = (pin!(receive), 0);
    let mut waits = pin!(poll_fn(|cx| {
        polls += 1;
        receive.as_mut().poll(cx)
    }));
    assert!(poll_for(Duration::from_millis(5), waits.as_mut()).is_pending());
    assert_eq!(polls, 1);
}

#[test]
fn who_waits_for_a_socket_tries_again_whenever_it_is_polled() {
    let (socket, _other) = pair();
    let (mut asked, woken) = (Vec::new(), Arc::<Woken>::default());
    let mut tries = pin!(poll_fn(|cx| {
        let waker = Waker::from(woken.clone());
        asked.push(is_ready(poll_read_ready(socket.as_fd(), &mut Context::from_waker(&waker))));
        cx.waker().wake_by_ref();
        if asked.len() < 5 { Poll::Pending } else { Poll::Ready(()) }
    }));
    assert!(poll_for(Duration::from_secs(60), tries.as_mut()).is_ready());
    assert_eq!((&*asked, woken.0.load(Ordering::Relaxed)), (&[false, true, false, true, false][..], 3));
}

#[test]
fn whoever_watches_last_does_and_then_who_did_before() {
    let (socket, _other) = pair();
    let watcher = Watcher::new().unwrap();
    let ask = || is_ready(poll_read_ready(socket.as_fd(), &mut Context::from_waker(Waker::noop())));
    let look = |within: &dyn Fn()| {
        let asked = async {
            let before = ask();
            within();
            [before, ask(), ask()]
        };
        assert_eq!(poll_for(Duration::ZERO, pin!(asked)), Poll::Ready([false, true, false]));
    };
    let watched = || assert!(!ask() && !ask(), "nothing is there");
    watcher.enter(|| {
        look(&|| Watcher::new().unwrap().enter(watched));
        watched();
    });
    assert!(std::panic::catch_unwind(|| poll_for(Duration::ZERO, pin!(async { panic!("on purpose") }))).is_err());
    assert!(!is_on());
}

#[test]
fn the_parts_of_a_future_leave_a_watcher_with_it() {
    let (socket, _other) = pair();
    let (watcher, mut asleep) = (Watcher::new().unwrap(), Context::from_waker(Waker::noop()));
    // It polls only those of its parts that were woken.
    let mut parts = futures::stream::FuturesUnordered::new();
    parts.push(poll_fn(|cx| match poll_read_ready(socket.as_fd(), cx) {
        Some(polled) => polled.map(|_| "watched"),
        None => Poll::Ready("not watched"),
    }));
    let mut next = || futures::StreamExt::poll_next_unpin(&mut parts, &mut asleep);
    assert!(watcher.enter(&mut next).is_pending());
    assert!(next().is_pending());
    watcher.wake_all();
    assert_eq!(next(), Poll::Ready(Some("not watched")));
}

#[test]
fn a_thread_that_waited_for_a_socket_in_vain_leaves_nothing() {
    let kept = thread::spawn(|| {
        let (socket, _other) = pair();
        let mut polls = 0;
        block_on(poll_fn(|cx| {
            assert!(!poll_read_ready(socket.as_fd(), cx).unwrap().is_ready());
            polls += 1;
            cx.waker().wake_by_ref();
            if polls == 2 { Poll::Ready(()) } else { Poll::Pending }
        }));
        block_on(async { Arc::downgrade(&WATCHING.with_borrow(Watching::by).unwrap()) })
    });
    assert!(kept.join().unwrap().upgrade().is_none());
}

#[test]
fn a_task_that_has_used_up_its_budget_is_served() {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    let all = tokio::sync::Semaphore::new(1);
    let task = runtime.spawn(async move {
        for _ in 0..1000 {
            drop(block_on(all.acquire()).unwrap());
        }
    });
    runtime.block_on(task).unwrap();
}

#[test]
fn no_wakeup_is_lost_however_they_meet() {
    for round in 0..2000_u32 {
        let (mut senders, receivers): (Vec<_>, Vec<_>) =
            (0..3).map(|_| futures::channel::oneshot::channel::<u32>()).unzip();
        let waker = thread::spawn(move || senders.drain(..).for_each(|s| s.send(round).unwrap()));
        let all = block_on(futures::future::join_all(receivers));
        assert!(all.into_iter().all(|answer| answer == Ok(round)));
        waker.join().unwrap();
    }
}
