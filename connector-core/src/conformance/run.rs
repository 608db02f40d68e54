//! Runs one check so that nothing it does can hold up or harm the next one.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use futures::future::FutureExt;
use tokio::runtime::{Builder, Runtime};

use super::subject::{Names, Subject, is_refusal};
use super::{Check, CheckResult, Kit, Outcome};
use crate::{CacheKey, Error, PoolAllocator};

/// The pool of each check, in bytes: room for two chunks of the largest size, and some. Taken only as it is needed.
const POOL_BYTES: usize = 256 << 20;

/// How many keys are removed by one call.
const REMOVED_AT_ONCE: usize = 256;

/// How long cleaning up behind a check that hung may take, at most.
const RESCUE: Duration = Duration::from_secs(10);

/// Runs the check on a runtime of its own, and waits for it on this thread: the clock of a runtime stands still when the
/// connector blocks all of its threads.
pub(super) fn supervise(kit: &Kit, check: &'static Check) -> CheckResult {
    let start = Instant::now();
    let names = Arc::new(Names::new());
    let outcome = match on_runtime(kit.time_limit(), run(kit.clone(), check, names.clone())) {
        Ran::Ended(Ok(outcome)) => outcome,
        Ran::Ended(Err(untidy)) => {
            let then = rescue(kit, &names).map_or_else(|why| why, |()| " A new connector could remove them.".into());
            Outcome::Failed(format!("{untidy}.{then}"))
        }
        Ran::TooLong => {
            let left = rescue(kit, &names).err().unwrap_or_default();
            Outcome::Failed(format!("did not end within {:?}; does a call hang?{left}", kit.time_limit()))
        }
        Ran::Lost(why) => {
            let left = rescue(kit, &names).err().unwrap_or_default();
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
        Err(e) => return Ran::Lost(format!("a runtime for the check cannot be made: {e}")),
    };
    let (send, receive) = mpsc::channel();
    runtime.spawn(async move {
        let ended = caught(work).await;
        let _ = send.send(ended);
    });
    let ended = receive.recv_timeout(limit);
    // Not dropped: that would wait for a blocking thread that hangs.
    runtime.shutdown_background();
    match ended {
        Ok(Ok(answer)) => Ran::Ended(answer),
        Ok(Err(panic)) => Ran::Lost(panic),
        Err(RecvTimeoutError::Timeout) => Ran::TooLong,
        Err(RecvTimeoutError::Disconnected) => Ran::Lost("the check was lost".into()),
    }
}

/// How the check ended; an error says what went wrong if its keys could not be removed.
async fn run(kit: Kit, check: &'static Check, names: Arc<Names>) -> Result<Outcome, String> {
    let pool = PoolAllocator::new(POOL_BYTES);
    let subject = match Subject::open(&kit, &pool, &names).await {
        Ok(subject) => subject,
        Err(e) => return Ok(Outcome::Failed(format!("the store cannot be opened: {e}"))),
    };
    let outcome = match caught((check.run)(&subject)).await {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(end)) => end.0,
        Err(panic) => Outcome::Failed(panic),
    };
    // A put that was dropped may still be at work, and would come after the removal.
    let _ = subject.all_memory_is_back().await;
    let removed = remove_all(&subject).await;
    // Also if keys are left: connections and background work are not.
    let closed = close(&subject).await;
    let back = match &closed {
        Ok(()) => subject.all_memory_is_back().await.map_err(|_| {
            kit.memory_leaked();
            leaked(&pool)
        }),
        // Then whatever is still held is no news.
        Err(_) => Ok(()),
    };
    let tidy = removed.is_ok();
    let wrong: Vec<_> = [removed, closed, back].into_iter().filter_map(Result::err).collect();
    let outcome = match (wrong.is_empty(), outcome) {
        (true, outcome) => return Ok(outcome),
        (false, Outcome::Failed(first)) => format!("{first}; and then, {}", wrong.join("; and then, ")),
        (false, _) => format!("after the check, {}", wrong.join("; and then, ")),
    };
    if tidy { Ok(Outcome::Failed(outcome)) } else { Err(outcome) }
}

async fn close(subject: &Subject) -> Result<(), String> {
    let closed = caught(subject.store.close()).await;
    closed.and_then(|closed| closed.map_err(|e| e.to_string())).map_err(|why| format!("it cannot be closed: {why}"))
}

fn leaked(pool: &PoolAllocator) -> String {
    format!("{} bytes of the pool did not come back, although everything is dropped and closed", pool.stats().in_use)
}

/// Removes what the check put, as much of it as can be removed. The first error, and how much is left.
async fn remove_all(subject: &Subject) -> Result<(), String> {
    if !subject.can.remove {
        return Ok(());
    }
    let made = subject.names.made();
    let (mut why, mut count) = (None, 0);
    for keys in made.chunks(REMOVED_AT_ONCE) {
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

/// What a removal has left.
#[derive(Default)]
struct Left {
    /// Those to ask for once more.
    keys: Vec<CacheKey>,
    /// How many are there, or may be.
    count: usize,
    why: Option<String>,
    temporary: bool,
}

impl Left {
    /// Whether this is an error. A key that the store refuses was never put.
    fn is_error<T>(&mut self, answer: &Result<T, Error>) -> bool {
        let Err(e) = answer else { return false };
        if is_refusal(e) {
            return false;
        }
        self.why.get_or_insert_with(|| e.to_string());
        self.temporary |= e.is_temporary();
        true
    }

    /// The answers, or none after a panic.
    fn answers<T>(&mut self, answers: Result<Vec<T>, String>) -> Vec<T> {
        answers.unwrap_or_else(|panic| {
            self.why.get_or_insert(panic);
            Vec::new()
        })
    }
}

async fn remove(subject: &Subject, keys: &[CacheKey]) -> Left {
    let mut left = Left::default();
    let removed = caught(subject.store.batched_remove(keys)).await;
    let removed = left.answers(removed);
    let there = caught(subject.store.batched_exists(keys)).await;
    let there = left.answers(there);
    for (i, key) in keys.iter().enumerate() {
        let failed = removed.get(i).is_some_and(|answer| left.is_error(answer));
        let may_be_there = match there.get(i) {
            Some(answer) => left.is_error(answer) || matches!(answer, Ok(true)),
            None => true,
        };
        if failed || may_be_there {
            left.keys.push(key.clone());
        }
        left.count += usize::from(may_be_there);
    }
    left
}

/// Cleans up with a connector that nothing has happened to. An error is what is left to say.
fn rescue(kit: &Kit, names: &Arc<Names>) -> Result<(), String> {
    if names.made().is_empty() {
        return Ok(());
    }
    let (kit, names, limit) = (kit.clone(), names.clone(), RESCUE.min(kit.time_limit()));
    let work = async move {
        let pool = PoolAllocator::new(POOL_BYTES);
        let subject = Subject::open(&kit, &pool, &names).await.map_err(|e| e.to_string())?;
        let removed = remove_all(&subject).await;
        close(&subject).await.and(removed)
    };
    match on_runtime(limit, work) {
        Ran::Ended(Ok(())) => Ok(()),
        Ran::Ended(Err(why)) | Ran::Lost(why) => Err(format!(" Its keys may be left: {why}")),
        Ran::TooLong => Err(" Its keys may be left: removing them hangs, too".into()),
    }
}

/// The output, or what a panic said.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| said(&*panic))
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a text"))
}
