//! The kit's face: what to open, how long to wait, what to run.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;

use super::run::supervise;
use super::{Check, CheckResult, Outcome, Report, checks};
use crate::{Connector, ConnectorContext, ContextBuilder, Error, LMCacheMetadata, LocalCpuBackend, Result};

type Open = dyn Fn(LocalCpuBackend) -> BoxFuture<'static, Result<Connector>> + Send + Sync;

/// The checks, over something that opens the store. Cheap to clone.
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
///     println!("{check}"); // a store without `remove`, `list` and `ping` says so here
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Kit {
    open: Arc<Open>,
    metadata: Option<Arc<LMCacheMetadata>>,
    limit: Duration,
    patience: Duration,
    /// Whether memory leaked in a check of this kit.
    leaked: Arc<AtomicBool>,
}

impl Kit {
    /// Checks the store that `open` opens. Each check opens a connector of its own, and hands it a pool of its own: the
    /// connector must read into that one, so that the kit sees what becomes of the memory.
    pub fn new<F: Future<Output = Result<Connector>> + Send + 'static>(
        open: impl Fn(LocalCpuBackend) -> F + Send + Sync + 'static,
    ) -> Self {
        let open = Arc::new(move |backend| open(backend).boxed());
        let (limit, patience) = (Duration::from_secs(60), Duration::from_secs(5));
        Self { open, metadata: None, limit, patience, leaked: Arc::default() }
    }

    /// Checks the store of this URL, with LMCache's defaults for everything else.
    pub fn url(url: &str) -> Self {
        Self::builder(ConnectorContext::builder(url))
    }

    /// Checks the store that this builder opens, with its configuration and metadata; its allocator is replaced.
    pub fn builder(builder: ContextBuilder) -> Self {
        let metadata = builder.metadata_set().cloned();
        let kit = Self::new(move |backend| builder.clone().local_cpu_backend(backend).open());
        Self { metadata, ..kit }
    }

    /// Says what metadata the store was opened with: raw values have only the lengths that it allows.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<Arc<LMCacheMetadata>>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }

    /// How long one check may take before it counts as one that hangs; 60 s unless set.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How long work may go on after its future has ended before the memory it holds counts as leaked; 5 s unless set.
    /// Behind a check in which memory leaked it is a tenth, so that one mistake does not make every check wait.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.patience = grace;
        self
    }

    /// Runs all checks, one after the other.
    pub async fn run(&self) -> Report {
        self.run_some(|_| true, |_| true).await
    }

    /// Runs the checks that are `wanted`, and shows each result as it comes; ends when `show` answers false, and such
    /// a report has not passed.
    ///
    /// **Cancellation.** If the future is dropped, the running check goes on to its end in the background, and cleans up.
    pub async fn run_some(
        &self,
        wanted: impl Fn(&Check) -> bool,
        mut show: impl FnMut(&CheckResult) -> bool,
    ) -> Report {
        let mut report = Report { checks: Vec::new(), interrupted: false };
        for check in checks().iter().filter(|c| wanted(c)) {
            let result = self.run_one(check).await;
            let go_on = show(&result);
            report.checks.push(result);
            if !go_on {
                report.interrupted = true;
                break;
            }
        }
        report
    }

    /// Runs the check of this name; `None` if there is none.
    pub async fn run_check(&self, name: &str) -> Option<CheckResult> {
        let check = checks().iter().find(|c| c.name() == name)?;
        Some(self.run_one(check).await)
    }

    /// Runs the check of this name as the body of a test, on a runtime of its own.
    ///
    /// # Panics
    /// If it fails, or there is no such check. A check that does not apply says why on stderr.
    #[track_caller]
    pub fn test(&self, name: &str) {
        let Some(check) = checks().iter().find(|c| c.name() == name) else { panic!("there is no check `{name}`") };
        let result = supervise(self, check);
        match &result.outcome {
            Outcome::Passed => {}
            Outcome::Skipped(_) => eprintln!("{result}"),
            Outcome::Failed(_) => panic!("{result}"),
        }
    }

    /// On a thread of its own: a connector that blocks its executor holds up nobody else.
    async fn run_one(&self, check: &'static Check) -> CheckResult {
        let (send, receive) = oneshot::channel();
        let kit = self.clone();
        std::thread::spawn(move || {
            // Nobody may be waiting any more.
            let _ = send.send(supervise(&kit, check));
        });
        let lost = || CheckResult::new(check, Outcome::Failed("the check was lost".into()), Duration::ZERO);
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

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// How long memory may take to come back.
    pub(super) fn patience_for_memory(&self) -> Duration {
        if self.leaked.load(Ordering::Relaxed) { self.patience / 10 } else { self.patience }
    }

    pub(super) fn memory_leaked(&self) {
        self.leaked.store(true, Ordering::Relaxed);
    }
}

impl From<&str> for Kit {
    fn from(url: &str) -> Self {
        Self::url(url)
    }
}

impl From<String> for Kit {
    fn from(url: String) -> Self {
        Self::url(&url)
    }
}

impl From<ContextBuilder> for Kit {
    fn from(builder: ContextBuilder) -> Self {
        Self::builder(builder)
    }
}

impl std::fmt::Debug for Kit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kit").field("limit", &self.limit).field("grace", &self.patience).finish_non_exhaustive()
    }
}
