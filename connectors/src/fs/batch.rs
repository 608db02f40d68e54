//! Batches: the caller's thread and a few blocking threads, each of which processes one item after the other.
//!
//! Two wake-ups of a thread take as long as the copy of a few files of 64 KiB. So the caller's thread begins at once with
//! the items that do not wait, and kvconn wakes one more thread for each 256 KiB. The first item that would wait for a
//! disk sends the others to blocking threads. These may be more than the processors, because most of them wait.

use std::collections::VecDeque;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use connector_core::connector::Pass;
use connector_core::{CacheKey, ChunkLayout, Error, ErrorKind, MemoryObj, MemoryObjMut, RemoteConnector, Result};
use futures::stream::{self, StreamExt};
use tokio::sync::mpsc;

use super::cancel::{Work, cancellable};
use super::connector::{FSConnector, read_into};
use super::dirs::Opened;
use super::files::Files;
use super::folder::Wait;
use super::read::{Cache, Lookup, Purpose, SLICE};
use super::threads::{Pace, caught};

/// Chunks of a batch that are read or written at once.
const AT_ONCE: usize = 8;

/// Bytes in memory that are worth one more thread: about 30 µs of copying.
const WORTH_A_THREAD: usize = 256 << 10;

/// The processors of this process. Read once, because the query reads files.
static PROCESSORS: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));

/// The result of an item.
pub(super) enum Step<T, R> {
    Done(Result<R>),
    /// The item comes back, because only a call that waits can answer it. [`Wait::Yes`] never gives this.
    WouldWait(T),
}

/// How threads share a batch.
pub(super) struct Share {
    /// Items that a thread takes at a time.
    pub(super) at_once: usize,
    /// The threads that the batch is worth if no item waits, the caller's included. 0 if the caller's must not begin.
    pub(super) warm: usize,
}

/// A batch, whose threads share it.
struct Batch<T, R, J> {
    job: J,
    at_once: usize,
    work: Work,
    waiting: Mutex<VecDeque<(usize, T)>>,
    answers: Mutex<Answers<R>>,
    /// Dropped last: `close` waits until the memory of the items is free.
    _pass: Pass,
}

struct Answers<R> {
    found: Vec<Option<Result<R>>>,
    missing: usize,
}

impl<T, R, J: Fn(&Files, &mut Opened<'_>, T, Wait, &Work) -> Step<T, R>> Batch<T, R, J> {
    fn take(&self) -> Vec<(usize, T)> {
        let mut waiting = lock(&self.waiting);
        let n = self.at_once.min(waiting.len());
        waiting.drain(..n).collect()
    }

    /// Processes one item. A job that panics fails alone.
    fn step(&self, files: &Files, opened: &mut Opened<'_>, item: T, wait: Wait) -> Step<T, R> {
        caught(|| Ok((self.job)(files, opened, item, wait, &self.work))).unwrap_or_else(|e| Step::Done(Err(e)))
    }

    /// Processes items on the caller's thread, until one would wait.
    async fn begin(&self, files: &Files) {
        let (mut opened, mut done, mut pace) = (files.dirs.opened(), Vec::new(), Pace::new());
        'all: loop {
            let mut items = VecDeque::from(self.take());
            if items.is_empty() {
                break;
            }
            while let Some((n, item)) = items.pop_front() {
                match self.step(files, &mut opened, item, Wait::No) {
                    Step::Done(answer) => done.push((n, answer)),
                    Step::WouldWait(item) => {
                        items.push_front((n, item));
                        lock(&self.waiting).extend(items);
                        break 'all;
                    }
                }
            }
            pace.pause().await;
        }
        self.answer(done);
    }

    /// Processes items on a blocking thread, until none is left. True if it gave the batch's last answer.
    fn run(&self, files: &Files) -> bool {
        let (mut opened, mut done) = (files.dirs.opened(), Vec::new());
        loop {
            let items = self.take();
            if items.is_empty() {
                return self.answer(done);
            }
            for (n, item) in items {
                if let Step::Done(answer) = self.step(files, &mut opened, item, Wait::Yes) {
                    done.push((n, answer));
                }
            }
        }
    }

    /// Records answers. True if all items have theirs.
    fn answer(&self, done: Vec<(usize, Result<R>)>) -> bool {
        let mut answers = lock(&self.answers);
        answers.missing -= done.len();
        for (n, answer) in done {
            answers.found[n] = Some(answer);
        }
        answers.missing == 0
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FSConnector {
    /// Runs `job` for each item. The answers have the items' order. After this future is dropped, `job` may skip its
    /// work.
    pub(super) async fn each<T: Send + 'static, R: Send + 'static>(
        &self,
        items: Vec<T>,
        share: Share,
        job: impl Fn(&Files, &mut Opened<'_>, T, Wait, &Work) -> Step<T, R> + Send + Sync + 'static,
    ) -> Vec<Result<R>> {
        let count = items.len();
        let pass = match self.gate.enter() {
            Ok(pass) => pass,
            Err(e) => return (0..count).map(|_| Err(e.clone())).collect(),
        };
        let (_cancel, work) = cancellable();
        let batch = Arc::new(Batch {
            job,
            at_once: share.at_once,
            work,
            waiting: Mutex::new(items.into_iter().enumerate().collect()),
            answers: Mutex::new(Answers { found: (0..count).map(|_| None).collect(), missing: count }),
            _pass: pass,
        });
        let (last, mut answered) = mpsc::channel(1);
        let thread = || {
            let (batch, files, last) = (batch.clone(), self.files.clone(), last.clone());
            move || {
                if batch.run(&files) {
                    // The caller may be gone.
                    let _ = last.try_send(());
                }
            }
        };
        // On a file system in memory, each thread keeps a processor busy. On a disk, most threads wait.
        let most = if self.files.cache == Cache::Memory { (*PROCESSORS).clamp(AT_ONCE / 2, AT_ONCE) } else { AT_ONCE };
        let most = most.min(count.div_ceil(share.at_once));
        let helpers = share.warm.min(most).min(*PROCESSORS).saturating_sub(1);
        if share.warm > 0 {
            (0..helpers).for_each(|_| self.threads.try_start(thread()));
            batch.begin(&self.files).await;
        }
        if !lock(&batch.waiting).is_empty() {
            let place = self.threads.place().await;
            (helpers + 1..most).for_each(|_| self.threads.try_start(thread()));
            let thread = thread();
            self.threads.start(move || {
                thread();
                drop(place);
            });
        }
        drop(last);
        // The call does not wait for a thread that begins later, because no item is left for it.
        if lock(&batch.answers).missing > 0 {
            answered.recv().await;
        }
        let lost = || Err(Error::new(ErrorKind::Closed, "the tokio runtime is shutting down"));
        let found = std::mem::take(&mut lock(&batch.answers).found);
        found.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect()
    }

    /// How threads share the reads of these lengths.
    fn reads(&self, lengths: impl Iterator<Item = usize>) -> Share {
        let (bytes, longest) =
            lengths.fold((0_usize, 0), |(sum, longest), len| (sum.saturating_add(len), longest.max(len)));
        let may_begin = self.files.cache != Cache::Never && longest <= SLICE;
        Share { at_once: 1, warm: if may_begin { bytes.div_ceil(WORTH_A_THREAD).max(1) } else { 0 } }
    }

    /// Reads the chunks into memory as it comes. If the pool has too little, reserves the memory of all chunks first.
    pub(super) async fn get_all(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        if !self.backend.waits() {
            let found = self.get_at_once(keys).await;
            if !found.iter().any(|found| found.as_ref().is_err_and(|e| e.kind() == ErrorKind::PoolFull)) {
                return found;
            }
        }
        self.get_reserved(keys).await
    }

    /// Takes the memory of each chunk when its file is open.
    async fn get_at_once(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let full = self.files.metadata.as_ref().map_or(WORTH_A_THREAD, |metadata| metadata.chunk_layout().full.len);
        let backend = self.backend.clone();
        let job = move |files: &Files, opened: &mut Opened<'_>, key, wait, work: &Work| {
            if work.is_cancelled() {
                return Step::Done(Ok(None));
            }
            let file = match files.find(opened, &key, Purpose::Get, wait) {
                Ok(Lookup::Found(file)) => file,
                Ok(Lookup::Miss) => return Step::Done(Ok(None)),
                Ok(Lookup::WouldWait) => return Step::WouldWait(key),
                Err(e) => return Step::Done(Err(e)),
            };
            let mut memory = match backend.try_allocate(&file.layout) {
                Some(Ok(memory)) => memory,
                Some(Err(e)) => return Step::Done(Err(e)),
                None => return Step::Done(Err(Error::new(ErrorKind::PoolFull, "the pool has no memory at once"))),
            };
            let read = match wait {
                Wait::Yes => file.read(files, &mut memory),
                Wait::No if file.read_now(files.cache, &mut memory) => Ok(()),
                Wait::No => return Step::WouldWait(key),
            };
            Step::Done(read.map(|()| Some(memory.freeze())))
        };
        self.each(keys.to_vec(), self.reads(keys.iter().map(|_| full)), job).await
    }

    /// Takes the memory of all chunks at once: two batches that each held a part would wait for each other.
    async fn get_reserved(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let found = self.each(keys.to_vec(), self.reads(keys.iter().map(|_| 0)), |files, opened, key, wait, work| {
            if work.is_cancelled() {
                return Step::Done(Ok(None));
            }
            match files.find(opened, &key, Purpose::Inspect, wait) {
                Ok(Lookup::Found(file)) => Step::Done(Ok(Some(file.layout))),
                Ok(Lookup::Miss) => Step::Done(Ok(None)),
                Ok(Lookup::WouldWait) => Step::WouldWait(key),
                Err(e) => Step::Done(Err(e)),
            }
        });
        let found = found.await;
        let layouts: Vec<ChunkLayout> = found.iter().flatten().flatten().cloned().collect();
        let mut memory = self.backend.reserve(&layouts).await.into_iter();
        let (mut answers, mut reads) = (Vec::with_capacity(keys.len()), Vec::new());
        for (n, found) in found.into_iter().enumerate() {
            let memory = found.and_then(|found| found.and_then(|_| memory.next()).transpose());
            answers.push(memory.map(|memory| {
                reads.extend(memory.map(|memory| (n, memory)));
                None
            }));
        }
        let places: Vec<usize> = reads.iter().map(|(n, _)| *n).collect();
        let items = reads.into_iter().map(|(n, memory)| (keys[n].clone(), memory)).collect();
        for (n, read) in places.into_iter().zip(self.read_each(items).await) {
            answers[n] = match read {
                Ok((memory, Ok(Some(_)))) => Ok(Some(memory.freeze())),
                // A chunk of another length may have replaced the one that was found.
                Ok((_, Ok(None))) => self.read_blocking(&keys[n]).await,
                Ok((_, Err(e))) if e.kind() == ErrorKind::SizeMismatch => self.read_blocking(&keys[n]).await,
                Ok((_, Err(e))) | Err(e) => Err(e),
            };
        }
        answers
    }

    /// Reads each chunk into the memory beside its key, and gives the memory back.
    async fn read_each(
        &self,
        items: Vec<(CacheKey, MemoryObjMut)>,
    ) -> Vec<Result<(MemoryObjMut, Result<Option<usize>>)>> {
        let share = self.reads(items.iter().map(|(_, memory)| memory.capacity()));
        self.each(items, share, |files, opened, (key, memory), wait, work| {
            match read_into(files, opened, &key, memory, wait, work) {
                (memory, None) => Step::WouldWait((key, memory)),
                (memory, Some(answer)) => Step::Done(Ok((memory, answer))),
            }
        })
        .await
    }

    pub(super) async fn get_all_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        // Enters first: a closed store must leave the memory in its place.
        if let Err(e) = self.gate.enter() {
            return requests.iter().map(|_| Err(e.clone())).collect();
        }
        // The threads own the memory until the reads have ended, even if this future is dropped.
        let items = requests.iter_mut().map(|(key, dst)| (key.clone(), dst.take())).collect();
        let reads = self.read_each(items);
        let put_back = |(read, (_, dst)): (Result<(MemoryObjMut, _)>, &mut (_, MemoryObjMut))| {
            let (memory, answer) = read?;
            *dst = memory;
            answer
        };
        reads.await.into_iter().zip(requests).map(put_back).collect()
    }

    pub(super) async fn put_all(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        if self.files.quota.is_some() {
            // Each put waits for the quota's lock, which must not hold a thread.
            let puts = items.iter().map(|(key, chunk)| self.put(key, chunk.clone()));
            return stream::iter(puts.collect::<Vec<_>>()).buffered(AT_ONCE).collect().await;
        }
        let mut share = self.reads(items.iter().map(|(_, chunk)| chunk.len()));
        if !self.files.puts_without_waiting() {
            share.warm = 0;
        }
        self.each(items.to_vec(), share, |files, opened, (key, chunk), _, work| {
            let mut put = || files.put(opened, &key, files.header(&key, chunk.layout())?.as_ref(), &chunk, work);
            Step::Done(put())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{ThreadId, current};

    use connector_core::FromContext;

    use super::*;

    async fn store() -> (FSConnector, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let context = connector_core::builder(&format!("fs://{}", dir.path().display())).build().unwrap();
        (FSConnector::from_context(context).await.unwrap(), dir)
    }

    #[tokio::test]
    async fn a_job_that_panics_costs_only_its_own_answer() {
        let (store, _dir) = store().await;
        for (at_once, warm) in [(1, 0), (64, 0), (1, 4), (64, 1)] {
            let job = |_: &Files, _: &mut Opened<'_>, n: usize, _, _: &Work| {
                Step::Done(if n % 3 == 2 { panic!("on purpose") } else { Ok(n * 10) })
            };
            let answers = store.each((0..100).collect(), Share { at_once, warm }, job).await;
            assert_eq!(answers.len(), 100);
            for (n, answer) in answers.into_iter().enumerate() {
                match answer {
                    Ok(answer) => assert!(n % 3 != 2 && answer == n * 10),
                    Err(e) => assert!(n % 3 == 2 && e.to_string().contains("panicked"), "{n}: {e}"),
                }
            }
        }
    }

    /// The thread of each item. `waits` says which items would wait.
    async fn threads(store: &FSConnector, share: Share, waits: fn(usize) -> bool) -> Vec<ThreadId> {
        let job = move |_: &Files, _: &mut Opened<'_>, n: usize, wait, _: &Work| match wait {
            Wait::No if waits(n) => Step::WouldWait(n),
            _ => Step::Done(Ok((n, current().id()))),
        };
        let answers = store.each((0..40).collect(), share, job).await;
        answers
            .into_iter()
            .enumerate()
            .map(|(n, answer)| {
                let (item, thread) = answer.unwrap();
                assert_eq!(item, n);
                thread
            })
            .collect()
    }

    #[tokio::test]
    async fn the_callers_thread_processes_a_small_batch_up_to_the_first_item_that_would_wait() {
        let (store, _dir) = store().await;
        let here = current().id();
        for at_once in [1, 7] {
            let all = threads(&store, Share { at_once, warm: 1 }, |_| false).await;
            assert!(all.iter().all(|thread| *thread == here), "{all:?}");
            let some = threads(&store, Share { at_once, warm: 1 }, |n| n == 10).await;
            assert!(some[..10].iter().all(|thread| *thread == here), "{some:?}");
            assert!(some[10..].iter().all(|thread| *thread != here), "{some:?}");
            let none = threads(&store, Share { at_once, warm: 0 }, |_| false).await;
            assert!(none.iter().all(|thread| *thread != here), "{none:?}");
        }
    }
}
