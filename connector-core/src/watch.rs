//! Waiting for sockets in the place of the runtime, by the thread that polls.
//!
//! A call that waits for a socket is woken by its runtime's thread, and then polled by the thread that wants the answer:
//! two threads, each of which has to be woken first, which for a small question takes longer than the server. So a thread
//! that has nothing else to do meanwhile ([`block_on`]), or a loop that watches descriptors anyway, brings a [`Watcher`], and
//! the sockets that are waited for by what is polled within [`enter`](Watcher::enter) are watched by it: the thread is woken
//! by the socket itself. Everything else (clocks, other tasks) wakes by wakers, as always.
//!
//! A connector that has sockets, and wants to be waited for in this way, asks [`poll_read_ready`] before its runtime; one that
//! does not only takes the longer way.
//!
//! Linux only; elsewhere nobody ever watches.

use std::cell::RefCell;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll};

#[cfg(target_os = "linux")]
pub use linux::{Watcher, block_on};

thread_local! {
    static WATCHER: RefCell<Option<Arc<Inner>>> = const { RefCell::new(None) };
}

#[cfg(target_os = "linux")]
use linux::Inner;
#[cfg(not(target_os = "linux"))]
enum Inner {}

/// Whether sockets are watched by the thread that polls. Then their runtime may not have heard yet what has arrived, and
/// only a system call can tell.
pub fn is_on() -> bool {
    WATCHER.with_borrow(Option::is_some)
}

/// Ready once something can be read from `socket`, which must not block; `None` if nobody watches here.
///
/// Wakes the task that asked last. It may be ready by mistake, once: for a socket whose number was another's, or that was read
/// from elsewhere since. Who then reads in vain asks again.
///
/// # Errors
/// What the system says when it refuses to watch the descriptor. A runtime may still be able to.
pub fn poll_read_ready(socket: BorrowedFd<'_>, cx: &mut Context<'_>) -> Option<Poll<io::Result<()>>> {
    let watcher = WATCHER.with_borrow(Clone::clone)?;
    Some(watcher.poll_read_ready(socket, cx))
}

#[cfg(not(target_os = "linux"))]
impl Inner {
    fn poll_read_ready(&self, _socket: BorrowedFd<'_>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
    use std::pin::{Pin, pin};
    use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::{self, Thread};
    use std::time::{Duration, Instant};

    use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
    use rustix::event::{EventfdFlags, Timespec, eventfd};
    use rustix::io::Errno;
    use tokio::task::coop::unconstrained;

    use super::WATCHER;

    /// Watches sockets for one thread, or for one loop. Cheap to clone; a clone is the same one.
    ///
    /// Its descriptor is readable while there is something to [`wait`](Self::wait) for that does not take any time: a loop
    /// of another library can watch that one in its turn. A child of `fork` must not use its parent's.
    #[derive(Clone)]
    pub struct Watcher(pub(super) Arc<Inner>);

    pub(super) struct Inner {
        epoll: OwnedFd,
        event: OwnedFd,
        sockets: Mutex<HashMap<RawFd, Watched>>,
    }

    /// A socket that was asked for. It stays in the list when it is closed, until the system gives its number away again:
    /// whoever finds a wrong answer there tries in vain, and asks again.
    enum Watched {
        For(Waker),
        Ready,
    }

    /// The number of no descriptor.
    const EVENT: u64 = u64::MAX;
    /// What one `wait` hears of at most. The rest is there for the next.
    const AT_ONCE: usize = 64;

    impl Watcher {
        /// A watcher that watches nothing yet. Takes two descriptors.
        ///
        /// # Errors
        /// What the system says when it has none left.
        pub fn new() -> io::Result<Self> {
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
            // Edges only: so nobody has to read what was written.
            epoll::add(&epoll, &event, EventData::new_u64(EVENT), EventFlags::IN | EventFlags::ET)?;
            Ok(Self(Arc::new(Inner { epoll, event, sockets: Mutex::default() })))
        }

        /// Calls `poll`; the sockets that are waited for by whatever it polls, on this thread, are watched.
        pub fn enter<R>(&self, poll: impl FnOnce() -> R) -> R {
            struct Before(Option<Arc<Inner>>);
            impl Drop for Before {
                fn drop(&mut self) {
                    WATCHER.set(self.0.take());
                }
            }
            let _before = Before(WATCHER.replace(Some(self.0.clone())));
            poll()
        }

        /// Polls `future` until it ends, or for so long, and does not sleep meanwhile: the processor is offered to other threads
        /// between looks at the sockets. For answers that come sooner than a thread is woken.
        ///
        /// Whoever polls it later says anew whom it wakes. It is not polled within a runtime, unless the caller is.
        pub fn poll_for<F: Future + ?Sized>(&self, at_most: Duration, mut future: Pin<&mut F>) -> Poll<F::Output> {
            let woken = Arc::new(Woken(AtomicBool::new(true)));
            let waker = Waker::from(woken.clone());
            let mut cx = Context::from_waker(&waker);
            let since = Instant::now();
            loop {
                if woken.0.swap(false, Ordering::AcqRel)
                    && let Poll::Ready(output) = self.enter(|| future.as_mut().poll(&mut cx))
                {
                    return Poll::Ready(output);
                }
                if since.elapsed() >= at_most {
                    return Poll::Pending;
                }
                thread::yield_now();
                // What the system refuses it will refuse to whoever waits for longer, who can say so.
                self.wait(Some(Duration::ZERO)).into_iter().flatten().for_each(Waker::wake);
            }
        }

        /// Waits until a socket is ready, or [`notify`](Self::notify) is called, or the time is over; says whom to wake.
        ///
        /// # Errors
        /// What the system says; never `Interrupted`.
        pub fn wait(&self, at_most: Option<Duration>) -> io::Result<Vec<Waker>> {
            let timeout = at_most.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
            let mut events = [MaybeUninit::uninit(); AT_ONCE];
            let heard = match epoll::wait(&self.0.epoll, &mut events, timeout.as_ref()) {
                Ok((heard, _)) => heard,
                Err(Errno::INTR) => return Ok(Vec::new()),
                Err(e) => return Err(e.into()),
            };
            let mut sockets = self.0.sockets();
            let numbers = heard.iter().filter_map(|event| RawFd::try_from({ event.data }.u64()).ok());
            let wakers = numbers.filter_map(|fd| match sockets.insert(fd, Watched::Ready) {
                Some(Watched::For(waker)) => Some(waker),
                _ => None,
            });
            Ok(wakers.collect())
        }

        /// Ends a [`wait`](Self::wait), now or the next one, and makes the descriptor readable until then. From any thread.
        pub fn notify(&self) {
            // It fails only when the counter is full, which is as good.
            let _ = rustix::io::write(&self.0.event, &1_u64.to_ne_bytes());
        }
    }

    thread_local! {
        /// This thread's own, and the process that made it: a child of `fork` has a copy.
        static OWN: Cell<Option<(u32, Watcher)>> = const { Cell::new(None) };
    }

    /// Polls `future` to its end on this thread, which sleeps meanwhile and watches sockets, with a watcher that it keeps. If
    /// the system has no descriptors left for one, their runtimes wait for them.
    ///
    /// It is not polled within a runtime, unless the caller is: who has one enters it.
    pub fn block_on<F: Future>(future: F) -> F::Output {
        let process = std::process::id();
        // Whoever comes here again, from within the future, gets another one.
        let mut watcher = match OWN.take() {
            Some((made_by, watcher)) if made_by == process => Some(watcher),
            was => {
                // Its numbers are the parent's, and may be other files' by now.
                std::mem::forget(was);
                Watcher::new().ok()
            }
        };
        let inner = watcher.as_ref().map_or_else(Weak::new, |watcher| Arc::downgrade(&watcher.0));
        let sleeper = Arc::new(Sleeper { state: AtomicU8::new(AWAKE), thread: thread::current(), watcher: inner });
        let waker = Waker::from(sleeper.clone());
        let mut cx = Context::from_waker(&waker);
        // The budget of a task that this thread may be in is not given back while it waits here.
        let mut future = pin!(unconstrained(future));
        loop {
            let polled = match &watcher {
                Some(watcher) => watcher.enter(|| future.as_mut().poll(&mut cx)),
                None => future.as_mut().poll(&mut cx),
            };
            if let Poll::Ready(output) = polled {
                OWN.set(watcher.map(|watcher| (process, watcher)));
                return output;
            }
            if sleeper.sleep(watcher.as_ref()).is_err() {
                // Polled again, sockets go to their runtimes.
                watcher = None;
            }
        }
    }

    impl AsFd for Watcher {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.epoll.as_fd()
        }
    }

    impl std::fmt::Debug for Watcher {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Watcher").field("sockets", &self.0.sockets().len()).finish_non_exhaustive()
        }
    }

    impl Inner {
        pub(super) fn poll_read_ready(&self, socket: BorrowedFd<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            let fd = socket.as_raw_fd();
            let mut sockets = self.sockets();
            // What was there is dropped without the lock: the last waker of a task may drop anything.
            let was = sockets.remove(&fd);
            if let Some(Watched::Ready) = was {
                return Poll::Ready(Ok(()));
            }
            // Before the system may answer.
            sockets.insert(fd, Watched::For(cx.waker().clone()));
            // Once: whoever else uses the socket later wakes nobody here.
            let (data, flags) =
                (EventData::new_u64(fd as u64), EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT);
            let watched = match epoll::modify(&self.epoll, socket, data, flags) {
                // The first time, or the number is that of another socket now.
                Err(Errno::NOENT) => epoll::add(&self.epoll, socket, data, flags),
                other => other,
            };
            if watched.is_err() {
                sockets.remove(&fd);
            }
            drop(sockets);
            watched.map_or_else(|e| Poll::Ready(Err(e.into())), |()| Poll::Pending)
        }

        fn sockets(&self) -> MutexGuard<'_, HashMap<RawFd, Watched>> {
            self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// A future in [`Watcher::poll_for`].
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.wake_by_ref();
        }

        fn wake_by_ref(self: &Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }

    /// A thread in [`block_on`].
    struct Sleeper {
        state: AtomicU8,
        thread: Thread,
        /// Not held: the watcher holds wakers, and so this.
        watcher: Weak<Inner>,
    }

    const AWAKE: u8 = 0;
    const ASLEEP: u8 = 1;
    const WOKEN: u8 = 2;

    impl Sleeper {
        /// Returns when it was woken since it returned the last time.
        fn sleep(&self, watcher: Option<&Watcher>) -> io::Result<()> {
            let change = |from, to| self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
            while !change(WOKEN, AWAKE) {
                if change(AWAKE, ASLEEP) {
                    let heard = watcher.map(|watcher| watcher.wait(None));
                    if heard.is_none() {
                        thread::park();
                    }
                    // From here on nobody has to end the sleep.
                    change(ASLEEP, AWAKE);
                    heard.transpose()?.into_iter().flatten().for_each(Waker::wake);
                }
            }
            Ok(())
        }
    }

    impl Wake for Sleeper {
        fn wake(self: Arc<Self>) {
            self.wake_by_ref();
        }

        fn wake_by_ref(self: &Arc<Self>) {
            if self.state.swap(WOKEN, Ordering::AcqRel) == ASLEEP {
                if let Some(inner) = self.watcher.upgrade() {
                    Watcher(inner).notify();
                }
                self.thread.unpark();
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;
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
    fn a_future_is_polled_for_a_while_and_can_be_waited_for_after_that() {
        let (mut socket, mut other) = pair();
        let watcher = Watcher::new().unwrap();
        let (send, receive) = futures::channel::oneshot::channel();
        let mut polls = 0;
        let mut said = Box::pin(async {
            poll_fn(|cx| {
                polls += 1;
                poll_read_ready(socket.as_fd(), cx).unwrap()
            })
            .await
            .unwrap();
            socket.read_exact(&mut [0]).unwrap();
            receive.await.unwrap()
        });
        assert!(watcher.poll_for(Duration::ZERO, said.as_mut()).is_pending());
        assert!(watcher.poll_for(Duration::from_millis(5), said.as_mut()).is_pending());
        let echo = thread::spawn(move || {
            other.write_all(b"s").unwrap();
            thread::sleep(Duration::from_millis(20));
            send.send("thread").unwrap();
        });
        assert_eq!(watcher.poll_for(Duration::from_secs(60), said.as_mut()), Poll::Ready("thread"));
        drop(said);
        assert!(polls <= 4, "{polls} polls: only who was woken is polled again");
        echo.join().unwrap();

        let mut late = Box::pin(poll_fn(|cx| poll_read_ready(socket.as_fd(), cx).unwrap()));
        assert!(watcher.poll_for(Duration::ZERO, late.as_mut()).is_pending());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        assert!(watcher.enter(|| late.as_mut().poll(&mut Context::from_waker(&waker))).is_pending());
        wait(&watcher);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "the end of the other side wakes who polled last");
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
            block_on(async { WATCHER.with_borrow(|watcher| Arc::downgrade(watcher.as_ref().unwrap())) })
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
}
