//! Runs one check so that it cannot block or harm the next one.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use futures::future::FutureExt;
use tokio::runtime::{Builder, Runtime};

use super::case::Case;
use super::names::Names;
use super::order::{CLOSE, EXISTS, MEMORY, PUT_KEEPS, REMOVE};
use super::subject::{Subject, is_refusal};
use super::watch::{Stalled, Watch};
use super::{Check, CheckResult, Kit, Outcome};
use crate::{CacheKey, Error};

/// The number of keys that one call removes.
const REMOVE_BATCH: usize = 256;

/// The longest time for which a new connector may remove the keys of a failed check.
const CLEAN_UP_LIMIT: Duration = Duration::from_secs(10);

/// The time between two looks at the calls of a check.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the check in a new runtime, and waits for it on this thread. If the connector blocks all threads of the
/// runtime, the runtime's timers do not fire.
pub(super) fn supervise(kit: &Kit, check: &'static Check) -> CheckResult {
    let start = Instant::now();
    let names = Arc::new(Names::new());
    let case = Case::new(&names);
    let watch = case.watch.clone();
    let ran = on_runtime(kit.time_limit(), kit.time_limit(), watch, run(kit.clone(), check, case));
    let (outcome, breaks, hung) = match ran {
        Ran::Ended(Ended { outcome, breaks, is_clean: true }) => (outcome, breaks, false),
        Ran::Ended(Ended { outcome, breaks, is_clean: false }) => {
            let then = clean_up(kit, &names).err().unwrap_or_else(|| " A new connector could remove them.".into());
            let Outcome::Failed(why) = outcome else { unreachable!("keys that are left fail the check") };
            (Outcome::Failed(format!("{why}.{then}")), breaks, false)
        }
        Ran::Stalled(Stalled { call, why }) => {
            let left = clean_up(kit, &names).err().map(|left| format!(".{left}")).unwrap_or_default();
            (Outcome::Failed(format!("{why}{left}")), ["close", "drop"].contains(&call).then_some(CLOSE), true)
        }
        Ran::TooLong => {
            let left = clean_up(kit, &names).err().map(|left| format!(".{left}")).unwrap_or_default();
            (Outcome::Failed(format!("did not end within {:?}{left}", kit.time_limit())), None, true)
        }
        Ran::Lost(why) => {
            let left = clean_up(kit, &names).err().unwrap_or_default();
            (Outcome::Failed(format!("{why}{left}")), None, false)
        }
    };
    CheckResult { breaks, hung, ..CheckResult::new(check, outcome, start.elapsed()) }
}

enum Ran<T> {
    Ended(T),
    TooLong,
    Stalled(Stalled),
    Lost(String),
}

/// Runs the work until it ends, for at most `limit`, or until one of its calls hangs in a check of `check_limit`.
fn on_runtime<T: Send + 'static>(
    limit: Duration,
    check_limit: Duration,
    watch: Watch,
    work: impl Future<Output = T> + Send + 'static,
) -> Ran<T> {
    let runtime: Runtime = match Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return Ran::Lost(format!("cannot start a runtime for the check: {e}")),
    };
    let (send, receive) = mpsc::channel();
    runtime.spawn(async move {
        let ended = catch_panic(work).await;
        let _ = send.send(ended);
    });
    let start = Instant::now();
    let ran = loop {
        match receive.recv_timeout(LOOK) {
            Ok(Ok(answer)) => break Ran::Ended(answer),
            Ok(Err(panic)) => break Ran::Lost(panic),
            Err(RecvTimeoutError::Disconnected) => break Ran::Lost("the check's task was dropped".into()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(stalled) = watch.stalled(check_limit) {
            break Ran::Stalled(stalled);
        }
        if start.elapsed() >= watch.longest(limit) {
            break Ran::TooLong;
        }
    };
    // A plain drop would wait for a blocking thread that hangs.
    runtime.shutdown_background();
    ran
}

/// The end of a check.
struct Ended {
    outcome: Outcome,
    /// The check whose rule the store broke behind this check, which found nothing.
    breaks: Option<&'static str>,
    /// Whether all its keys are removed.
    is_clean: bool,
}

/// Runs the check, removes its keys and closes the store.
async fn run(kit: Kit, check: &'static Check, case: Case) -> Ended {
    let ended = |outcome, breaks, is_clean| Ended { outcome, breaks, is_clean };
    let opened = catch_panic(Subject::open(&kit, &case)).await.and_then(|opened| opened.map_err(|e| e.to_string()));
    let subject = match opened {
        Ok(subject) => subject,
        Err(e) => return ended(Outcome::Failed(format!("the store cannot be opened: {e}")), None, true),
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
        Ok(()) => subject
            .all_memory_is_back()
            .await
            .map_err(|e| format!("{}, although all chunks are dropped and the store is closed", e.why())),
        // After a failed `close`, work may hold memory.
        Err(_) => Ok(()),
    };
    let is_clean = removed.is_ok();
    let of_memory = if subject.bytes_that_put_keeps() > 0 { PUT_KEEPS } else { MEMORY };
    let dropped = catch_panic(async { drop(subject) }).await.map_err(|panic| format!("its drop {panic}"));
    let of = |rule| move |why| (rule, why);
    let ends = [memory.map_err(of(of_memory)), removed, closed.map_err(of(CLOSE)), dropped.map_err(of(CLOSE))];
    let errors: Vec<_> = ends.into_iter().filter_map(Result::err).collect();
    let Some((rule, _)) = errors.first() else { return ended(outcome, None, true) };
    let all = errors.iter().map(|(_, why)| &**why).collect::<Vec<_>>().join("; and then, ");
    match outcome {
        Outcome::Failed(first) => ended(Outcome::Failed(format!("{first}; and then, {all}")), None, is_clean),
        _ => ended(Outcome::Failed(format!("after the check, {all}")), Some(*rule), is_clean),
    }
}

async fn close(subject: &Subject) -> Result<(), String> {
    let closed = catch_panic(subject.store.close()).await;
    closed.and_then(|closed| closed.map_err(|e| e.to_string())).map_err(|why| format!("it cannot be closed: {why}"))
}

/// Removes as many keys of the check as it can. The error is the first one, with the number of keys that are left, and
/// the check whose rule is broken.
async fn remove_all(subject: &Subject) -> Result<(), (&'static str, String)> {
    if !subject.can.remove {
        return Ok(());
    }
    let made = subject.names.made();
    let (mut why, mut count, mut one) = (None, 0, None);
    for keys in made.chunks(REMOVE_BATCH) {
        let mut left = remove(subject, keys).await;
        if left.temporary {
            left = remove(subject, &left.keys).await;
        }
        why = why.or(left.why);
        count += left.count;
        one = one.or(left.keys.into_iter().next());
    }
    let all = made.len();
    let why = match (why, count) {
        (Some(why), 0) => format!("an error while its keys were removed: {why}"),
        (Some(why), n) => format!("{n} of its {all} keys may be left, which cannot be removed: {why}"),
        (None, 0) => return Ok(()),
        (None, n) => {
            if let Some(key) = &one
                && let Ok(Ok(None)) = catch_panic(subject.store.get(key)).await
            {
                return Err((EXISTS, format!("`exists` is true for `{key}`, which `get` does not find")));
            }
            format!("{n} of its {all} keys were not removed, although `remove` says so")
        }
    };
    Err((REMOVE, why))
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
    let (limit, case) = (kit.time_limit(), Case::new(names));
    let (kit, watch) = (kit.clone(), case.watch.clone());
    let work = async move {
        let subject = Subject::open(&kit, &case).await.map_err(|e| e.to_string())?;
        let removed = remove_all(&subject).await;
        close(&subject).await.and(removed.map_err(|(_, why)| why))
    };
    match on_runtime(CLEAN_UP_LIMIT.min(limit), limit, watch, work) {
        Ran::Ended(Ok(())) => Ok(()),
        Ran::Ended(Err(why)) | Ran::Lost(why) | Ran::Stalled(Stalled { why, .. }) => {
            Err(format!(" Its keys may be left: {why}"))
        }
        Ran::TooLong => Err(" Its keys may be left: their removal takes too long".into()),
    }
}

/// The output of `work`, or the text of its panic.
async fn catch_panic<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        format!("panicked: {}", text.unwrap_or("without a text"))
    })
}
