//! The kit: opens a store and runs checks against it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;

use super::run::supervise;
use super::{Check, CheckResult, Outcome, Report, checks};
use crate::{Connector, ContextBuilder, Error, LMCacheMetadata, LocalCpuBackend, Result};

type Open = dyn Fn(LocalCpuBackend) -> BoxFuture<'static, Result<Connector>> + Send + Sync;

/// Runs the checks against a store. Cheap to clone. Made from a URL or a [`ContextBuilder`] with `Kit::from`, or from a
/// function that opens the store with [`new`](Self::new).
///
/// ```
/// # use std::collections::HashMap;
/// # use std::sync::Mutex;
/// # use connector_core::*;
/// # #[derive(Default)]
/// # struct Acme(Mutex<HashMap<CacheKey, MemoryObj>>);
/// # impl RemoteConnector for Acme {
/// #     async fn exists(&self, key: &CacheKey) -> Result<bool> { Ok(self.0.lock().unwrap().contains_key(key)) }
/// #     async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> { Ok(self.0.lock().unwrap().get(key).cloned()) }
/// #     async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
/// #         self.0.lock().unwrap().insert(key.clone(), MemoryObj::from_vec(chunk.to_vec(), chunk.layout().clone())?);
/// #         Ok(())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use connector_core::conformance::Kit;
///
/// let kit = Kit::new(|_backend| async { Ok(Connector::new("acme", Acme::default())) });
/// let report = kit.run().await;
/// assert!(report.passed(), "{report}");
/// for check in report.skipped() {
///     println!("{check}"); // this store has no `remove`, `list` and `ping`
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Kit {
    open: Arc<Open>,
    metadata: Option<Arc<LMCacheMetadata>>,
    limit: Duration,
    grace: Duration,
    /// Whether memory leaked in an earlier check.
    leaked: Arc<AtomicBool>,
}

impl Kit {
    /// Checks the store that `open` opens. Each check opens a new connector with a new pool. The connector must read
    /// into that pool, so that the kit can detect leaks.
    pub fn new<F: Future<Output = Result<Connector>> + Send + 'static>(
        open: impl Fn(LocalCpuBackend) -> F + Send + Sync + 'static,
    ) -> Self {
        let open = Arc::new(move |backend| open(backend).boxed());
        let (limit, grace) = (Duration::from_secs(60), Duration::from_secs(5));
        Self { open, metadata: None, limit, grace, leaked: Arc::default() }
    }

    /// The metadata that `open` opens the store with. The kit then puts raw values only of lengths that it allows.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<Arc<LMCacheMetadata>>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }

    /// The longest time for one check, 60 s by default. A check that takes longer fails.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The longest time, 5 s by default, for which work may outlive its future. Memory that it holds longer counts as
    /// leaked. After a leak the kit uses a tenth of it, so that one mistake does not make every check wait.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Runs all checks, one after another.
    pub async fn run(&self) -> Report {
        self.run_some(|_| true, |_| true).await
    }

    /// Runs the checks for which `wanted` is true, and calls `show` with each result. If `show` returns false, the run
    /// ends early, and the report does not pass.
    ///
    /// **Cancellation.** If the future is dropped, the running check continues in the background and removes its keys.
    pub async fn run_some(
        &self,
        wanted: impl Fn(&Check) -> bool,
        mut show: impl FnMut(&CheckResult) -> bool,
    ) -> Report {
        let mut report = Report { checks: Vec::new(), interrupted: false };
        for check in checks().iter().filter(|c| wanted(c)) {
            let result = self.run_one(check).await;
            report.interrupted = !show(&result);
            report.checks.push(result);
            if report.interrupted {
                break;
            }
        }
        report
    }

    /// Runs the check with this name as the body of a test, in a new runtime. A check that does not apply says why on
    /// stderr.
    ///
    /// # Panics
    /// If the check fails or does not exist.
    #[doc(hidden)]
    #[track_caller]
    pub fn test(&self, name: &str) {
        let Some(check) = checks().iter().find(|c| c.name == name) else { panic!("the kit lacks the check `{name}`") };
        let result = supervise(self, check);
        match &result.outcome {
            Outcome::Passed => {}
            Outcome::Skipped(_) => eprintln!("{result}"),
            Outcome::Failed(_) => panic!("{result}"),
        }
    }

    /// Runs the check on a new thread: a connector that blocks its executor must not block the caller.
    async fn run_one(&self, check: &'static Check) -> CheckResult {
        let (send, receive) = oneshot::channel();
        let kit = self.clone();
        std::thread::spawn(move || {
            // The caller may have dropped the receiver.
            let _ = send.send(supervise(&kit, check));
        });
        let lost = || CheckResult::new(check, Outcome::Failed("the check's thread panicked".into()), Duration::ZERO);
        receive.await.unwrap_or_else(|_| lost())
    }

    pub(super) async fn open(&self, backend: LocalCpuBackend) -> Result<Connector, Error> {
        (self.open)(backend).await
    }

    pub(super) fn raw_metadata(&self) -> Option<&LMCacheMetadata> {
        self.metadata.as_deref()
    }

    pub(super) fn time_limit(&self) -> Duration {
        self.limit
    }

    pub(super) fn grace_period(&self) -> Duration {
        self.grace
    }

    /// The longest time for which a call may hold memory after it ended.
    pub(super) fn grace_for_memory(&self) -> Duration {
        if self.leaked.load(Ordering::Relaxed) { self.grace / 10 } else { self.grace }
    }

    pub(super) fn set_leaked(&self) {
        self.leaked.store(true, Ordering::Relaxed);
    }
}

/// Checks the store at this URL, with LMCache's defaults for everything else.
impl From<&str> for Kit {
    fn from(url: &str) -> Self {
        Self::from(crate::builder(url))
    }
}

impl From<String> for Kit {
    fn from(url: String) -> Self {
        Self::from(&*url)
    }
}

/// Checks the store that this builder opens, with its configuration and metadata. The kit replaces its allocator.
impl From<ContextBuilder> for Kit {
    fn from(builder: ContextBuilder) -> Self {
        let metadata = builder.metadata_set().cloned();
        let kit = Self::new(move |backend| builder.clone().local_cpu_backend(backend).open());
        Self { metadata, ..kit }
    }
}

impl std::fmt::Debug for Kit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kit").field("limit", &self.limit).field("grace", &self.grace).finish_non_exhaustive()
    }
}
