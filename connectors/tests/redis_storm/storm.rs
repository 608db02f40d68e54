//! Stores under load, and the record of their calls.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use connectors::{Connector, ErrorKind, LocalCpuBackend, PoolAllocator, Result};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::caller::Caller;
use crate::checked::{chunk, key, until};

/// The callers of all stores together.
const CALLERS: u64 = 32;

/// The operations after the last trouble.
const CALM_OPERATIONS: u64 = 1_000;

/// Options of each store. A failover takes seconds, so that calls with these limits fail during one.
pub(crate) const OPTIONS: &str = "connect_timeout_ms=1000&io_timeout_ms=2000&retries=0";

/// A call takes the limits above a few times at most, even on a busy machine.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// The length of a storm.
#[derive(Clone, Copy)]
pub(crate) struct Length {
    /// The fewest operations of all callers together.
    pub(crate) operations: u64,
    /// The pause of a caller after each operation.
    pub(crate) pause: Duration,
}

/// The storm lasts as long as one round of trouble.
pub(crate) const SHORT: Length = Length { operations: 2_000, pause: Duration::from_millis(20) };
pub(crate) const LONG: Length = Length { operations: 100_000, pause: Duration::ZERO };

/// A store under load.
pub(crate) struct Storm {
    pub(crate) url: String,
    pub(crate) connector: Connector,
    pub(crate) pool: PoolAllocator,
    pub(crate) record: Arc<Record>,
}

/// The number of calls and the longest one, by operation and outcome.
type Calls = BTreeMap<(&'static str, String), (u64, Duration)>;

/// The record of all calls of all stores.
pub(crate) struct Record {
    /// Odd while the servers may lose chunks: a master is dead or paused. Greater afterwards.
    pub(crate) losses: AtomicU64,
    operations: AtomicU64,
    calm: AtomicBool,
    calls: Mutex<Calls>,
}

/// The servers' trouble.
pub(crate) trait Trouble: Send + 'static {
    /// One round. The servers are whole when it returns.
    fn round(&mut self, storms: &[Arc<Storm>], runtime: &tokio::runtime::Handle);
}

/// Runs callers on a store at each URL while `trouble` goes on, and then checks that the stores have what they must.
pub(crate) async fn rage(urls: &[String], length: Length, mut trouble: impl Trouble) {
    let record = Arc::new(Record {
        losses: AtomicU64::new(0),
        operations: AtomicU64::new(0),
        calm: AtomicBool::new(false),
        calls: Mutex::default(),
    });
    let mut storms = Vec::new();
    for url in urls {
        let pool = PoolAllocator::new(256 << 20);
        let backend = LocalCpuBackend::with_allocator(pool.clone());
        let connector = connectors::builder(url).local_cpu_backend(backend).open().await;
        let connector = connector.unwrap_or_else(|e| panic!("{url}: {e}"));
        storms.push(Arc::new(Storm { url: url.clone(), connector, pool, record: record.clone() }));
    }
    let mut callers = JoinSet::new();
    for n in 0..CALLERS {
        let storm = storms[n as usize % storms.len()].clone();
        callers.spawn(async move {
            let mut caller = Caller::new(storm, n);
            while !caller.storm.record.calm.load(Ordering::Acquire) {
                caller.call().await;
                tokio::time::sleep(length.pause).await;
            }
            caller
        });
    }
    let (runtime, troubled) = (tokio::runtime::Handle::current(), storms.clone());
    let trouble = tokio::task::spawn_blocking(move || {
        let record = troubled[0].record.clone();
        let _ends = Ends(record.clone());
        while record.operations.load(Ordering::Relaxed) < length.operations {
            trouble.round(&troubled, &runtime);
            println!("{} operations", record.operations.load(Ordering::Relaxed));
        }
        // What the callers put from now on must be there at the end.
        let enough = record.operations.load(Ordering::Relaxed) + CALM_OPERATIONS;
        while record.operations.load(Ordering::Relaxed) < enough {
            std::thread::sleep(Duration::from_millis(5));
        }
        trouble
    });
    let mut ended = Vec::new();
    while let Some(caller) = callers.join_next().await {
        // A caller that panics ends the test at once.
        ended.push(caller.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())));
    }
    // The servers run until the end.
    let _servers = trouble.await.expect("the servers recover");
    println!("{record}");
    let mut kept = 0;
    for mut caller in ended {
        kept += caller.finds_what_was_kept().await;
    }
    println!("{kept} chunks were kept");
    assert!(kept > 0, "the storm kept no chunk");
    for storm in storms {
        until("the memory comes back", async || storm.pool.stats().in_use == 0).await;
    }
}

/// Ends the callers' work, also when the servers do not recover.
struct Ends(Arc<Record>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.calm.store(true, Ordering::Release);
    }
}

impl Storm {
    /// Waits until a put and a get of the key succeed, and gives the time that this took.
    pub(crate) async fn recovers(&self, n: u64) -> Duration {
        let start = Instant::now();
        for version in 0.. {
            let back = async {
                self.connector.put(&key(n), chunk(n, version, 1000)).await?;
                Ok::<_, connectors::Error>(self.connector.get(&key(n)).await?.is_some())
            };
            if timeout(HANGS_AFTER, back).await.expect("a call ends").is_ok_and(|found| found) {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "{}: the store does not recover", self.url);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        start.elapsed()
    }
}

impl Record {
    /// Runs `lossy` trouble: the servers may lose chunks that were put before its end.
    pub(crate) fn losing<T>(&self, lossy: impl FnOnce() -> T) -> T {
        self.losses.fetch_add(1, Ordering::SeqCst);
        let result = lossy();
        self.losses.fetch_add(1, Ordering::SeqCst);
        result
    }

    /// Ends a call that hangs, and counts it by its outcome.
    ///
    /// # Panics
    /// If the call hangs, or as [`ended`](Self::ended).
    pub(crate) async fn call<T>(&self, name: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let start = Instant::now();
        let answer = timeout(HANGS_AFTER, call).await.unwrap_or_else(|_| panic!("{name} hangs"));
        let elapsed = start.elapsed();
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.ended(name, elapsed, &answer);
        answer
    }

    /// Counts an answer by its outcome.
    ///
    /// # Panics
    /// If trouble with servers does not explain it.
    pub(crate) fn ended<T>(&self, name: &'static str, elapsed: Duration, answer: &Result<T>) {
        let outcome = answer.as_ref().map_or_else(|e| e.kind().to_string(), |_| "ok".to_owned());
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, longest) = calls.entry((name, outcome)).or_default();
        (*count, *longest) = (*count + 1, elapsed.max(*longest));
        drop(calls);
        if let Err(e) = answer {
            let expected = matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::ReadOnly);
            assert!(expected && e.is_temporary(), "{name}: {e:?}");
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().try_for_each(|((name, outcome), (count, longest))| {
            writeln!(f, "{name:>14} {outcome:<12} {count:>7}  longest {longest:?}")
        })
    }
}
