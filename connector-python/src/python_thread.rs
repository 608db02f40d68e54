//! The one thread that calls Python on behalf of the runtime.
//!
//! A thread of the runtime never attaches to the interpreter: it would block for as long as Python code holds the lock.

use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use connectors::runtime::PerProcess;
use pyo3::prelude::*;

use crate::lock;

type Job = Box<dyn FnOnce(Python<'_>) + Send>;

enum State {
    NotStarted,
    Running { jobs: Sender<Job>, thread: JoinHandle<()> },
    Stopped,
}

static STATE: PerProcess<Mutex<State>> = PerProcess::new();

/// Has `job` called on this process's thread that is attached to the interpreter. After [`stop`] the job is dropped.
pub(crate) fn run(job: impl FnOnce(Python<'_>) + Send + 'static) {
    let job: Job = Box::new(job);
    let mut state = lock(STATE.get_or_init(|| Mutex::new(State::NotStarted)));
    if let State::NotStarted = *state {
        *state = start();
    }
    let dropped = match &*state {
        State::Running { jobs, .. } => jobs.send(job).err().map(|e| e.0),
        _ => Some(job),
    };
    // Its drop may call `run` again.
    drop(state);
    drop(dropped);
}

/// Refuses new jobs and waits until `deadline` for those that were given. The calling thread must not be attached.
pub(crate) fn stop(deadline: Instant) {
    // Also before the first job, so that a late one does not start the thread while the interpreter ends.
    let state = STATE.get_or_init(|| Mutex::new(State::NotStarted));
    let state = std::mem::replace(&mut *lock(state), State::Stopped);
    if let State::Running { jobs, thread } = state {
        drop(jobs);
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn start() -> State {
    let (jobs, receive) = channel();
    let spawned = std::thread::Builder::new().name("kvconn-python".into()).spawn(move || run_all(&receive));
    spawned.map_or(State::NotStarted, |thread| State::Running { jobs, thread })
}

fn run_all(jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        // To attach may take milliseconds, so all jobs that came meanwhile run at once.
        Python::attach(|py| {
            for job in std::iter::once(first).chain(jobs.try_iter()) {
                // A job that panics must not take the answers of other calls with it.
                if std::panic::catch_unwind(AssertUnwindSafe(|| job(py))).is_err() {
                    tracing::error!("an answer was lost: its delivery to Python panicked");
                }
            }
        });
    }
}
