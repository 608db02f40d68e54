//! What one process has once: the runtime that all stores live on, and the thread that brings news to Python.
//!
//! A child of `fork` has none of its parent's threads. It gets a [`Process`] of its own at its first call, and everything
//! that was made before the fork remembers its process and refuses to be used in another one: nothing waits for a thread
//! that is not there.

use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use connectors::runtime::{self, PerProcess};
use connectors::{Error, ErrorKind, Result};
use pyo3::prelude::*;
use tokio::runtime::Handle;

use crate::errors::OrRaise;

/// How long the interpreter's exit waits for what cannot be cut off, such as a read from a disk.
const EXIT_PATIENCE: Duration = Duration::from_secs(10);

/// How often a call that waits looks whether Ctrl-C was pressed.
pub(crate) const SIGNALS_EVERY: Duration = Duration::from_millis(100);

type News = Box<dyn FnOnce(Python<'_>) + Send>;

/// One process's thread that brings news to Python. Its runtime is [`runtime`].
pub(crate) struct Process {
    id: u32,
    messenger: Mutex<Option<Messenger>>,
    /// Set at exit: from then on nothing new starts.
    exiting: OnceLock<()>,
}

/// The one thread that attaches to the interpreter. No thread of the runtime ever does: it would stand still for as long
/// as some Python code keeps the lock.
struct Messenger {
    news: Sender<News>,
    thread: JoinHandle<()>,
}

static PROCESS: PerProcess<Process> = PerProcess::new();

impl Process {
    /// This process's own.
    pub(crate) fn current() -> &'static Self {
        PROCESS.get_or_init(|| Self { id: std::process::id(), messenger: Mutex::new(None), exiting: OnceLock::new() })
    }

    /// Whether this is the process that runs; not in a child that was forked since.
    pub(crate) fn is_current(&self) -> bool {
        self.id == std::process::id()
    }

    /// # Errors
    /// `Closed` in a child that was forked since.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_current() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Closed, "the store was opened before this process was forked")
            .with_hint("open it again in the child"))
    }

    /// The runtime.
    ///
    /// # Errors
    /// `Io` if threads could not be started, `Closed` if the interpreter exits, or in a child that was forked since.
    pub(crate) fn handle(&self) -> Result<&'static Handle> {
        self.check()?;
        runtime::handle()
    }

    /// Has `news` called on a thread that is attached to the interpreter. After the exit it is dropped; in a child that was
    /// forked since, forgotten: the thread is not there, and whoever held the lock at the fork isn't, either.
    pub(crate) fn tell(&'static self, news: impl FnOnce(Python<'_>) + Send + 'static) {
        if !self.is_current() {
            std::mem::forget(news);
            return;
        }
        let mut messenger = lock(&self.messenger);
        if messenger.is_none() && self.exiting.get().is_none() {
            *messenger = Messenger::start();
        }
        let news: News = Box::new(news);
        // It fails only when the thread is gone, and then nobody listens any more.
        let unheard = match &*messenger {
            Some(messenger) => messenger.news.send(news).err().map(|e| e.0),
            None => Some(news),
        };
        // What is dropped with it may have news, too.
        drop(messenger);
        drop(unheard);
    }

    /// Ends everything, before the interpreter frees the memory that stores may still write to. Must not be attached.
    fn exit(&self) {
        if self.exiting.set(()).is_err() {
            return;
        }
        let deadline = Instant::now() + EXIT_PATIENCE;
        // Drops every call in flight where it waits, which ends it; waits for what runs.
        runtime::shut_down(EXIT_PATIENCE);
        let messenger = lock(&self.messenger).take();
        if let Some(Messenger { news, thread }) = messenger {
            drop(news);
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl Messenger {
    fn start() -> Option<Self> {
        let (send, receive) = channel();
        let thread = std::thread::Builder::new().name("kvconn-python".into()).spawn(move || bring(&receive)).ok()?;
        Some(Self { news: send, thread })
    }
}

fn bring(news: &Receiver<News>) {
    while let Ok(first) = news.recv() {
        // Attaching may take milliseconds: whatever came meanwhile is brought at once.
        Python::attach(|py| {
            for next in std::iter::once(first).chain(news.try_iter()) {
                // One that panics must not take the answers of all other calls with it.
                if std::panic::catch_unwind(AssertUnwindSafe(|| next(py))).is_err() {
                    tracing::error!("an answer was lost: to bring it to Python panicked");
                }
            }
        });
    }
}

/// Waits for a future without the interpreter's lock. Ctrl-C ends the wait, and the future.
///
/// # Errors
/// `KeyboardInterrupt`, or whatever the signal's handler raises; `Closed` if the runtime is gone.
pub(crate) fn block_on<T: Send + 'static>(
    py: Python<'_>,
    future: impl Future<Output = T> + Send + 'static,
) -> PyResult<T> {
    let handle = Process::current().handle().or_raise(py)?;
    let (send, receive) = sync_channel(1);
    let task = handle.spawn(async move {
        let _ = send.send(future.await);
    });
    let answer = wait_for(py, receive);
    if answer.is_err() {
        task.abort();
    }
    answer
}

/// Handles what signals have come, Ctrl-C for one. For a thread that is detached from Python.
///
/// # Errors
/// `KeyboardInterrupt`, or whatever a signal's handler raises.
pub(crate) fn check_signals() -> PyResult<()> {
    // Python handles them on its main thread, most often the process's first. The others do not attach for nothing: they may
    // still be here when the interpreter is gone.
    let is_first = rustix::thread::gettid() == rustix::process::getpid();
    if is_first { Python::attach(|py| py.check_signals()) } else { Ok(()) }
}

/// Waits for an answer without the interpreter's lock.
///
/// # Errors
/// Whatever a signal's handler raises meanwhile; `Closed` if nobody is left to answer.
pub(crate) fn wait_for<T: Send>(py: Python<'_>, answers: Receiver<T>) -> PyResult<T> {
    // A lock only because it is shared with the closure.
    let receiver = Mutex::new(answers);
    loop {
        match py.detach(|| lock(&receiver).recv_timeout(SIGNALS_EVERY)) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(ErrorKind::Closed, "the call was cut off")).or_raise(py);
            }
        }
    }
}

/// A lock that a panic cannot poison: each of ours guards data that is whole at every moment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[pyfunction]
fn _exit(py: Python<'_>) {
    py.detach(|| {
        if let Some(process) = PROCESS.get() {
            process.exit();
        }
    });
}

pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let exit = wrap_pyfunction!(_exit, m)?;
    m.py().import("atexit")?.call_method1("register", (exit,))?;
    Ok(())
}
