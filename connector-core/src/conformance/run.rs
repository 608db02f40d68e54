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
use crate::PoolAllocator;

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
        Ran::Ended(outcome) => outcome,
        Ran::TooLong => {
            let left = rescue(kit, names);
            Outcome::Failed(format!("did not end within {:?}; does a call hang?{left}", kit.time_limit()))
        }
        Ran::Lost(why) => Outcome::Failed(why),
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
        let ended = AssertUnwindSafe(work).catch_unwind().await;
        let _ = send.send(ended);
    });
    let ended = receive.recv_timeout(limit);
    // Not dropped: that would wait for a blocking thread that hangs.
    runtime.shutdown_background();
    match ended {
        Ok(Ok(answer)) => Ran::Ended(answer),
        Ok(Err(panic)) => Ran::Lost(said(&*panic)),
        Err(RecvTimeoutError::Timeout) => Ran::TooLong,
        Err(RecvTimeoutError::Disconnected) => Ran::Lost("the check was lost".into()),
    }
}

async fn run(kit: Kit, check: &'static Check, names: Arc<Names>) -> Outcome {
    let pool = PoolAllocator::new(POOL_BYTES);
    let subject = match Subject::open(&kit, &pool, &names).await {
        Ok(subject) => subject,
        Err(e) => return Outcome::Failed(format!("the store cannot be opened: {e}")),
    };
    let ended = AssertUnwindSafe((check.run)(&subject)).catch_unwind().await;
    let outcome = match ended {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(end)) => end.0,
        Err(panic) => Outcome::Failed(said(&*panic)),
    };
    let tidied = async {
        // A put that was dropped may still be at work, and would come after the removal.
        let _ = subject.all_memory_is_back().await;
        remove_all(&subject).await?;
        subject.store.close().await.map_err(|e| format!("it cannot be closed: {e}"))?;
        subject.all_memory_is_back().await.map_err(|_| leaked(&pool))
    };
    match (tidied.await, outcome) {
        (Ok(()), outcome) => outcome,
        (Err(why), Outcome::Failed(first)) => Outcome::Failed(format!("{first}; and then, {why}")),
        (Err(why), _) => Outcome::Failed(format!("after the check, {why}")),
    }
}

fn leaked(pool: &PoolAllocator) -> String {
    format!("{} bytes of the pool did not come back, although everything is dropped and closed", pool.stats().in_use)
}

/// Removes what the check put. A key that the store refuses was never put.
async fn remove_all(subject: &Subject) -> Result<(), String> {
    if !subject.can.remove {
        return Ok(());
    }
    for keys in subject.names.made().chunks(REMOVED_AT_ONCE) {
        for answer in subject.store.batched_remove(keys).await {
            if let Err(e) = answer
                && !is_refusal(&e)
            {
                return Err(format!("its keys cannot be removed: {e}"));
            }
        }
        if subject.store.batched_exists(keys).await.into_iter().any(|there| matches!(there, Ok(true))) {
            return Err("its keys were not removed, although `remove` says so".into());
        }
    }
    Ok(())
}

/// Cleans up with a connector that nothing has happened to. What is left to say.
fn rescue(kit: &Kit, names: Arc<Names>) -> String {
    let (kit, kit_limit) = (kit.clone(), kit.time_limit());
    let work = async move {
        let pool = PoolAllocator::new(POOL_BYTES);
        let subject = Subject::open(&kit, &pool, &names).await.map_err(|e| e.to_string())?;
        remove_all(&subject).await?;
        subject.store.close().await.map_err(|e| e.to_string())
    };
    match on_runtime(RESCUE.min(kit_limit), work) {
        Ran::Ended(Ok(())) => String::new(),
        Ran::Ended(Err(why)) | Ran::Lost(why) => format!(" Its keys may be left: {why}"),
        Ran::TooLong => " Its keys may be left: removing them hangs, too".into(),
    }
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a text"))
}
