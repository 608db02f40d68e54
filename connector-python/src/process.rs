//! Values that belong to one process, and the end of a process.
#![expect(unsafe_code, reason = "drops a value in one process only")]

use std::cell::Cell;
use std::ffi::CString;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use connectors::runtime::PerProcess;
use connectors::{Error, ErrorKind, Result, runtime};
use pyo3::exceptions::PyResourceWarning;
use pyo3::prelude::*;

use crate::blocking::receive;
use crate::{lock, python_thread};

/// How long the interpreter's exit waits for what cannot be cut off, such as a read from a disk.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The process that made something, by its number of forks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessId(u64);

impl ProcessId {
    /// The process that runs.
    pub(crate) fn current() -> Self {
        Self(runtime::forks())
    }

    /// False in a child that was forked since.
    pub(crate) fn is_current(self) -> bool {
        self.0 == runtime::forks()
    }

    /// # Errors
    /// `Closed` in a child that was forked since.
    pub(crate) fn check(self) -> Result<()> {
        if self.is_current() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Closed, "the store was opened before this process was forked")
            .with_hint("open it again in the child"))
    }
}

/// A value of one process. A child that was forked since has a copy and never drops it. To drop the copy could take a lock
/// that a thread held at the fork, or close what the parent still uses.
pub(crate) struct ProcessLocal<T> {
    process: ProcessId,
    value: ManuallyDrop<T>,
}

impl<T> ProcessLocal<T> {
    /// A value of this process.
    pub(crate) fn new(value: T) -> Self {
        Self { process: ProcessId::current(), value: ManuallyDrop::new(value) }
    }

    /// The value.
    ///
    /// # Errors
    /// `Closed` in a child that was forked since.
    pub(crate) fn get(&self) -> Result<&T> {
        self.process.check()?;
        Ok(&self.value)
    }

    /// The value, in any process. For reads that take no lock and need no thread.
    pub(crate) fn peek(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for ProcessLocal<T> {
    fn drop(&mut self) {
        if self.process.is_current() {
            // SAFETY: nothing uses the value after this.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

/// The name of a store, until the program closes it.
type Name = Mutex<Option<String>>;

/// The stores of this process.
static OPENED: PerProcess<Mutex<Vec<Weak<Name>>>> = PerProcess::new();

/// Warns of a store that the program did not close, like Python's files.
pub(crate) struct Unclosed(Arc<Name>);

impl Unclosed {
    /// A store of this name was opened.
    pub(crate) fn new(py: Python<'_>, name: &str) -> PyResult<Self> {
        in_python(py, || py.import("kvconn._exit")?.call_method0("opened"))?;
        let this = Self(Arc::new(Mutex::new(Some(name.to_owned()))));
        let mut unclosed = lock(OPENED.get_or_init(Mutex::default));
        unclosed.retain(|store| store.strong_count() > 0);
        unclosed.push(Arc::downgrade(&this.0));
        Ok(this)
    }

    /// The place in the program that opened the store.
    pub(crate) fn set_place(&self, place: &str) {
        if let Some(name) = lock(&self.0).as_mut() {
            *name = format!("{name}, opened at {place}");
        }
    }

    /// The program closes the store.
    pub(crate) fn close(&self) {
        lock(&self.0).take();
    }
}

impl Drop for Unclosed {
    fn drop(&mut self) {
        Python::try_attach(|py| warn_of(py, &self.0));
    }
}

fn warn_of(py: Python<'_>, store: &Name) {
    let Some(store) = lock(store).take() else { return };
    // The drop may come while an exception is on its way.
    let raised = PyErr::take(py);
    let message = format!("unclosed store {store}: call `close`, or open it in a `with` block");
    let warning = CString::new(message).unwrap_or_default();
    if let Err(e) = in_python(py, || PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &warning, 1)) {
        e.write_unraisable(py, None);
    }
    if let Some(raised) = raised {
        raised.restore(py);
    }
}

/// Stores that are being closed.
#[pyclass(frozen, module = "kvconn._kvconn")]
struct Closing(Mutex<Receiver<Vec<runtime::Unclosed>>>);

#[pymethods]
impl Closing {
    /// Waits until they are closed and the log has their errors. Gives a text for each store that lost something.
    fn wait(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        py.detach(|| {
            let closed = lock(&self.0);
            let unclosed = receive(&closed)?.unwrap_or_default();
            let (logging, logged) = channel::<()>();
            python_thread::run(move |_| drop(logging));
            receive(&logged)?;
            Ok(unclosed.iter().map(runtime::Unclosed::to_string).collect())
        })
    }
}

/// Starts to close every store that the program left open.
#[pyfunction]
fn _close_open_stores(py: Python<'_>) -> PyResult<Closing> {
    let unclosed = OPENED.get().map(|stores| std::mem::take(&mut *lock(stores))).unwrap_or_default();
    unclosed.iter().filter_map(Weak::upgrade).for_each(|store| warn_of(py, &store));
    let (closed, closing) = channel();
    // On a thread of its own, so that the caller can look for signals.
    let close = move || drop(closed.send(runtime::close_open_stores(runtime::exit_patience())));
    std::thread::Builder::new().name("kvconn-exit".into()).spawn(close)?;
    Ok(Closing(Mutex::new(closing)))
}

/// How long the interpreter's exit waits for threads that run Python code for this library.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// The threads that run Python code for this library.
static IN_PYTHON: PerProcess<AtomicUsize> = PerProcess::new();

/// The thread that ended this library.
static ENDED_BY: PerProcess<OnceLock<ThreadId>> = PerProcess::new();

/// How long a thread that wants to run Python code waits after the end of this library, for the interpreter to end.
const END_PAUSE: Duration = Duration::from_secs(1);

/// Runs Python code, such as a class's `__init__`, for code in Rust.
///
/// When the interpreter ends, it exits every other thread that waits for its lock, up to Python 3.13. Rust code on the
/// thread's stack would abort the process, unless it waits in PyO3, which stops such a thread. So the interpreter's
/// exit waits for the threads in here, and other threads pause once before they enter.
pub(crate) fn in_python<T>(py: Python<'_>, work: impl FnOnce() -> T) -> T {
    struct Inside(&'static AtomicUsize);
    impl Drop for Inside {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    thread_local!(static HAS_PAUSED: Cell<bool> = const { Cell::new(false) });
    let enter = || {
        let threads = IN_PYTHON.get_or_init(AtomicUsize::default);
        threads.fetch_add(1, Ordering::SeqCst);
        Inside(threads)
    };
    let mut inside = enter();
    let ended_by = ENDED_BY.get().and_then(OnceLock::get);
    if ended_by.is_some_and(|thread| *thread != std::thread::current().id()) && !HAS_PAUSED.replace(true) {
        drop(inside);
        // Not for ever: a function that Python calls at exit may wait for this thread.
        py.detach(|| std::thread::sleep(END_PAUSE));
        inside = enter();
    }
    let answer = work();
    drop(inside);
    answer
}

/// Closes the stores, and ends every call before the interpreter frees the memory that stores may still write to.
#[pyfunction]
fn _exit(py: Python<'_>) -> PyResult<()> {
    // Ctrl-C ends the first wait. The second one must still happen.
    let closed = py.import("kvconn._exit").and_then(|exit| exit.call_method0("close_stores"));
    py.detach(|| {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        runtime::shut_down(EXIT_TIMEOUT);
        python_thread::stop(deadline);
        let _ = ENDED_BY.get_or_init(OnceLock::new).set(std::thread::current().id());
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        while IN_PYTHON.get().is_some_and(|threads| threads.load(Ordering::SeqCst) > 0) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    closed.map(drop)
}

/// Has Python call [`_exit`] when it exits.
pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let exit = wrap_pyfunction!(_exit, m)?;
    m.py().import("atexit")?.call_method1("register", (exit,))?;
    m.add_function(wrap_pyfunction!(_close_open_stores, m)?)
}
