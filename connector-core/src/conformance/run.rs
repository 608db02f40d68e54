//! Runs one check so that it cannot block or harm the next one.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use futures::future::FutureExt;
use tokio::runtime::{Builder, Runtime};

use super::names::Names;
use super::subject::{Subject, is_refusal};
use super::{Check, CheckResult, Kit, Outcome};
use crate::{CacheKey, Error, PoolAllocator};

/// The pool of each check, in bytes: room for more than two chunks of the largest size. The pool allocates on demand.
const POOL_BYTES: usize = 256 << 20;

/// The number of keys that one call removes.
const REMOVE_BATCH: usize = 256;

/// The longest time for which a new connector may remove the keys of a failed check.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(10);

/// Runs the check in a new runtime, and waits for it on this thread. If the connector blocks all threads of the
/// runtime, the runtime's timers do not fire.
pub(super) fn supervise(kit: &Kit, check: &'static Check) -> CheckResult {
    let start = Instant::now();
    let names = Arc::new(Names::new());
    let outcome = match on_runtime(kit.time_limit(), run(kit.clone(), check, names.clone())) {
        Ran::Ended(Ok(outcome)) => outcome,
        Ran::Ended(Err(why)) => {
            let then = clean_up(kit, &names).err().unwrap_or_else(|| " A new connector could remove them.".into());
            Outcome::Failed(format!("{why}.{then}"))
        }
        Ran::TooLong => {
            let left = clean_up(kit, &names).err().unwrap_or_default();
            Outcome::Failed(format!("did not end within {:?}; does a call hang?{left}", kit.time_limit()))
        }
        Ran::Lost(why) => {
            let left = clean_up(kit, &names).err().unwrap_or_default();
            Outcome::Failed(format!("{why}{left}"))
        }
    };
    CheckResult::new(check, outcome, start.elapsed())
}

enum Ran<T> {
    Ended(T),
    TooLong,
    Lost(String),
}

fn on_runtime<T: Send + 'static>(limit: Duration, work: impl Future<Output = T> + Send + 'static) -> Ran<T> {
    let runtime: Runtime = match Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return Ran::Lost(format!("cannot start a runtime for the check: {e}")),
    };
    let (send, receive) = mpsc::channel();
    runtime.spawn(async move {
        let ended = catch_panic(work).await;
        let _ = send.send(ended);
    });
    let ended = receive.recv_timeout(limit);
    // A plain drop would wait for a blocking thread that hangs.
    runtime.shutdown_background();
    match ended {
        Ok(Ok(answer)) => Ran::Ended(answer),
        Ok(Err(panic)) => Ran::Lost(panic),
        Err(RecvTimeoutError::Timeout) => Ran::TooLong,
        Err(RecvTimeoutError::Disconnected) => Ran::Lost("the check's task was dropped".into()),
    }
}

/// The check's outcome. If its keys could not be removed, an error that says what failed.
async fn run(kit: Kit, check: &'static Check, names: Arc<Names>) -> Result<Outcome, String> {
    let pool = PoolAllocator::new(POOL_BYTES);
    let subject = match Subject::open(&kit, &pool, &names).await {
        Ok(subject) => subject,
        Err(e) => return Ok(Outcome::Failed(format!("the store cannot be opened: {e}"))),
    };
    let outcome = match catch_panic((check.run)(&subject)).await {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(end)) => end.0,
        Err(panic) => Outcome::Failed(panic),
    };
    // The work of a dropped put may still run. It must end before the removal.
    let _ = subject.all_memory_is_back().await;
    let removed = remove_all(&subject).await;
    // Even if keys are left: closing ends connections and background work.
    let closed = close(&subject).await;
    let memory = match &closed {
        Ok(()) => subject.all_memory_is_back().await.map_err(|e| {
            kit.set_leaked();
            format!("{}, although all chunks are dropped and the store is closed", e.why())
        }),
        // After a failed `close`, work may hold memory.
        Err(_) => Ok(()),
    };
    let all_removed = removed.is_ok();
    let errors: Vec<_> = [removed, closed, memory].into_iter().filter_map(Result::err).collect();
    let why = match (errors.is_empty(), outcome) {
        (true, outcome) => return Ok(outcome),
        (false, Outcome::Failed(first)) => format!("{first}; and then, {}", errors.join("; and then, ")),
        (false, _) => format!("after the check, {}", errors.join("; and then, ")),
    };
    if all_removed { Ok(Outcome::Failed(why)) } else { Err(why) }
}

async fn close(subject: &Subject) -> Result<(), String> {
    let closed = catch_panic(subject.store.close()).await;
    closed.and_then(|closed| closed.map_err(|e| e.to_string())).map_err(|why| format!("it cannot be closed: {why}"))
}

/// Removes as many keys of the check as it can. The error is the first one, with the number of keys that are left.
async fn remove_all(subject: &Subject) -> Result<(), String> {
    if !subject.can.remove {
        return Ok(());
    }
    let made = subject.names.made();
    let (mut why, mut count) = (None, 0);
    for keys in made.chunks(REMOVE_BATCH) {
        let mut left = remove(subject, keys).await;
        if left.temporary {
            left = remove(subject, &left.keys).await;
        }
        why = why.or(left.why);
        count += left.count;
    }
    match (why, count) {
        (Some(why), 0) => Err(format!("an error while its keys were removed: {why}")),
        (Some(why), n) => Err(format!("{n} of its {} keys may be left, which cannot be removed: {why}", made.len())),
        (None, 0) => Ok(()),
        (None, n) => Err(format!("{n} of its {} keys were not removed, although `remove` says so", made.len())),
    }
}

/// The keys that a removal has left.
#[derive(Default)]
struct Left {
    /// The keys to remove again.
    keys: Vec<CacheKey>,
    /// The number of keys that the store has or may have.
    count: usize,
    why: Option<String>,
    temporary: bool,
}

impl Left {
    /// Whether this is an error. The store does not have a key that it refuses.
    fn is_error<T>(&mut self, answer: &Result<T, Error>) -> bool {
        let Err(e) = answer else { return false };
        if is_refusal(e) {
            return false;
        }
        self.why.get_or_insert_with(|| e.to_string());
        self.temporary |= e.is_temporary();
        true
    }

    /// The answers, or no answers after a panic.
    fn answers<T>(&mut self, answers: Result<Vec<T>, String>) -> Vec<T> {
        answers.unwrap_or_else(|panic| {
            self.why.get_or_insert(panic);
            Vec::new()
        })
    }
}

async fn remove(subject: &Subject, keys: &[CacheKey]) -> Left {
    let mut left = Left::default();
    let removed = left.answers(catch_panic(subject.store.batched_remove(keys)).await);
    let exist = left.answers(catch_panic(subject.store.batched_exists(keys)).await);
    for (i, key) in keys.iter().enumerate() {
        let failed = removed.get(i).is_some_and(|answer| left.is_error(answer));
        let may_exist = match exist.get(i) {
            Some(answer) => left.is_error(answer) || matches!(answer, Ok(true)),
            None => true,
        };
        if failed || may_exist {
            left.keys.push(key.clone());
        }
        left.count += usize::from(may_exist);
    }
    left
}

/// Removes the check's keys with a new connector. The error is a sentence for the end of the report.
fn clean_up(kit: &Kit, names: &Arc<Names>) -> Result<(), String> {
    if names.made().is_empty() {
        return Ok(());
    }
    let (kit, names, limit) = (kit.clone(), names.clone(), CLEAN_UP_LIMIT.min(kit.time_limit()));
    let work = async move {
        let pool = PoolAllocator::new(POOL_BYTES);
        let subject = Subject::open(&kit, &pool, &names).await.map_err(|e| e.to_string())?;
        let removed = remove_all(&subject).await;
        close(&subject).await.and(removed)
    };
    match on_runtime(limit, work) {
        Ran::Ended(Ok(())) => Ok(()),
        Ran::Ended(Err(why)) | Ran::Lost(why) => Err(format!(" Its keys may be left: {why}")),
        Ran::TooLong => Err(" Its keys may be left: their removal hangs, too".into()),
    }
}

/// The output of `work`, or the text of its panic.
async fn catch_panic<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        format!("panicked: {}", text.unwrap_or("without a text"))
    })
}
