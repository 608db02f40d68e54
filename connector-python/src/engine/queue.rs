//! The order of an engine's submits: loads before stores, in parts, with a bound on the bytes of stores.
//!
//! A submit only puts a job into the queue and wakes one worker. A worker takes one part of a job after the other, and
//! ends when no part is left. So a long store does not delay a load for longer than the parts under way.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use connectors::{Connector, Error, ErrorKind, LocalCpuBackend, Result, runtime};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::watch;

use super::job::{AnswerTo, Completion, Job, Kind, Transfer, cut_off};
use super::stats::{Counters, METRICS};

/// The most memory for values of several pieces. The queue takes it when a part needs it, and keeps it. With values of up to
/// 128 MiB, the parts under way need less. A part that finds no memory fails.
const COPY_BYTES: usize = 1 << 30;
/// The limits of one queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The longest time until a lookup is answered.
    pub(crate) lookup_timeout: Duration,
    /// The most bytes of stores that wait or run.
    pub(crate) store_backlog: u64,
}

/// The submits of one engine to one store. `H` keeps the memory of a transfer alive.
pub(crate) struct Queue<H: Send + 'static> {
    pub(super) connector: Connector,
    pub(super) limits: Limits,
    pub(super) copies: LocalCpuBackend,
    events: [OwnedFd; 3],
    state: Mutex<State<H>>,
    next_number: AtomicU64,
    idle: Condvar,
    /// Set to true to cut off the parts under way.
    cut: watch::Sender<bool>,
}

pub(crate) struct State<H: Send + 'static> {
    pub(super) closed: bool,
    /// The jobs with parts that no worker has taken.
    pub(super) loads: VecDeque<Waiting<H>>,
    pub(super) stores: VecDeque<Waiting<H>>,
    /// Parts under way.
    pub(super) load_parts: usize,
    pub(super) store_parts: usize,
    /// The transfers that hold memory, and the bytes of stores and of loads.
    pub(super) live: HashMap<u64, Live>,
    pub(super) live_bytes: [u64; 2],
    /// Lookups that have no answer yet.
    pub(super) lookups: usize,
    /// Lookups that were answered without the store, and whose call has not come back.
    pub(super) overdue_lookups: usize,
    /// Whether the last call did not reach the store.
    pub(super) lost: bool,
    done: [Vec<Completion<H>>; 3],
    pub(super) counters: Counters,
    /// The part of the counters and gauges that the metrics of the process have.
    pub(super) recorded: [f64; METRICS.len()],
    /// The time of the last log line about shed stores, and their number at that time.
    pub(super) logged_shed: (Option<Instant>, u64),
    pub(super) logged_overdue: Option<Instant>,
    /// The time of the last log line about refused chunks, and their number since then.
    pub(super) logged_refused: (Option<Instant>, usize),
}

pub(super) struct Waiting<H: Send + 'static> {
    pub(super) job: Arc<Job<H>>,
    /// The first key that no worker has taken.
    pub(super) next: usize,
}

impl<H: Send + 'static> Waiting<H> {
    /// Fails the keys that no worker has taken. The caller does not hold the lock.
    fn fail(self, error: &Error) {
        self.job.fail(self.next..self.job.keys.len(), error);
    }
}

pub(super) struct Live {
    pub(super) bytes: u64,
    pub(super) began: Option<Instant>,
}

impl<H: Send + 'static> Queue<H> {
    /// A queue of submits to this store.
    ///
    /// # Errors
    /// `Io` if the system gives no eventfd.
    pub(crate) fn new(connector: Connector, limits: Limits) -> Result<Arc<Self>> {
        let event = || {
            eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
                .map_err(|e| Error::io(e.into(), "make an eventfd"))
        };
        let queue = Arc::new(Self {
            connector,
            limits,
            copies: LocalCpuBackend::with_capacity(COPY_BYTES),
            events: [event()?, event()?, event()?],
            state: Mutex::new(State {
                closed: false,
                loads: VecDeque::new(),
                stores: VecDeque::new(),
                load_parts: 0,
                store_parts: 0,
                live: HashMap::new(),
                live_bytes: [0; 2],
                lookups: 0,
                overdue_lookups: 0,
                lost: false,
                done: [Vec::new(), Vec::new(), Vec::new()],
                counters: Counters::default(),
                recorded: [0.0; METRICS.len()],
                logged_shed: (None, 0),
                logged_overdue: None,
                logged_refused: (None, 0),
            }),
            next_number: AtomicU64::new(0),
            idle: Condvar::new(),
            cut: watch::Sender::new(false),
        });
        queue.watch()?;
        Ok(queue)
    }

    /// The descriptor that is readable while completions of this kind wait to be drained. It may be readable once more.
    pub(crate) fn event_fd(&self, kind: Kind) -> i32 {
        self.events[kind as usize].as_raw_fd()
    }

    /// The completions of this kind since the last call.
    pub(crate) fn drain(&self, kind: Kind) -> Vec<Completion<H>> {
        let mut state = self.state();
        // Cleared before the completions are taken, so that a completion in between sets the eventfd again.
        let _ = rustix::io::read(&self.events[kind as usize], &mut [0; 8]);
        std::mem::take(&mut state.done[kind as usize])
    }

    /// Queues a store or a load, and gives its number.
    pub(crate) fn submit(self: &Arc<Self>, kind: Kind, transfer: Transfer<H>) -> u64 {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let job = Arc::new(Job::new(self.clone(), kind, number, transfer));
        // Jobs that end here are dropped without the lock, which their delivery takes.
        let (part, refused, shed) = {
            let mut state = self.state();
            state.live.insert(number, Live { bytes: job.bytes, began: None });
            state.live_bytes[kind as usize] += job.bytes;
            state.counters.submitted(kind, job.keys.len());
            match runtime::handle() {
                _ if state.closed => (None, Some((job, closed())), Vec::new()),
                Err(exits) => (None, Some((job, exits)), Vec::new()),
                // The drop of `job` completes it.
                Ok(_) if job.keys.len() == 0 => (None, Some((job, closed())), Vec::new()),
                Ok(_) => {
                    state.waiting(kind).push_back(Waiting { job, next: 0 });
                    let shed = state.shed(self.limits.store_backlog);
                    (self.next_part(&mut state), None, shed)
                }
            }
        };
        self.spawn(part);
        if let Some((job, error)) = refused {
            job.fail(0..job.keys.len(), &error);
        }
        let full = "the backlog of stores is full, and this one waited longest";
        for job in shed {
            job.fail(0..job.keys.len(), &Error::new(ErrorKind::StoreFull, full));
        }
        number
    }

    /// Records whether a call reached the store, and logs the chunks that the store refused. Gives the first timeout of a call
    /// that did not reach it.
    pub(super) fn note<'a, T>(&self, answers: &'a [Result<T>]) -> Option<&'a Error> {
        let errors = || answers.iter().filter_map(|answer| answer.as_ref().err());
        let lost = |e: &Error| matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
        // Without the errors of a closed client, and without stale chunks, which the counters show.
        let refused = |e: &Error| !(lost(e) || matches!(e.kind(), ErrorKind::Closed | ErrorKind::SizeMismatch));
        if let Some(first) = errors().find(|e| refused(e)) {
            self.log_refused(errors().filter(|e| refused(e)).count(), first);
        }
        let is_lost = errors().filter(|e| lost(e)).count() == answers.len();
        if !answers.is_empty() {
            self.state().lost = is_lost;
        }
        errors().find(|e| is_lost && e.kind() == ErrorKind::Timeout)
    }

    /// Counts and delivers the result of a transfer, whose memory is free.
    pub(super) fn end_transfer(
        &self,
        kind: Kind,
        number: u64,
        stale: u64,
        completion: Completion<H>,
        answer_to: AnswerTo<H>,
    ) {
        let mut state = self.state();
        if let Some(live) = state.live.remove(&number) {
            state.live_bytes[kind as usize] -= live.bytes;
        }
        state.counters.ended(kind, &completion, stale);
        self.deliver(state, kind, completion, answer_to);
    }

    /// Delivers a completion.
    pub(super) fn deliver(
        &self,
        mut state: MutexGuard<'_, State<H>>,
        kind: Kind,
        completion: Completion<H>,
        answer_to: AnswerTo<H>,
    ) {
        match answer_to {
            AnswerTo::Drain => {
                state.done[kind as usize].push(completion);
                // Without the lock, because the write wakes the thread that drains. A drain in between finds the completion, and
                // the eventfd is readable once more. A full counter refuses the write, and is readable, too.
                drop(state);
                let _ = rustix::io::write(&self.events[kind as usize], &1u64.to_ne_bytes());
            }
            AnswerTo::Thread(thread) => {
                drop(state);
                // Nothing receives it after Ctrl-C.
                let _ = thread.send(completion);
            }
        }
        self.idle.notify_all();
    }

    /// Refuses new submits. Those under way continue.
    pub(crate) fn close(&self) {
        self.state().closed = true;
    }

    /// Whether submits are refused.
    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Fails the parts that wait, and cuts off the parts under way.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
        self.fail_waiting(&cut_off());
    }

    pub(super) fn cuts(&self) -> watch::Receiver<bool> {
        self.cut.subscribe()
    }

    pub(super) fn fail_waiting(&self, error: &Error) {
        let waiting: Vec<_> = {
            let mut state = self.state();
            let State { loads, stores, .. } = &mut *state;
            loads.drain(..).chain(stores.drain(..)).collect()
        };
        waiting.into_iter().for_each(|waiting| waiting.fail(error));
    }

    /// Fails the parts of stores that no worker has taken.
    pub(crate) fn cancel_stores(&self) {
        let waiting = std::mem::take(&mut self.state().stores);
        let error = Error::new(ErrorKind::Unavailable, "the store does not answer, so its queued stores are cancelled");
        waiting.into_iter().for_each(|waiting| waiting.fail(&error));
    }

    /// Fails the parts of one transfer that no worker has taken.
    pub(crate) fn cancel(&self, number: u64, error: &Error) {
        let cancelled = {
            let mut state = self.state();
            let mut take = |kind| {
                let waiting = state.waiting(kind);
                let at = waiting.iter().position(|waiting| waiting.job.number == number)?;
                waiting.remove(at)
            };
            take(Kind::Load).or_else(|| take(Kind::Store))
        };
        if let Some(cancelled) = cancelled {
            cancelled.fail(error);
        }
    }

    /// Waits up to this time until nothing is under way; true if so.
    pub(crate) fn wait_idle(&self, longest: Duration) -> bool {
        let waited = self.idle.wait_timeout_while(self.state(), longest, |state| !state.is_idle());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_idle()
    }

    /// Stores and loads that were not drained, and the bytes of their memory.
    pub(crate) fn pending(&self) -> (usize, u64) {
        let state = self.state();
        let done = || state.done[..2].iter().flatten();
        let jobs = state.live.len() + done().count();
        (jobs, state.live_bytes.iter().sum::<u64>() + done().map(|done| done.memory).sum::<u64>())
    }

    /// Takes the holders of memory out of the completions that wait.
    pub(crate) fn take_held(&self) -> Vec<H> {
        self.state().done.iter_mut().flatten().filter_map(|done| done.held.take()).collect()
    }

    /// `ok`, `lost` or `closed`.
    pub(crate) fn condition(&self) -> &'static str {
        let state = self.state();
        match () {
            () if state.closed => "closed",
            () if state.lost || state.overdue_lookups > 0 => "lost",
            () => "ok",
        }
    }

    /// Whether the last call did not reach the store.
    pub(crate) fn is_lost(&self) -> bool {
        self.state().lost
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State<H>> {
        // The state is whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H: Send + 'static> State<H> {
    fn is_idle(&self) -> bool {
        self.live.is_empty() && self.lookups == 0
    }

    fn waiting(&mut self, kind: Kind) -> &mut VecDeque<Waiting<H>> {
        if kind == Kind::Load { &mut self.loads } else { &mut self.stores }
    }

    /// Takes the stores that waited longest out of the queue, until the others are within the bound. A store alone may be larger
    /// than the bound: otherwise it could never be stored. The caller fails them without the lock.
    fn shed(&mut self, bound: u64) -> Vec<Arc<Job<H>>> {
        let mut total = self.live_bytes[Kind::Store as usize];
        let mut shed = Vec::new();
        while total > bound {
            let Some(at) = self.stores.iter().position(|waiting| waiting.next == 0) else { break };
            let bytes = self.stores[at].job.bytes;
            if bytes == total {
                break;
            }
            total -= bytes;
            self.counters.shed_stores += 1;
            self.counters.shed_bytes += bytes;
            shed.extend(self.stores.remove(at).map(|waiting| waiting.job));
        }
        shed
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the client is closed")
}
