//! The runtime of this process.
//!
//! The blocking API and the Python wheel run their calls on it. It also drives timers, and the sockets of a store
//! that was opened on a runtime of a single thread, because that thread may be blocked in a call.
//!
//! No blocking call waits on one of its threads. The caller's thread polls the call once, spawns it here and waits for a
//! channel. A blocking call inside a task here waits in `block_in_place`, which moves the thread's other tasks.

mod batch;
mod exit;
mod fork;
mod fork_join;
mod spread;

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::{Error, ErrorKind, Result, redact};

pub use exit::{AtExit, Unclosed, at_exit, close_open_stores, exit_patience, say};
pub(crate) use fork::OfProcess;
#[cfg(test)]
pub(crate) use fork::tests::in_child;
pub use fork::{PerProcess, forks};
pub use fork_join::{batch_threads, fork_join};
pub use spread::Spread;

/// The variable that sets the number of threads.
const THREADS_VARIABLE: &str = "KVCONN_THREADS";
/// The least and the most threads, unless the variable sets them. With two, sockets and timers run while one task
/// blocks its thread. Each thread moves 1 to 4 GiB/s of a batch on an object store. A host has many processes with a runtime
/// like this one, so more than eight waste memory.
const THREADS: (usize, usize) = (2, 8);
/// More threads are a mistake.
const MOST_THREADS: usize = 1024;

struct OwnRuntime {
    handle: Handle,
    runtime: Mutex<Option<Runtime>>,
    ended: AtomicBool,
}

impl OwnRuntime {
    fn start() -> Result<Self> {
        let built = Builder::new_multi_thread()
            .worker_threads(threads()?)
            .thread_name("kvconn")
            .on_thread_start(batch::schedule_as_batch)
            .enable_all()
            .build();
        let runtime = built.map_err(|e| Error::io(e, "start kvconn's own threads"))?;
        let handle = runtime.handle().clone();
        Ok(Self { handle, runtime: Mutex::new(Some(runtime)), ended: AtomicBool::new(false) })
    }
}

/// The number of threads of the runtime: as many as the CPUs, but two to eight, or `KVCONN_THREADS`.
///
/// # Errors
/// `InvalidOption` if the variable is not a number of threads.
pub fn threads() -> Result<usize> {
    let default = || available_parallelism().map_or(THREADS.0, |n| n.get().clamp(THREADS.0, THREADS.1));
    Ok(threads_set()?.unwrap_or_else(default))
}

/// The number of threads that `KVCONN_THREADS` sets.
fn threads_set() -> Result<Option<usize>> {
    threads_of(std::env::var_os(THREADS_VARIABLE).as_deref())
}

fn threads_of(set: Option<&OsStr>) -> Result<Option<usize>> {
    let Some(set) = set.filter(|text| !text.is_empty()) else { return Ok(None) };
    let number = set.to_str().and_then(|text| text.trim().parse().ok()).filter(|n| (1..=MOST_THREADS).contains(n));
    number.map(Some).ok_or_else(|| {
        let shown = redact(&set.to_string_lossy());
        Error::new(ErrorKind::InvalidOption, format!("`{THREADS_VARIABLE}` is `{shown}`"))
            .with_hint(format!("set it to a number from 1 to {MOST_THREADS}, or unset it"))
    })
}

static RUNTIME: PerProcess<Result<OwnRuntime>> = PerProcess::new();

/// The runtime of this process.
///
/// # Errors
/// `Io` if the system starts no threads; `InvalidOption` if `KVCONN_THREADS` is not a number of threads; `Closed` after
/// [`shut_down`].
pub fn handle() -> Result<&'static Handle> {
    let own = RUNTIME.get_or_init(OwnRuntime::start).as_ref().map_err(Error::clone)?;
    if own.ended.load(Ordering::Acquire) {
        return Err(Error::new(ErrorKind::Closed, "kvconn's runtime was shut down: the process exits"));
    }
    Ok(&own.handle)
}

/// Ends the runtime of this process. Drops every task, then waits up to `patience` for blocking work. Do not call it
/// on one of the runtime's threads.
pub fn shut_down(patience: Duration) {
    let Some(Ok(own)) = RUNTIME.get() else { return };
    own.ended.store(true, Ordering::Release);
    let runtime = own.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(runtime) = runtime {
        runtime.shutdown_timeout(patience);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_sets_the_number_of_threads() {
        for (text, wanted) in
            [("1", Some(1)), (" 16 ", Some(16)), ("0", None), ("four", None), ("1025", None), ("-1", None)]
        {
            let found = threads_of(Some(OsStr::new(text)));
            assert_eq!(found.as_ref().ok().copied().flatten(), wanted, "{text}");
            assert!(found.is_ok() || found.unwrap_err().to_string().contains("from 1 to 1024"));
        }
        let e = threads_of(Some(OsStr::new("redis://u:hunter2@h:1"))).unwrap_err();
        assert!(!e.to_string().contains("hunter2"), "{e}");
        for unset in [None, Some(OsStr::new(""))] {
            assert_eq!(threads_of(unset).unwrap(), None);
        }
    }

    #[test]
    fn a_task_that_blocks_its_thread_does_not_stop_the_timers() {
        let (send, receive) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let runtime = handle().unwrap();
        let blocked = runtime.spawn(async move { ended.recv().ok() });
        runtime.spawn(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            send.send(()).unwrap();
        });
        receive.recv_timeout(Duration::from_secs(30)).expect("the timer fires");
        drop(end);
        assert_eq!(runtime.block_on(blocked).unwrap(), None);
    }
}
