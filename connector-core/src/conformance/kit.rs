//! The kit: opens a store and runs checks against it.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;

use super::order::{add, is_basic, needed, ordered};
use super::run::supervise;
use super::{Check, CheckResult, Outcome, Report, checks};
use crate::{Connector, ContextBuilder, Error, LMCacheMetadata, LocalCpuBackend, RemoteUrl, Result};

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
    /// Whether work has outlived its grace already.
    late: Arc<AtomicBool>,
    /// The settings that `open` opens, if the kit was made from a URL.
    builder: Option<ContextBuilder>,
}

/// The results of the checks that all others rely on, for the tests of one [`conformance_tests!`](crate::conformance_tests).
#[doc(hidden)]
pub struct Basics(OnceLock<Report>);

impl Basics {
    #[doc(hidden)]
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }
}

impl Kit {
    /// Checks the store that `open` opens. Each check opens a new connector with a new pool. The connector must read
    /// into that pool, so that the kit can detect leaks.
    pub fn new<F: Future<Output = Result<Connector>> + Send + 'static>(
        open: impl Fn(LocalCpuBackend) -> F + Send + Sync + 'static,
    ) -> Self {
        let open = Arc::new(move |backend| open(backend).boxed());
        let (limit, grace) = (Duration::from_secs(60), Duration::from_secs(5));
        Self { open, metadata: None, limit, grace, late: Arc::default(), builder: None }
    }

    /// The metadata that `open` opens the store with. The kit then puts raw values only of lengths that it allows.
    #[must_use]
    pub fn metadata(mut self, metadata: impl Into<Arc<LMCacheMetadata>>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }

    /// The longest time for one check, 60 s by default. A check that takes longer fails. A call hangs if it takes an eighth
    /// of the limit, and no other call begins or ends meanwhile. Large chunks and batches have more time, and
    /// so has the check of a large batch. The kit skips all checks behind one that hangs.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The longest time, 5 s by default, for which work may outlive its future. Memory that it holds longer counts as
    /// leaked. After the first such work the kit uses a tenth of it, so that one mistake does not make every check wait.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Runs all checks, one after another. The checks that others rely on run first. If one of these fails, the others would
    /// only repeat its failure, so the kit skips them.
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
        for check in ordered().filter(|c| wanted(c)) {
            if report.checks.iter().any(|done| done.name == check.name) {
                continue;
            }
            let result = match needed(&report, check) {
                Some(needed) => CheckResult::needs(check, needed),
                None => self.run_one(check).await,
            };
            let goes_on = add(&mut report, result, &wanted).iter().all(&mut show);
            if !goes_on {
                report.interrupted = true;
                break;
            }
        }
        report
    }

    /// Runs the check with this name as the body of the test `module::name`, in a new runtime. A check that does not apply
    /// gives the reason on stderr. So does a check that needs a failed one, if this process also runs the failed one's test.
    ///
    /// # Panics
    /// If the check fails or does not exist, or if it needs a failed check whose test does not run in this process.
    #[doc(hidden)]
    #[track_caller]
    pub fn test(&self, module: &str, name: &str, basics: &Basics) {
        let Some(check) = checks().iter().find(|c| c.name == name) else { panic!("the kit lacks the check `{name}`") };
        let basics = basics.0.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.expect("a runtime starts").block_on(self.run_some(is_basic, |_| true))
        });
        let result = match (basics.checks.iter().find(|done| done.name == name), needed(basics, check)) {
            (Some(done), _) => done.clone(),
            (None, Some(needed)) => CheckResult::needs(check, needed),
            (None, None) => supervise(self, check),
        };
        let is_tested = |needed: &str| runs_too(&format!("{module}::{needed}"), std::env::args());
        match (&result.outcome, result.needs) {
            (Outcome::Passed, _) => {}
            (Outcome::Skipped(_), needed) if needed.is_none_or(is_tested) => eprintln!("{result}"),
            (Outcome::Skipped(_), Some(needed)) => {
                let cause = basics.failures().find(|failed| failed.name == needed);
                panic!("{result}; {}", cause.map(ToString::to_string).unwrap_or_default())
            }
            _ => panic!("{result}"),
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

    /// The longest time for which work may outlive its future.
    pub(super) fn grace_period(&self) -> Duration {
        if self.late.load(Ordering::Relaxed) { self.grace / 10 } else { self.grace }
    }

    pub(super) fn set_late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    pub(super) fn url(&self) -> Option<&RemoteUrl> {
        self.builder.as_ref()?.url_set()
    }

    /// Opens the store at another URL, with the same settings.
    pub(super) async fn open_at(&self, url: RemoteUrl, backend: LocalCpuBackend) -> Result<Connector> {
        match &self.builder {
            Some(builder) => builder.clone().at(url).local_cpu_backend(backend).open().await,
            None => self.open(backend).await,
        }
    }
}

/// Whether the test harness with these arguments runs this test. If a text may be an option's value or a test to skip, it
/// counts as the name of another test.
fn runs_too(test: &str, mut args: impl Iterator<Item = String>) -> bool {
    let test = test.split_once("::").map_or(test, |(_crate, test)| test);
    args.next();
    let mut names = args.filter(|arg| !arg.starts_with('-')).peekable();
    names.peek().is_none() || names.any(|name| test.contains(&name))
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
        let (metadata, again) = (builder.metadata_set().cloned(), builder.clone());
        let kit = Self::new(move |backend| again.clone().local_cpu_backend(backend).open());
        Self { metadata, builder: Some(builder), ..kit }
    }
}

impl std::fmt::Debug for Kit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kit").field("limit", &self.limit).field("grace", &self.grace).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_runs_too_unless_the_arguments_may_say_otherwise() {
        let test = "acme_kv::conformance::bytes_come_back";
        for (args, runs) in [
            (vec![], true),
            (vec!["--show-output"], true),
            (vec!["conformance"], true),
            (vec!["put_replaces", "bytes"], true),
            (vec!["put_replaces"], false),
            (vec!["--exact", "conformance::put_replaces"], false),
            (vec!["--skip", "slow"], false),
        ] {
            let all = ["program"].into_iter().chain(args.clone()).map(str::to_owned);
            assert_eq!(runs_too(test, all), runs, "{args:?}");
        }
    }
}
