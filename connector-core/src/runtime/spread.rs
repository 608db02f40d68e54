//! The futures of one batch, on several threads.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::Handle;
use tokio::task::coop::has_budget_remaining;
use tracing::{Span, dispatcher};

use super::fork_join::{batch_threads, fork_join};
use crate::layer::LocalWaits;

/// Bytes that are worth a thread. It takes about as long to wake a thread as to copy a fortieth of them, and the
/// first wake of a process also starts the thread.
const WORTH_A_THREAD: usize = 1 << 20;
/// The most polls of each future in one poll of all. Then other tasks of the caller's thread run.
const ROUNDS: usize = 8;

/// Futures that one task polls, as with [`FuturesUnordered`](futures::stream::FuturesUnordered): a poll polls those that were
/// woken. If they have enough bytes to move, kvconn's own threads poll some of them at the same time.
///
/// All threads have left the futures when a poll returns. So the futures may borrow, and a drop of this drops them at once.
pub struct Spread<F: Future> {
    slots: Vec<Slot<F>>,
    /// Slots without a future.
    vacant: Vec<usize>,
    /// Outputs that the caller has not taken yet, and their slots.
    ended: Mutex<VecDeque<(usize, F::Output)>>,
    queue: Arc<Queue>,
    /// About how many bytes a poll moves.
    bytes: usize,
    first_poll_moves: bool,
    /// Polls that move nothing: too little work for a thread.
    idle_polls: usize,
}

struct Slot<F> {
    future: Mutex<Option<Pin<Box<F>>>>,
    waker: Waker,
}

/// Which futures are ready. The wakers share it.
struct Queue {
    state: Mutex<State>,
    /// Wakes the threads that wait for a future to poll.
    ready: Condvar,
}

struct State {
    ready: VecDeque<usize>,
    slots: Vec<SlotState>,
    /// Futures that have not ended.
    running: usize,
    /// Futures that threads poll now.
    polled: usize,
    /// Threads that wait for a future to poll.
    waiting: usize,
    /// How many polls may follow before the caller returns.
    polls_left: usize,
    /// Whether the caller is inside a poll, so that it sees what is ready.
    is_inside: bool,
    caller: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum SlotState {
    /// Its future waits for a wake, or it has none.
    Idle,
    /// In the queue.
    Ready,
    /// A thread polls it.
    Polled,
    /// A thread polls it, and it was woken meanwhile.
    Woken,
}

impl<F: Future + Send> Spread<F>
where
    F::Output: Send,
{
    /// No futures. `first_poll_moves` says whether the first poll of a future moves bytes, as that of a put does. That of a get
    /// only sends a request.
    pub fn new(first_poll_moves: bool) -> Self {
        let state = State {
            ready: VecDeque::new(),
            slots: Vec::new(),
            running: 0,
            polled: 0,
            waiting: 0,
            polls_left: 0,
            is_inside: false,
            caller: None,
        };
        let queue = Arc::new(Queue { state: Mutex::new(state), ready: Condvar::new() });
        let (slots, vacant, ended) = (Vec::new(), Vec::new(), Mutex::default());
        Self { slots, vacant, ended, queue, bytes: 0, first_poll_moves, idle_polls: 0 }
    }

    /// Adds a future, one poll of which moves about `bytes` bytes.
    pub fn push(&mut self, bytes: usize, future: F) {
        self.bytes = self.bytes.max(bytes);
        self.idle_polls += usize::from(!self.first_poll_moves);
        let future = Box::pin(future);
        let at = match self.vacant.pop() {
            Some(at) => {
                *lock(&self.slots[at].future) = Some(future);
                at
            }
            None => {
                let at = self.slots.len();
                let waker = Waker::from(Arc::new(SlotWaker { queue: self.queue.clone(), at }));
                self.slots.push(Slot { future: Mutex::new(Some(future)), waker });
                at
            }
        };
        self.queue.add(at);
    }

    /// The output of a future that ended, or `None` when all outputs were taken.
    ///
    /// # Panics
    /// If a future panics.
    pub async fn next(&mut self) -> Option<F::Output> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<F::Output>> {
        self.queue.enter(cx.waker());
        let polled = self.poll_ready();
        let is_left = self.queue.leave();
        if is_left && polled.is_pending() {
            cx.waker().wake_by_ref();
        }
        polled
    }

    /// Polls what is ready until a future has ended.
    fn poll_ready(&mut self) -> Poll<Option<F::Output>> {
        loop {
            if let Some((at, output)) = lock(&self.ended).pop_front() {
                self.vacant.push(at);
                return Poll::Ready(Some(output));
            }
            let (running, ready) = self.queue.counts();
            if running == 0 {
                return Poll::Ready(None);
            }
            if ready == 0 || !has_budget_remaining() {
                return Poll::Pending;
            }
            match self.helpers(ready) {
                0 => {
                    self.idle_polls = self.idle_polls.saturating_sub(1);
                    self.queue.take().into_iter().for_each(|at| self.poll(at));
                }
                helpers => self.share(helpers),
            }
        }
    }

    /// How many threads the futures that are ready are worth, beside the caller's.
    fn helpers(&self, ready: usize) -> usize {
        let worth = ready.min(ready.saturating_mul(self.bytes) / WORTH_A_THREAD);
        if worth < 2 || self.idle_polls > 0 { 0 } else { worth.min(batch_threads()) - 1 }
    }

    /// Polls what is ready on several threads, until nothing is.
    fn share(&self, helpers: usize) {
        let Ok(runtime) = Handle::try_current() else { return self.work() };
        // What a future finds on its caller's thread.
        let (span, waits) = (Span::current(), LocalWaits::current());
        // A default of a thread, even an empty one, is a subscriber for `has_been_set`, which stays true.
        let dispatch = dispatcher::has_been_set().then(|| dispatcher::get_default(Clone::clone));
        let poll_as_caller = || {
            while let Some(at) = self.queue.wait() {
                // Each poll has the budget of a task's poll.
                runtime.block_on(async { self.poll(at) });
            }
        };
        let help = || {
            let _dispatch = dispatch.as_ref().map(dispatcher::set_default);
            span.in_scope(|| waits.scope(poll_as_caller));
        };
        fork_join(helpers, &help, || self.work());
    }

    /// The caller's part of [`share`](Self::share).
    fn work(&self) {
        while has_budget_remaining()
            && let Some(at) = self.queue.wait()
        {
            self.poll(at);
        }
        self.queue.stop();
    }

    /// Polls a future that this thread has taken from the queue.
    fn poll(&self, at: usize) {
        let slot = &self.slots[at];
        // A future that panics has ended.
        let mut polling = Polling { queue: &self.queue, at, has_ended: true };
        // Not `if let`, which would hold the lock.
        let future = lock(&slot.future).take();
        let Some(mut future) = future else {
            polling.has_ended = false;
            return;
        };
        match future.as_mut().poll(&mut Context::from_waker(&slot.waker)) {
            Poll::Pending => {
                *lock(&slot.future) = Some(future);
                polling.has_ended = false;
            }
            Poll::Ready(output) => {
                drop(future);
                lock(&self.ended).push_back((at, output));
            }
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A slot has a new future.
    fn add(&self, at: usize) {
        let mut state = self.lock();
        state.running += 1;
        if at == state.slots.len() {
            state.slots.push(SlotState::Idle);
        }
        // An old waker may have queued the slot already.
        state.queue(at);
    }

    /// The caller starts a poll.
    fn enter(&self, caller: &Waker) {
        let mut state = self.lock();
        state.is_inside = true;
        state.polls_left = state.running.saturating_mul(ROUNDS);
        if !state.caller.as_ref().is_some_and(|known| known.will_wake(caller)) {
            state.caller = Some(caller.clone());
        }
    }

    /// The caller ends its poll. True if a future is ready.
    fn leave(&self) -> bool {
        let mut state = self.lock();
        state.is_inside = false;
        !state.ready.is_empty()
    }

    /// How many futures have not ended, and how many of them the caller may poll.
    fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.running, state.ready.len().min(state.polls_left))
    }

    /// A future to poll.
    fn take(&self) -> Option<usize> {
        self.lock().take()
    }

    /// A future to poll, once one is ready. `None` if no thread polls one meanwhile, or after [`stop`](Self::stop).
    fn wait(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            let taken = state.take();
            if state.polls_left == 0 && state.waiting > 0 {
                self.ready.notify_all();
            }
            if taken.is_some() || state.polls_left == 0 || state.polled == 0 {
                return taken;
            }
            state.waiting += 1;
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// Ends the waits of all threads.
    fn stop(&self) {
        let mut state = self.lock();
        state.polls_left = 0;
        // A call of the system, also if no thread waits.
        if state.waiting > 0 {
            self.ready.notify_all();
        }
    }
}

impl State {
    fn queue(&mut self, at: usize) {
        if self.slots[at] == SlotState::Idle {
            self.slots[at] = SlotState::Ready;
            self.ready.push_back(at);
        }
    }

    fn take(&mut self) -> Option<usize> {
        if self.polls_left == 0 {
            return None;
        }
        let at = self.ready.pop_front()?;
        self.slots[at] = SlotState::Polled;
        self.polled += 1;
        self.polls_left -= 1;
        Some(at)
    }
}

struct SlotWaker {
    queue: Arc<Queue>,
    at: usize,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.queue.lock();
        match state.slots[self.at] {
            SlotState::Polled => state.slots[self.at] = SlotState::Woken,
            SlotState::Idle => {
                state.queue(self.at);
                if state.waiting > 0 {
                    self.queue.ready.notify_one();
                } else if !state.is_inside
                    && let Some(caller) = state.caller.take()
                {
                    drop(state);
                    caller.wake();
                }
            }
            SlotState::Ready | SlotState::Woken => {}
        }
    }
}

/// A thread polls a future.
struct Polling<'a> {
    queue: &'a Queue,
    at: usize,
    has_ended: bool,
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.polled -= 1;
        state.running -= usize::from(self.has_ended);
        let before = std::mem::replace(&mut state.slots[self.at], SlotState::Idle);
        if before == SlotState::Woken && !self.has_ended {
            state.queue(self.at);
        }
        if state.waiting > 0 {
            // Nothing is left to wait for, or there is one more for another thread.
            if state.polled == 0 {
                self.queue.ready.notify_all();
            } else if !state.ready.is_empty() {
                self.queue.ready.notify_one();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
