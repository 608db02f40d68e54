//! Batches: a few blocking threads, each of which processes one item after the other.
//!
//! Starting a thread for each item would cost two wake-ups an item. (For chunks of 64 KiB on tmpfs that is half of
//! the time.)

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::available_parallelism;

use connector_core::{CacheKey, ChunkLayout, Error, ErrorKind, MemoryObj, MemoryObjMut, RemoteConnector, Result};
use futures::future::join_all;
use futures::stream::{self, StreamExt};

use super::cancel::Work;
use super::connector::{FSConnector, exists, read_into};
use super::files::Files;
use super::folder::Wait;
use super::read::{Cache, Lookup, Purpose};
use super::threads::caught;

/// Chunks of a batch that are read or written at once.
const AT_ONCE: usize = 8;

/// Keys that a thread takes at once to see whether they exist.
const KEYS_AT_ONCE: usize = 64;

/// The processors of this process. Read once, because the query reads files.
static PROCESSORS: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));

impl FSConnector {
    /// Runs `job` for each item; a thread takes `at_once` of them at a time. The answers have the items' order. After this
    /// future is dropped, `job` may skip its work.
    async fn each<T: Send + 'static, R: Send + 'static>(
        &self,
        items: Vec<T>,
        at_once: usize,
        job: impl Fn(&Files, T, &Work) -> Result<R> + Send + Sync + 'static,
    ) -> Vec<Result<R>> {
        let mut answers: Vec<Option<Result<R>>> = items.iter().map(|_| None).collect();
        // On a file system in memory, each thread keeps a processor busy. On a disk, most threads wait.
        let threads =
            if self.files.cache == Cache::Memory { (*PROCESSORS).clamp(AT_ONCE / 2, AT_ONCE) } else { AT_ONCE };
        let threads = threads.min(items.len().div_ceil(at_once));
        let shared = Arc::new((Mutex::new(items.into_iter().enumerate()), job));
        let running = (0..threads).map(|_| {
            let shared = shared.clone();
            self.blocking(move |files, work| {
                let (queue, job) = &*shared;
                let mut done = Vec::new();
                loop {
                    let items: Vec<_> =
                        queue.lock().unwrap_or_else(PoisonError::into_inner).by_ref().take(at_once).collect();
                    if items.is_empty() {
                        return Ok(done);
                    }
                    // A job that panics fails alone.
                    done.extend(items.into_iter().map(|(n, item)| (n, caught(|| job(files, item, work)))));
                }
            })
        });
        let mut lost = Error::new(ErrorKind::Other, "the work was lost");
        for done in join_all(running).await {
            match done {
                Ok(done) => done.into_iter().for_each(|(n, answer)| answers[n] = Some(answer)),
                Err(e) => lost = e,
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(lost.clone()))).collect()
    }

    /// Takes the memory of all chunks at once: two batches that each held a part would wait for each other.
    pub(super) async fn get_all(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let found = self.each(keys.to_vec(), 1, |files, key, work| {
            if work.is_cancelled() {
                return Ok(None);
            }
            Ok(match files.find(&key, Purpose::Inspect, Wait::Yes)? {
                Lookup::Found(file) => Some(file.layout),
                Lookup::Miss | Lookup::WouldWait => None,
            })
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
        self.each(items, 1, |files, (key, memory), work| Ok(read_into(files, &key, memory, work))).await
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
        self.each(items.to_vec(), 1, |files, (key, chunk), work| {
            let header = files.header(&key, chunk.layout())?;
            files.put(&key, header.as_ref(), &chunk, work)
        })
        .await
    }

    pub(super) async fn all_exist(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.each(
            keys.to_vec(),
            KEYS_AT_ONCE,
            |files, key, work| {
                if work.is_cancelled() { Ok(false) } else { exists(files, &key) }
            },
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use connector_core::FromContext;

    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_costs_only_its_own_answer() {
        let dir = tempfile::tempdir().unwrap();
        let context = connector_core::builder(&format!("fs://{}", dir.path().display())).build().unwrap();
        let store = FSConnector::from_context(context).await.unwrap();
        for at_once in [1, KEYS_AT_ONCE] {
            let job = |_: &Files, n: usize, _: &Work| if n % 3 == 2 { panic!("on purpose") } else { Ok(n * 10) };
            let answers = store.each((0..100).collect(), at_once, job).await;
            for (n, answer) in answers.into_iter().enumerate() {
                match answer {
                    Ok(answer) => assert!(n % 3 != 2 && answer == n * 10),
                    Err(e) => assert!(n % 3 == 2 && e.to_string().contains("panicked"), "{n}: {e}"),
                }
            }
        }
    }
}
