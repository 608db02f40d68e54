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

/// How many keep the processors busy. Found out once: to ask reads files.
static BUSY: LazyLock<usize> =
    LazyLock::new(|| available_parallelism().map_or(1, usize::from).clamp(AT_ONCE / 2, AT_ONCE));

/// So often a thread comes back for more, about: the last ones to end should end together.
const TURNS: usize = 16;

/// Questions are short: so many are one piece of work.
const QUESTIONS: usize = 64;

type Answers<R> = Arc<Mutex<Vec<Option<R>>>>;

/// What one thread has done. Handed in when it is dropped: a job that panics does not take the answers before it along.
struct Done<R> {
    answers: Answers<R>,
    mine: Vec<(usize, R)>,
}

impl<R> Drop for Done<R> {
    fn drop(&mut self) {
        let mut answers = lock(&self.answers);
        for (i, answer) in self.mine.drain(..) {
            answers[i] = Some(answer);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FSConnector {
    /// Does `job` with each item, several at once. If this future is dropped, what has not begun need not begin: the job
    /// asks its `Work`.
    async fn each<T: Send + 'static, R: Send + 'static>(
        &self,
        items: Vec<T>,
        job: impl Fn(&Files, T, &Work) -> R + Send + Sync + 'static,
    ) -> Vec<Result<R>> {
        let n = items.len();
        let threads = self.threads().min(n);
        let at_once = (n / (threads.max(1) * TURNS)).clamp(1, AT_ONCE);
        let (cancel, work) = cancellable();
        let queue = Arc::new(Mutex::new(items.into_iter().enumerate()));
        let answers: Answers<R> = Arc::new(Mutex::new((0..n).map(|_| None).collect()));
        let job = Arc::new(job);
        let working = (0..threads).map(|_| {
            let (queue, job, work) = (queue.clone(), job.clone(), work.clone());
            let mut done = Done { answers: answers.clone(), mine: Vec::new() };
            self.blocking(move |files, _| {
                let mut mine = Vec::with_capacity(at_once);
                loop {
                    mine.extend(lock(&queue).by_ref().take(at_once));
                    if mine.is_empty() {
                        return Ok(());
                    }
                    for (i, item) in mine.drain(..) {
                        done.mine.push((i, job(files, item, &work)));
                    }
                }
            })
        });
        let failed = join_all(working).await.into_iter().find_map(Result::err);
        drop(cancel);
        let mut answers = lock(&answers);
        let lost = || failed.as_ref().map_or_else(|| Error::new(ErrorKind::Other, "the work was lost"), Error::again);
        answers.drain(..).map(|answer| answer.ok_or_else(lost)).collect()
    }

    /// A file system that is memory keeps every thread busy; with a disk most of them wait. A few more than processors,
    /// because others want those, too.
    fn threads(&self) -> usize {
        match self.files.cache {
            Cache::Memory => *BUSY,
            Cache::Never | Cache::NoWait => AT_ONCE,
        }
    }

    pub(super) async fn each_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let (backend, full) = (self.backend.clone(), AtomicBool::new(false));
        let steps = self.each(keys.to_vec(), move |files, key, work| {
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
        let steps: Vec<Result<Option<_>>> = steps.await.into_iter().map(|step| step.and_then(|step| step)).collect();
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
            return requests.iter().map(|_| Err(e.again())).collect();
        }
        // The blocking threads own the memory until the reads have ended, also if this future is dropped.
        let items = requests.iter_mut().map(|(key, dst)| (key.clone(), dst.take())).collect();
        let reads = self.each(items, |files, (key, mut memory), work| {
            let answer = if work.is_cancelled() { Ok(None) } else { read_into(files, &key, &mut memory) };
            (memory, answer)
        });
        let put_back = |((_, dst), read): (&mut (_, MemoryObjMut), Result<(MemoryObjMut, _)>)| {
            let (memory, answer) = read?;
            *dst = memory;
            answer
        };
        requests.iter_mut().zip(reads.await).map(put_back).collect()
    }

    pub(super) async fn each_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let writes = self.each(items.to_vec(), |files, (key, chunk), work| {
            let header = files.check(&key, chunk.layout())?;
            files.write(&key, header.as_ref(), &chunk, work)
        });
        writes.await.into_iter().map(|written| written.and_then(|written| written)).collect()
    }

    pub(super) async fn each_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let pieces: Vec<_> = keys.chunks(QUESTIONS).map(<[CacheKey]>::to_vec).collect();
        let lens: Vec<_> = pieces.iter().map(Vec::len).collect();
        let answers = self.each(pieces, |files, keys, work| {
            let answer = |key: &CacheKey| if work.is_cancelled() { Ok(false) } else { exists(files, key) };
            keys.iter().map(answer).collect::<Vec<_>>()
        });
        let whole = |(answers, len): (Result<Vec<_>>, usize)| {
            answers.unwrap_or_else(|e| (0..len).map(|_| Err(e.again())).collect())
        };
        answers.await.into_iter().zip(lens).flat_map(whole).collect()
    }
}
