//! Questions that an event loop's own thread asks and hears the answer of.
//!
//! The thread that runs the loop polls them, and the loop watches what they wait for, as it watches its own sockets: an
//! answer wakes the one thread that needs it. Through the runtime it would wake a thread there, which wakes the one that
//! brings news, which wakes the loop; and for a small question waking threads is most of the time.
//!
//! A question that is alone may keep the loop's thread for a [moment](super::moment).
//!
//! Nobody promises that a loop goes on: it may be stopped for good, or busy. So a question that has waited for a while goes
//! on in the runtime, as every other call.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use connectors::Result;
use connectors::watch::{Moments, Watcher};
use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::answer::{Answer, Caller, Work, or_panicked};
use super::moment;
use crate::own::Own;
use crate::runtime::{Process, lock};

/// How long a question waits for the loop's thread, at least; at most twice as long.
const PATIENCE: Duration = Duration::from_millis(20);

/// The desk of one loop. The loop has the only lasting hold on it, so it is gone when the loop is closed or gone, and all
/// of its questions with it: nobody could be told any more.
pub(super) struct Desk {
    process: &'static Process,
    watcher: Watcher,
    /// Whether the loop still has it.
    open: AtomicBool,
    questions: Mutex<Questions>,
    next_id: AtomicU64,
    woken: Mutex<Vec<u64>>,
    /// The loop knows that somebody was woken, or is about to look.
    told: AtomicBool,
    /// Somebody looks after those that wait for long.
    minded: AtomicBool,
    moments: Mutex<Moments>,
}

/// By number.
#[derive(Default)]
struct Questions {
    here: HashMap<u64, Question>,
    in_runtime: HashMap<u64, AbortHandle>,
}

struct Question {
    work: Work,
    caller: Caller,
    since: Instant,
}

/// What came of asking.
pub(super) enum Asked {
    /// It is known.
    Answered(Result<Answer>),
    /// It is not. The number of the question, which is then to be [kept](Desk::keep).
    Waits(u64),
}

/// By the loop's address, which is no other loop's as long as the desk is open.
static DESKS: Mutex<Option<HashMap<usize, Weak<Desk>>>> = Mutex::new(None);

/// What the loop calls when somebody was woken.
#[pyclass(frozen, module = "kvconn._kvconn")]
struct Reader(Own<Arc<Desk>>);

#[pymethods]
impl Reader {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        // A child that was forked since has a copy of the loop, whose descriptors are the parent's.
        let Ok(desk) = self.0.get() else { return Ok(()) };
        let Ok(handle) = desk.process.handle() else {
            // The interpreter exits. What was heard must not be there when the loop looks again.
            let _ = desk.watcher.wait(Some(Duration::ZERO));
            return Ok(());
        };
        let mut settled = Ok(());
        for (caller, answer) in py.detach(|| desk.turn(handle)) {
            // Python notices Ctrl-C in there, too. The others are told before the loop is.
            settled = caller.settle(py, answer).and(settled);
        }
        settled
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Ok(desk) = self.0.get() {
            // Somebody else may have it for a moment more.
            desk.open.store(false, Ordering::Release);
        }
    }
}

impl Desk {
    /// The desk of a loop, on whose thread this is called; none if the loop cannot watch descriptors.
    pub(super) fn of(process: &'static Process, event_loop: &Bound<'_, PyAny>) -> PyResult<Option<Arc<Self>>> {
        let address = event_loop.as_ptr().addr();
        // Only locked by who is attached, and not while Python is called: so by nobody else while a process is forked.
        let known = lock(&DESKS).get_or_insert_default().get(&address).and_then(Weak::upgrade);
        let is_its = |desk: &Arc<Self>| std::ptr::eq(desk.process, process) && desk.open.load(Ordering::Acquire);
        if let Some(desk) = known.filter(is_its) {
            return Ok(Some(desk));
        }
        let Some(desk) = Self::start(process, event_loop)? else { return Ok(None) };
        let mut desks = lock(&DESKS);
        let desks = desks.get_or_insert_default();
        desks.retain(|_, desk| desk.strong_count() > 0);
        desks.insert(address, Arc::downgrade(&desk));
        Ok(Some(desk))
    }

    fn start(process: &'static Process, event_loop: &Bound<'_, PyAny>) -> PyResult<Option<Arc<Self>>> {
        let py = event_loop.py();
        // No descriptor left, say: it goes without, too.
        let Ok(watcher) = Watcher::new() else { return Ok(None) };
        let fd = watcher.as_fd().as_raw_fd();
        let desk = Arc::new(Self {
            process,
            watcher,
            open: AtomicBool::new(true),
            questions: Mutex::default(),
            next_id: AtomicU64::new(0),
            woken: Mutex::default(),
            told: AtomicBool::new(false),
            minded: AtomicBool::new(false),
            moments: Mutex::default(),
        });
        // In a context of its own: the loop would keep that of whoever asks first.
        let context = py.import("contextvars")?.getattr("Context")?.call0()?;
        let add_reader = event_loop.getattr(intern!(py, "add_reader"))?;
        match context.call_method1("run", (add_reader, fd, Reader(Own::new(desk.clone())))) {
            Ok(_) => Ok(Some(desk)),
            // Not every loop can, and the system has limits of its own.
            Err(e) if e.is_instance_of::<PyException>(py) => {
                tracing::debug!(error = %e, "the event loop cannot watch what its questions wait for");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Asks, on the loop's thread.
    pub(super) fn ask(self: &Arc<Self>, handle: &Handle, work: &mut Work) -> Asked {
        // Who waits here is not made to wait for others.
        let alone = lock(&self.questions).here.is_empty();
        let mut polled = Poll::Pending;
        if alone {
            let _inside = handle.enter();
            polled = moment::poll(&self.moments, work.as_mut());
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        if polled.is_pending() {
            polled = self.poll(handle, id, work);
        }
        lock(&self.moments).asked(Instant::now());
        match polled {
            Poll::Ready(answer) => Asked::Answered(or_panicked(answer)),
            Poll::Pending => Asked::Waits(id),
        }
    }

    /// Keeps a question that waits. On the loop's thread: whoever was woken meanwhile is polled later.
    pub(super) fn keep(self: &Arc<Self>, handle: &Handle, id: u64, work: Work, caller: Caller) {
        self.put_back(handle, id, Question { work, caller, since: Instant::now() });
    }

    /// Forgets a question. One that waits here has given back what it held when this returns.
    pub(super) fn cancel(&self, id: u64) {
        let mut questions = lock(&self.questions);
        let (here, in_runtime) = (questions.here.remove(&id), questions.in_runtime.remove(&id));
        drop(questions);
        drop(here);
        if let Some(task) = in_runtime {
            task.abort();
        }
    }

    /// Polls whoever was woken, on the loop's thread; says who is to be told what.
    fn turn(self: &Arc<Self>, handle: &Handle) -> Vec<(Caller, Result<Answer>)> {
        // From here on whoever wakes is seen below.
        self.told.store(true, Ordering::Release);
        match self.watcher.wait(Some(Duration::ZERO)) {
            Ok(ready) => ready.into_iter().for_each(Waker::wake),
            Err(e) => tracing::error!(error = %e, "the sockets of an event loop cannot be watched"),
        }
        // Once each: whoever wakes itself meanwhile lets the loop go on first.
        let woken = std::mem::take(&mut *lock(&self.woken));
        let mut answered = Vec::new();
        for id in woken {
            // Not here are those that the runtime has, or nobody waits for.
            let Some(mut question) = lock(&self.questions).here.remove(&id) else { continue };
            match self.poll(handle, id, &mut question.work) {
                Poll::Ready(answer) => answered.push((question.caller, or_panicked(answer))),
                Poll::Pending => self.put_back(handle, id, question),
            }
        }
        self.told.store(false, Ordering::Release);
        if !lock(&self.woken).is_empty() {
            self.tell();
        }
        answered
    }

    fn poll(self: &Arc<Self>, handle: &Handle, id: u64, work: &mut Work) -> Poll<<Work as Future>::Output> {
        let waker = Waker::from(Arc::new(Turn { id, desk: Arc::downgrade(self) }));
        self.watcher.enter(|| {
            let _inside = handle.enter();
            work.as_mut().poll(&mut Context::from_waker(&waker))
        })
    }

    fn put_back(self: &Arc<Self>, handle: &Handle, id: u64, question: Question) {
        lock(&self.questions).here.insert(id, question);
        if !self.minded.swap(true, Ordering::AcqRel) {
            handle.spawn(mind(Arc::downgrade(self)));
        }
    }

    fn tell(&self) {
        if !self.told.swap(true, Ordering::AcqRel) {
            self.watcher.notify();
        }
    }

    /// Hands those over to the runtime that wait for long. False when none is left here.
    fn hand_over(self: &Arc<Self>, handle: &Handle) -> bool {
        let mut questions = lock(&self.questions);
        let late: Vec<_> = questions.here.extract_if(|_, question| question.since.elapsed() >= PATIENCE).collect();
        let any = !late.is_empty();
        for (id, Question { work, caller, .. }) in late {
            let desk = Arc::downgrade(self);
            // It cannot end before it is in the list: it needs the lock.
            let task = handle.spawn(async move {
                let answer = or_panicked(work.await);
                if let Some(desk) = desk.upgrade() {
                    lock(&desk.questions).in_runtime.remove(&id);
                }
                caller.tell(answer);
            });
            questions.in_runtime.insert(id, task.abort_handle());
        }
        let any_left = !questions.here.is_empty();
        drop(questions);
        if any {
            self.watcher.wake_all();
        }
        any_left
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let questions = std::mem::take(&mut *lock(&self.questions));
        questions.in_runtime.into_values().for_each(|task| task.abort());
    }
}

/// Looks after the questions of a desk until there are none.
async fn mind(desk: Weak<Desk>) {
    let handle = Handle::current();
    loop {
        tokio::time::sleep(PATIENCE).await;
        let Some(desk) = desk.upgrade() else { return };
        if desk.hand_over(&handle) {
            continue;
        }
        desk.minded.store(false, Ordering::Release);
        // One may have come before that was said.
        if lock(&desk.questions).here.is_empty() || desk.minded.swap(true, Ordering::AcqRel) {
            return;
        }
    }
}

/// Wakes one question.
struct Turn {
    id: u64,
    desk: Weak<Desk>,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(desk) = self.desk.upgrade() {
            lock(&desk.woken).push(self.id);
            desk.tell();
        }
    }
}
