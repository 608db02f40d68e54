//! Ctrl-C and SIGTERM: a flag that a command can read and wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use connectors::runtime::{close_open_stores, exit_patience};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::exit::{EXIT_INTERRUPTED, Failure};
use crate::output;

/// The time between two checks of a blocked command.
const LOOK: Duration = Duration::from_millis(100);

/// The first signal sets it. The second signal ends the process at once, and kvconn says which chunks it loses.
#[derive(Clone)]
pub(crate) struct Interrupt {
    /// The time of the first signal.
    since: watch::Receiver<Option<Instant>>,
    /// Number of begins and ends of [`blocking`](Self::blocking): odd while the command's thread may be blocked.
    edges: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Starts to listen. From now on, the first signal does not end the process.
    pub(crate) fn listen() -> Self {
        let (set, since) = watch::channel(None);
        let edges = Arc::new(AtomicUsize::new(0));
        let mut signals = Signals::new();
        let looked_at = edges.clone();
        tokio::spawn(async move {
            signals.next().await;
            set.send_replace(Some(Instant::now()));
            tokio::select! {
                () = signals.next() => {}
                () = async {
                    blocked(&looked_at).await;
                    let _ = tokio::task::spawn_blocking(|| close_open_stores(exit_patience())).await;
                } => {}
            }
            close_open_stores(Duration::ZERO);
            std::process::exit(EXIT_INTERRUPTED.into());
        });
        Self { since, edges }
    }

    #[cfg(test)]
    pub(crate) fn already_set() -> Self {
        Self { since: watch::channel(Some(Instant::now())).1, edges: Arc::default() }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.since.borrow().is_some()
    }

    /// Returns when the flag is set.
    pub(crate) async fn wait(mut self) {
        if self.since.wait_for(Option::is_some).await.is_err() {
            // The listener has ended, so no signal will come.
            std::future::pending::<()>().await;
        }
    }

    /// Gives work that cleans up and closes stores its time. The time begins when the flag is set.
    pub(crate) async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let too_late = async {
            self.clone().wait().await;
            let since = *self.since.borrow();
            if let Some(since) = since {
                tokio::time::sleep_until(since + exit_patience()).await;
            }
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = too_late => Err(Failure::GaveUp),
        }
    }

    /// Drops the work when the flag is set.
    pub(crate) async fn stops<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.clone().wait() => Err(Failure::Interrupted),
        }
    }

    /// Does work that another program may block without a limit, such as a read from a pipe. A signal that comes then
    /// ends the process. Call this only on the thread of the command.
    pub(crate) fn blocking<T>(&self, work: impl FnOnce() -> T) -> T {
        self.edges.fetch_add(1, Ordering::Relaxed);
        let done = work();
        self.edges.fetch_add(1, Ordering::Relaxed);
        done
    }
}

/// Returns when the command's thread is blocked. Prints a note if the command does not stop within a few checks.
async fn blocked(edges: &AtomicUsize) {
    let mut before = edges.load(Ordering::Relaxed);
    for looks in 1_u32.. {
        tokio::time::sleep(LOOK).await;
        let now = edges.load(Ordering::Relaxed);
        if now == before && now % 2 == 1 {
            return;
        }
        before = now;
        if looks == 3 {
            output::print_note("stopping; interrupt again to stop at once");
        }
    }
}

/// SIGINT and SIGTERM; Ctrl-C alone where there are no such signals.
#[cfg(unix)]
struct Signals([Option<tokio::signal::unix::Signal>; 2]);

#[cfg(unix)]
impl Signals {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self([SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).ok()))
    }

    async fn next(&mut self) {
        let [interrupt, terminate] = &mut self.0;
        let next = async |signal: &mut Option<tokio::signal::unix::Signal>| match signal {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        };
        tokio::select! {
            _ = next(interrupt) => {}
            _ = next(terminate) => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Self {
        Self
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
