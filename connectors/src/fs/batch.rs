//! Batches: a few blocking threads, each of which does one chunk after the other.
//!
//! A visit to a blocking thread costs two wake-ups, so a batch makes a few of them, not one for each chunk. (Measured:
//! chunks of 64 KiB on tmpfs are read and written with half the work.)

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use connector_core::{CacheKey, Error, ErrorKind, MemoryObj, MemoryObjMut, Result};
use futures::future::join_all;
use futures::stream::{self, StreamExt};

use super::cached::Cache;
use super::commit::{Work, cancellable};
use super::connector::{FSConnector, Step, exists, read_into};
use super::file::Files;

/// How many chunks of a batch are read or written at once.
const AT_ONCE: usize = 8;

/// Processors that this process may use. Found out once: to ask reads files.
static PROCESSORS: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));

/// So often a thread comes back for more, about: the last ones to end should end together.
const TURNS: usize = 16;

/// Questions are short: so many are one piece of work.
const QUESTIONS: usize = 64;

/// Items or answers that belong together, and the number of the first one.
type Part<T> = (usize, Vec<T>);
type Parts<T> = Arc<Mutex<Vec<Part<T>>>>;

/// A part in the hands of a thread. What it has done is handed in when this is dropped, and what it has not goes back: a job
/// that panics takes no others along.
struct InHand<T, R> {
    queue: Parts<T>,
    answers: Parts<R>,
    from: usize,
    done: Vec<R>,
    rest: std::vec::IntoIter<T>,
}

impl<T, R> InHand<T, R> {
    /// The next part of the queue.
    fn take(queue: &Parts<T>, answers: &Parts<R>) -> Option<Self> {
        let (from, items) = lock(queue).pop()?;
        let (done, rest) = (Vec::with_capacity(items.len()), items.into_iter());
        Some(Self { queue: queue.clone(), answers: answers.clone(), from, done, rest })
    }

    fn each(mut self, job: impl Fn(T) -> R) {
        for item in self.rest.by_ref() {
            self.done.push(job(item));
        }
    }
}

impl<T, R> Drop for InHand<T, R> {
    fn drop(&mut self) {
        if self.rest.len() > 0 {
            // Behind the one that panicked.
            let from = self.from + self.done.len() + 1;
            lock(&self.queue).push((from, self.rest.by_ref().collect()));
        }
        if !self.done.is_empty() {
            lock(&self.answers).push((self.from, std::mem::take(&mut self.done)));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answers in the order of their items; `None` for those that nobody gave.
fn in_order<R>(mut parts: Vec<Part<R>>, n: usize) -> impl Iterator<Item = Option<R>> {
    parts.sort_unstable_by_key(|(from, _)| *from);
    let mut parts = parts.into_iter().peekable();
    let mut current = Vec::new().into_iter();
    (0..n).map(move |i| {
        if let Some((_, answers)) = parts.next_if(|(from, _)| *from == i) {
            current = answers.into_iter();
        }
        current.next()
    })
}

impl FSConnector {
    /// Small parts, because items are many and large: each is moved a few times while it is in the cache. The last one first:
    /// they are taken from the end.
    fn parts<T>(&self, mut items: impl ExactSizeIterator<Item = T>) -> Vec<Part<T>> {
        let n = items.len();
        let at_once = (n / (self.threads() * TURNS)).clamp(1, AT_ONCE);
        let mut parts: Vec<_> =
            (0..n).step_by(at_once).map(|from| (from, items.by_ref().take(at_once).collect())).collect();
        parts.reverse();
        parts
    }

    /// Does `job` with each item, several at once. If this future is dropped, what has not begun need not begin: the job
    /// asks its `Work`.
    async fn each<T: Send + 'static, R: Send + 'static>(
        &self,
        parts: Vec<Part<T>>,
        job: impl Fn(&Files, T, &Work) -> R + Send + Sync + 'static,
    ) -> impl Iterator<Item = Result<R>> {
        let n = parts.iter().map(|(_, items)| items.len()).sum();
        let threads = self.threads().min(parts.len());
        let (cancel, work) = cancellable();
        let answers: Parts<R> = Arc::new(Mutex::new(Vec::with_capacity(parts.len())));
        let queue = Arc::new(Mutex::new(parts));
        let job = Arc::new(job);
        let working = (0..threads).map(|_| {
            let (queue, answers, job, work) = (queue.clone(), answers.clone(), job.clone(), work.clone());
            self.blocking(move |files, _| {
                while let Some(part) = InHand::take(&queue, &answers) {
                    part.each(|item| job(files, item, &work));
                }
                Ok(())
            })
        });
        let failed = join_all(working).await.into_iter().find_map(Result::err);
        drop(cancel);
        let parts = std::mem::take(&mut *lock(&answers));
        let lost =
            move || failed.as_ref().map_or_else(|| Error::new(ErrorKind::Other, "the work was lost"), Error::clone);
        in_order(parts, n).map(move |answer| answer.ok_or_else(&lost))
    }

    /// A file system that is memory keeps every thread busy; with a disk most of them wait. A few more than processors,
    /// because others want those, too.
    fn threads(&self) -> usize {
        match self.files.cache {
            Cache::Memory => PROCESSORS.clamp(AT_ONCE / 2, AT_ONCE),
            Cache::Never | Cache::NoWait => AT_ONCE,
        }
    }

    pub(super) async fn each_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let (backend, full) = (self.backend.clone(), AtomicBool::new(false));
        let steps = self.each(self.parts(keys.iter().cloned()), move |files, key, work| {
            if full.load(Ordering::Relaxed) {
                return Ok(None);
            }
            match Step::of(files, &backend, &key, work)? {
                // Not with the files open: they may be thousands.
                Step::NeedsMemory(_) => {
                    full.store(true, Ordering::Relaxed);
                    Ok(None)
                }
                Step::Miss => Ok(Some(None)),
                Step::Done(chunk) => Ok(Some(Some(chunk))),
            }
        });
        let steps: Vec<Result<Option<_>>> = steps.await.map(|step| step.and_then(|step| step)).collect();
        let gets = keys.iter().zip(steps).map(|(key, step)| async move {
            match step.transpose() {
                Some(answer) => answer,
                // Memory has to be waited for.
                None => self.read_blocking(key).await,
            }
        });
        stream::iter(gets.collect::<Vec<_>>()).buffered(AT_ONCE).collect().await
    }

    pub(super) async fn each_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        // Refused with the memory in its place.
        if let Err(e) = self.gate.enter() {
            return requests.iter().map(|_| Err(e.clone())).collect();
        }
        // The blocking threads own the memory until the reads have ended, also if this future is dropped.
        let parts = self.parts(requests.iter_mut().map(|(key, dst)| (key.clone(), dst.take())));
        let reads = self.each(parts, |files, (key, mut memory), work| {
            let answer = if work.is_cancelled() { Ok(None) } else { read_into(files, &key, &mut memory) };
            (memory, answer)
        });
        let put_back = |((_, dst), read): (&mut (_, MemoryObjMut), Result<(MemoryObjMut, _)>)| {
            let (memory, answer) = read?;
            *dst = memory;
            answer
        };
        let reads = reads.await;
        requests.iter_mut().zip(reads).map(put_back).collect()
    }

    pub(super) async fn each_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let writes = self.each(self.parts(items.iter().cloned()), |files, (key, chunk), work| {
            let header = files.check(&key, chunk.layout())?;
            files.write(&key, header.as_ref(), &chunk, work)
        });
        writes.await.map(|written| written.and_then(|written| written)).collect()
    }

    pub(super) async fn each_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let parts: Vec<_> = keys.chunks(QUESTIONS).map(<[CacheKey]>::to_vec).collect();
        let lens: Vec<_> = parts.iter().map(Vec::len).collect();
        let answers = self.each(self.parts(parts.into_iter()), |files, keys, work| {
            let answer = |key: &CacheKey| if work.is_cancelled() { Ok(false) } else { exists(files, key) };
            keys.iter().map(answer).collect::<Vec<_>>()
        });
        let whole = |(answers, len): (Result<Vec<_>>, usize)| {
            answers.unwrap_or_else(|e| (0..len).map(|_| Err(e.clone())).collect())
        };
        answers.await.zip(lens).flat_map(whole).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_panics_takes_no_others_along() {
        let queue: Parts<u32> = Arc::new(Mutex::new(vec![(8, (8..11).collect()), (0, (0..8).collect())]));
        let answers: Parts<u32> = Arc::default();
        let job = |n| if [2, 7, 8].contains(&n) { panic!("this one") } else { n * 10 };
        let mut panics = 0;
        while let Some(part) = InHand::take(&queue, &answers) {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| part.each(job)));
            panics += u32::from(done.is_err());
        }
        let answers: Vec<_> = in_order(std::mem::take(&mut *lock(&answers)), 11).collect();
        let expected: Vec<_> = (0..11).map(|n| (![2, 7, 8].contains(&n)).then_some(n * 10)).collect();
        assert_eq!((answers, panics), (expected, 3));
    }
}
