//! With an epoll descriptor and an eventfd.

use std::cell::Cell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use tokio::task::coop::unconstrained;

use super::{Before, Watching};

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
        let _before = Before::set(Watching::By(self.0.clone()));
        poll()
    }

    /// Waits until a socket is ready, or [`notify`](Self::notify) is called, or the time is over; says whom to wake.
    ///
    /// # Errors
    /// What the system says; never `Interrupted`.
    pub fn wait(&self, at_most: Option<Duration>) -> io::Result<Vec<Waker>> {
        // Longer than the system can count is for ever.
        let timeout = at_most.and_then(|at_most| Timespec::try_from(at_most).ok());
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

    /// Wakes whoever waits for a socket here, to be polled anew: for who polls it from now on elsewhere, where nobody would hear
    /// what arrives. A future that polls only those of its parts that were woken does not know.
    pub fn wake_all(&self) {
        let sockets = std::mem::take(&mut *self.0.sockets());
        for watched in sockets.into_values() {
            if let Watched::For(waker) = watched {
                waker.wake();
            }
        }
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
    let Ok(output) = run(future, None, || Ok::<_, Infallible>(()));
    output
}

/// As [`block_on`], but calls `check` each time that so long has passed without an answer, and no sooner. For what a thread
/// should not sleep through, like signals that its program handles. If `check` fails the future is not polled any more.
///
/// # Errors
/// Those of `check`.
pub fn try_block_on<F: Future, E>(
    future: F,
    every: Duration,
    check: impl FnMut() -> Result<(), E>,
) -> Result<F::Output, E> {
    run(future, Some(every), check)
}

fn run<F: Future, E>(
    future: F,
    every: Option<Duration>,
    mut check: impl FnMut() -> Result<(), E>,
) -> Result<F::Output, E> {
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
    let mut checked = Instant::now();
    loop {
        let polled = match &watcher {
            Some(watcher) => watcher.enter(|| future.as_mut().poll(&mut cx)),
            None => future.as_mut().poll(&mut cx),
        };
        if let Poll::Ready(output) = polled {
            OWN.set(watcher.map(|watcher| (process, watcher)));
            return Ok(output);
        }
        let mut left = every.map(|every| every.saturating_sub(checked.elapsed()));
        if left == Some(Duration::ZERO) {
            check()?;
            checked = Instant::now();
            left = every;
        }
        if sleeper.sleep(watcher.as_ref(), left).is_err() {
            // Polled again, sockets go to their runtimes.
            if let Some(watcher) = watcher.take() {
                watcher.wake_all();
            }
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
        let (data, flags) = (EventData::new_u64(fd as u64), EventFlags::IN | EventFlags::RDHUP | EventFlags::ONESHOT);
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

/// A thread in [`block_on`] or [`try_block_on`].
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
    /// Returns when it was woken since it returned the last time, or, at times for no reason, when the time is over.
    fn sleep(&self, watcher: Option<&Watcher>, at_most: Option<Duration>) -> io::Result<()> {
        let change = |from, to| self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
        while !change(WOKEN, AWAKE) {
            if change(AWAKE, ASLEEP) {
                let heard = match watcher {
                    Some(watcher) => watcher.wait(at_most),
                    None => {
                        thread::park_timeout(at_most.unwrap_or(Duration::MAX));
                        Ok(Vec::new())
                    }
                };
                // From here on nobody has to end the sleep.
                change(ASLEEP, AWAKE);
                heard?.into_iter().for_each(Waker::wake);
                if at_most.is_some() {
                    change(WOKEN, AWAKE);
                    break;
                }
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
