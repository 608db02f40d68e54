//! The end of a process that has open stores.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{PerProcess, handle};
use crate::{Error, ErrorKind, Result};

/// The variable that sets [`exit_patience`], in seconds.
const PATIENCE_VARIABLE: &str = "KVCONN_EXIT_PATIENCE";
const PATIENCE: Duration = Duration::from_secs(10);

/// Work that must end before the process does.
pub trait AtExit: Send + Sync {
    /// Ends the work: writes everything that is not written yet.
    fn close(self: Arc<Self>) -> BoxFuture<'static, Result<()>>;

    /// Whether nothing is left to do.
    fn is_done(&self) -> bool;

    /// The number of chunks that are lost if the process ends now, and their bytes. The caller reports this loss, so
    /// the work must not report it again.
    fn report_unwritten(&self) -> (usize, u64) {
        (0, 0)
    }
}

/// A store that was not closed before the process ended, and why.
#[derive(Debug)]
pub struct Unclosed {
    /// Its URL, redacted.
    pub store: String,
    /// The number of chunks that are lost.
    pub chunks: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The error of its `close`, if it ended.
    pub error: Option<Error>,
}

impl fmt::Display for Unclosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` was not closed before the process ended", self.store)?;
        if self.chunks > 0 {
            write!(f, ", and {} chunks of {} bytes are lost", self.chunks, self.bytes)?;
        }
        match &self.error {
            Some(e) => write!(f, ": {}", e.message()),
            None => f.write_str(": its `close` did not end in time"),
        }
    }
}

type Open = Vec<(Box<str>, Weak<dyn AtExit>)>;

/// The stores of this process.
static OPEN: PerProcess<Mutex<Open>> = PerProcess::new();

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has [`close_open_stores`] close this work of the store with this redacted URL, unless it is dropped before.
pub fn at_exit(store: impl Into<Box<str>>, work: Weak<dyn AtExit>) {
    let mut open = lock(OPEN.get_or_init(Mutex::default));
    open.retain(|(_, work)| work.strong_count() > 0);
    open.push((store.into(), work));
}

/// How long a program should wait for its stores when it ends: 10 seconds, or `KVCONN_EXIT_PATIENCE`.
pub fn exit_patience() -> Duration {
    let Some(set) = std::env::var_os(PATIENCE_VARIABLE).filter(|text| !text.is_empty()) else { return PATIENCE };
    let seconds = set.to_str().and_then(|text| text.trim().parse().ok());
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_else(|| {
        say(&format!(
            "`{PATIENCE_VARIABLE}` is `{}`, not a number of seconds: kvconn waits {PATIENCE:?}",
            set.display()
        ));
        PATIENCE
    })
}

/// Closes every store that this process opened and did not close, all at once, within `patience` altogether. Call it
/// when the program ends, before [`shut_down`](super::shut_down). Logs and returns the stores that lost something.
pub fn close_open_stores(patience: Duration) -> Vec<Unclosed> {
    let Some(open) = OPEN.get() else { return Vec::new() };
    let open: Vec<_> = lock(open).drain(..).filter_map(|(store, work)| Some((store, work.upgrade()?))).collect();
    let open: Vec<_> = open.into_iter().filter(|(_, work)| !work.is_done()).collect();
    let mut errors: Vec<Option<Result<()>>> = open.iter().map(|_| None).collect();
    if let (Ok(runtime), false) = (handle(), open.is_empty()) {
        let (send, receive) = channel();
        for (i, (_, work)) in open.iter().enumerate() {
            let (send, close) = (send.clone(), AssertUnwindSafe(work.clone().close()).catch_unwind());
            runtime.spawn(async move {
                let panicked = |_| Err(Error::new(ErrorKind::Other, "its `close` panicked"));
                let _ = send.send((i, close.await.unwrap_or_else(panicked)));
            });
        }
        drop(send);
        let start = Instant::now();
        let mut wait = || {
            // `start + patience` may overflow.
            while let Ok((i, answer)) = receive.recv_timeout(patience.saturating_sub(start.elapsed())) {
                errors[i] = Some(answer);
            }
        };
        match Handle::try_current() {
            // The stores may need the other tasks of this thread.
            Ok(here) if here.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(wait),
            _ => wait(),
        }
    }
    let mut unclosed: Vec<Unclosed> = Vec::new();
    for ((store, work), error) in open.into_iter().zip(errors) {
        let (chunks, bytes) = work.report_unwritten();
        let error = match error {
            Some(Ok(())) if chunks == 0 => continue,
            Some(answer) => answer.err(),
            None => None,
        };
        let one = Unclosed { store: store.into(), chunks, bytes, error };
        // A store and its buffer have one URL. One report is enough: that of the buffer, which counts chunks.
        match unclosed.iter_mut().find(|other| other.store == one.store && (other.chunks == 0 || chunks == 0)) {
            Some(other) if other.chunks == 0 => *other = one,
            Some(_) => {}
            None => unclosed.push(one),
        }
    }
    unclosed.iter().for_each(|one| say(&one.to_string()));
    unclosed
}

/// Logs a loss, or writes it to stderr if the program has no `tracing` subscriber.
pub fn say(message: &str) {
    tracing::warn!("{message}");
    if !tracing::dispatcher::has_been_set() {
        eprintln!("kvconn: {message}");
    }
}
