//! The runtime of this process.
//!
//! The blocking API and the Python wheel run their calls on it. It also drives timers, and the sockets of a store
//! that was opened on a runtime of a single thread, because that thread may be blocked in a call.
//!
//! No blocking call waits on one of its threads. The caller's thread polls the call once, spawns it here and waits for a
//! channel. A blocking call inside a task here waits in `block_in_place`, which moves the thread's other tasks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::{Error, ErrorKind, Result};

/// The least and the most threads. With two, sockets and timers run while one task blocks its thread. Eight threads can keep
/// the eight connections busy that a redis store has by default.
const THREADS: (usize, usize) = (2, 8);

/// A value that each process makes once. A child of `fork` has none of its parent's threads, so it makes another value.
pub struct PerProcess<T>(OnceLock<Made<T>>);

struct Made<T> {
    process: u32,
    value: T,
    in_child: OnceLock<Box<Made<T>>>,
}

impl<T> Made<T> {
    fn new(process: u32, make: &impl Fn() -> T) -> Self {
        Self { process, value: make(), in_child: OnceLock::new() }
    }
}

impl<T> PerProcess<T> {
    /// No value yet.
    #[expect(clippy::new_without_default, reason = "a static needs a const function")]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// This process's value, if it was made.
    pub fn get(&self) -> Option<&T> {
        let process = std::process::id();
        let mut made = self.0.get()?;
        while made.process != process {
            made = made.in_child.get()?;
        }
        Some(&made.value)
    }

    /// This process's value.
    pub fn get_or_init(&self, make: impl Fn() -> T) -> &T {
        let process = std::process::id();
        let mut made = self.0.get_or_init(|| Made::new(process, &make));
        while made.process != process {
            made = made.in_child.get_or_init(|| Box::new(Made::new(process, &make)));
        }
        &made.value
    }
}

struct OwnRuntime {
    handle: Handle,
    runtime: Mutex<Option<Runtime>>,
    ended: AtomicBool,
}

impl OwnRuntime {
    fn start() -> Result<Self> {
        let threads = available_parallelism().map_or(THREADS.0, |n| n.get().clamp(THREADS.0, THREADS.1));
        let built = Builder::new_multi_thread().worker_threads(threads).thread_name("kvconn").enable_all().build();
        let runtime = built.map_err(|e| Error::io(e, "start kvconn's own threads"))?;
        let handle = runtime.handle().clone();
        Ok(Self { handle, runtime: Mutex::new(Some(runtime)), ended: AtomicBool::new(false) })
    }
}

static RUNTIME: PerProcess<Result<OwnRuntime>> = PerProcess::new();

/// The runtime of this process.
///
/// # Errors
/// `Io` if the system starts no threads; `Closed` after [`shut_down`].
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
    fn a_value_is_made_once() {
        static NUMBER: PerProcess<Mutex<u32>> = PerProcess::new();
        assert!(NUMBER.get().is_none());
        *NUMBER.get_or_init(|| Mutex::new(1)).lock().unwrap() += 1;
        assert_eq!(*NUMBER.get_or_init(|| Mutex::new(1)).lock().unwrap(), 2);
        assert!(NUMBER.get().is_some());
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
