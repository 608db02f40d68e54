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

/// Items or answers that belong together, and the number of the first one.
type Piece<T> = (usize, Vec<T>);
type Pieces<T> = Arc<Mutex<Vec<Piece<T>>>>;

/// What a thread has done of a piece. Handed in when it is dropped: a job that panics does not take the answers before it
/// along.
struct Done<R> {
    answers: Pieces<R>,
    piece: Piece<R>,
}

impl<R> Done<R> {
    fn hand_in(&mut self) {
        let (from, answers) = &mut self.piece;
        if !answers.is_empty() {
            lock(&self.answers).push((*from, std::mem::take(answers)));
        }
    }
}

impl<R> Drop for Done<R> {
    fn drop(&mut self) {
        self.hand_in();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answers in the order of their items; `None` for those that nobody gave.
fn in_order<R>(mut pieces: Vec<Piece<R>>, n: usize) -> impl Iterator<Item = Option<R>> {
    pieces.sort_unstable_by_key(|(from, _)| *from);
    let mut pieces = pieces.into_iter().peekable();
    let mut current = Vec::new().into_iter();
    (0..n).map(move |i| {
        if let Some((_, answers)) = pieces.next_if(|(from, _)| *from == i) {
            current = answers.into_iter();
        }
        current.next()
    })
}

impl FSConnector {
    /// Small pieces, because items are many and large: each is moved a few times while it is in the cache.
    fn pieces<T>(&self, mut items: impl ExactSizeIterator<Item = T>) -> Vec<Piece<T>> {
        let n = items.len();
        let at_once = (n / (self.threads() * TURNS)).clamp(1, AT_ONCE);
        (0..n).step_by(at_once).map(|from| (from, items.by_ref().take(at_once).collect())).collect()
    }

    /// Does `job` with each item, several at once. If this future is dropped, what has not begun need not begin: the job
    /// asks its `Work`.
    async fn each<T: Send + 'static, R: Send + 'static>(
        &self,
        pieces: Vec<Piece<T>>,
        job: impl Fn(&Files, T, &Work) -> R + Send + Sync + 'static,
    ) -> impl Iterator<Item = Result<R>> {
        let n = pieces.iter().map(|(_, items)| items.len()).sum();
        let threads = self.threads().min(pieces.len());
        let (cancel, work) = cancellable();
        let answers: Pieces<R> = Arc::new(Mutex::new(Vec::with_capacity(pieces.len())));
        let queue = Arc::new(Mutex::new(pieces.into_iter()));
        let job = Arc::new(job);
        let working = (0..threads).map(|_| {
            let (queue, job, work) = (queue.clone(), job.clone(), work.clone());
            let mut done = Done { answers: answers.clone(), piece: Piece::default() };
            self.blocking(move |files, _| {
                let next = || lock(&queue).next();
                while let Some((from, items)) = next() {
                    done.piece = (from, Vec::with_capacity(items.len()));
                    items.into_iter().for_each(|item| done.piece.1.push(job(files, item, &work)));
                    done.hand_in();
                }
                Ok(())
            })
        });
        let failed = join_all(working).await.into_iter().find_map(Result::err);
        drop(cancel);
        let pieces = std::mem::take(&mut *lock(&answers));
        let lost =
            move || failed.as_ref().map_or_else(|| Error::new(ErrorKind::Other, "the work was lost"), Error::again);
        in_order(pieces, n).map(move |answer| answer.ok_or_else(&lost))
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
        let steps = self.each(self.pieces(keys.iter().cloned()), move |files, key, work| {
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
            return requests.iter().map(|_| Err(e.again())).collect();
        }
        // The blocking threads own the memory until the reads have ended, also if this future is dropped.
        let pieces = self.pieces(requests.iter_mut().map(|(key, dst)| (key.clone(), dst.take())));
        let reads = self.each(pieces, |files, (key, mut memory), work| {
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
        let writes = self.each(self.pieces(items.iter().cloned()), |files, (key, chunk), work| {
            let header = files.check(&key, chunk.layout())?;
            files.write(&key, header.as_ref(), &chunk, work)
        });
        writes.await.map(|written| written.and_then(|written| written)).collect()
    }

    pub(super) async fn each_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let pieces: Vec<_> = keys.chunks(QUESTIONS).map(<[CacheKey]>::to_vec).collect();
        let lens: Vec<_> = pieces.iter().map(Vec::len).collect();
        let answers = self.each(self.pieces(pieces.into_iter()), |files, keys, work| {
            let answer = |key: &CacheKey| if work.is_cancelled() { Ok(false) } else { exists(files, key) };
            keys.iter().map(answer).collect::<Vec<_>>()
        });
        let whole = |(answers, len): (Result<Vec<_>>, usize)| {
            answers.unwrap_or_else(|e| (0..len).map(|_| Err(e.again())).collect())
        };
        answers.await.zip(lens).flat_map(whole).collect()
    }
}
