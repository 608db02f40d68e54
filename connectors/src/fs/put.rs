//! Puts into a store with a quota.

use std::sync::Arc;
use std::time::Duration;

use connector_core::connector::Pass;
use connector_core::{CacheKey, ChunkHeader, Error, ErrorKind, MemoryObj, Result};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::cancel::Work;
use super::connector::FSConnector;
use super::files::Files;
use super::quota::{Made, Quota, Search, run_upkeep};
use super::threads::Threads;
use super::write::NewFile;

/// The pause of a long search for room. Other processes poll for the ledger's lock.
const PAUSE: Duration = Duration::from_millis(1);

/// A put's temporary file. If the put is dropped, a blocking thread removes the file.
struct Unfinished {
    file: Option<(NewFile, OwnedSemaphorePermit, Pass)>,
    threads: Threads,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            self.threads.start(|| drop(file));
        }
    }
}

impl FSConnector {
    /// Stores a chunk. The file is written before the wait for the quota's lock, and the wait holds no thread. If the disk
    /// is full although the store is within its capacity, an eviction makes room, once.
    pub(super) async fn put_within(
        &self,
        quota: &Quota,
        key: &CacheKey,
        header: Option<ChunkHeader>,
        chunk: MemoryObj,
    ) -> Result<()> {
        let pass = self.others.enter()?;
        let place = quota.writers.clone().acquire_owned().await.map_err(|_| Error::closed())?;
        let bytes = header.as_ref().map_or(0, |header| header.as_bytes().len()) + chunk.len();
        let write = || {
            let (key, header, chunk) = (key.clone(), header.clone(), chunk.clone());
            self.blocking(move |files, work| files.write(&mut files.dirs.opened(), &key, header.as_ref(), &chunk, work))
        };
        let written = match write().await {
            Err(e) if e.kind() == ErrorKind::StoreFull => {
                let mut search = Search::default();
                loop {
                    let (key, turn) = (key.clone(), quota.turn(&self.files.dirs).await?);
                    let evict = move |files: &Files, work: &Work| {
                        let made = files.make_room(turn, &key, bytes as u64, &mut search, work)?;
                        Ok((made, search))
                    };
                    let made;
                    (made, search) = self.asking(evict).await?;
                    match made {
                        Made::Room => break write().await?,
                        Made::Part => sleep(PAUSE).await,
                        Made::Nothing => return Err(e),
                    }
                }
            }
            written => written?,
        };
        let file = written.map(|file| (file, place, pass));
        let mut unfinished = Unfinished { file, threads: self.threads.clone() };
        let mut search = Search::default();
        let stored = loop {
            let (key, turn) = (key.clone(), quota.turn(&self.files.dirs).await?);
            let store = move |files: &Files, work: &Work| {
                if let (Some(quota), Some((file, place, pass))) = (&files.quota, unfinished.file.take()) {
                    let left = files.put_within((quota, turn), &key, file, &mut search, work)?;
                    unfinished.file = left.map(|file| (file, place, pass));
                }
                Ok((unfinished, search))
            };
            match self.asking(store).await {
                Ok(left) if left.0.file.is_some() => {
                    (unfinished, search) = left;
                    sleep(PAUSE).await;
                }
                stored => break stored.map(drop),
            }
        };
        if quota.is_upkeep_wanted() {
            let (files, threads, gate) = (Arc::downgrade(&self.files), self.threads.clone(), self.others.clone());
            self.threads.spawn(run_upkeep(files, threads, gate));
        }
        stored
    }
}
