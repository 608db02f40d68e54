use std::sync::Arc;
use std::time::Duration;

use connector_core::connector::Gate;
use connector_core::{
    BoxStream, CacheKey, Capabilities, ChunkHeader, ConnectorContext, Diagnosis, FromContext, ListEntry,
    LocalCpuBackend, MemoryObj, MemoryObjMut, RemoteConnector, Result, external_connector,
};
use futures::stream::{StreamExt, TryStreamExt};

use super::cancel::{Work, cancellable};
use super::dirs::Opened;
use super::files::Files;
use super::folder::Wait;
use super::quota::Quota;
use super::read::{Cache, ChunkFile, Lookup, Purpose};
use super::threads::{Threads, caught};
use super::{FsOptions, Layout, layout, listing};

/// How long `close` waits for work that holds no memory of a caller, such as a remove on a disk that does not answer.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// One file a chunk, byte for byte as LMCache writes it.
///
/// URL: `fs:///PATH[,PATH..]`.
///
/// A file is written under a temporary name and renamed when it is complete. Several base paths share the chunks by hash.
/// Reads go straight into pool memory, or into the caller's.
#[external_connector(
    module = "kvconn.fs",
    name = "FSConnector",
    scheme = "fs",
    url = "fs:///var/cache/kv",
    url = "fs://host:0/var/cache/kv",
    options = FsOptions
)]
pub struct FSConnector {
    pub(super) files: Arc<Files>,
    pub(super) backend: LocalCpuBackend,
    pub(super) threads: Threads,
    /// Work on blocking threads outlives the futures that started it. This is the work that reads or writes a chunk's
    /// memory.
    pub(super) gate: Gate,
    /// All other work.
    pub(super) others: Gate,
}

impl FromContext for FSConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let files = Files::of(&ctx)?;
        let threads = Threads::new(ctx.handle().clone());
        let existing = ctx.existing();
        let prepare = move || if existing { files.check_existing()?.prepare() } else { files.prepare() };
        let files = threads.run(prepare).await?;
        if files.layout != Layout::Lmcache && !existing {
            files.layout.warn();
        }
        Ok(Self::new(files, ctx.local_cpu_backend().clone(), threads))
    }
}

impl FSConnector {
    fn new(files: Files, backend: LocalCpuBackend, threads: Threads) -> Self {
        Self { files: Arc::new(files), backend, threads, gate: Gate::default(), others: Gate::default() }
    }

    /// Runs `job`, which reads or writes a chunk's memory, on a blocking thread. `job` owns its data, and `close` waits
    /// for it even if this future is dropped.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Files, &Work) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.within(&self.gate, job).await
    }

    /// Runs `job`, which holds no memory of a caller, on a blocking thread.
    pub(super) async fn asking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Files, &Work) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.within(&self.others, job).await
    }

    async fn within<T: Send + 'static>(
        &self,
        gate: &Gate,
        job: impl FnOnce(&Files, &Work) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let pass = gate.enter()?;
        let (_cancel, work) = cancellable();
        let files = self.files.clone();
        let job = move || {
            let answer = job(&files, &work);
            drop(pass);
            answer
        };
        self.threads.run(job).await
    }

    /// Reads the chunk if the page cache has all of it, and refreshes its access time. `memory` already has its layout; after
    /// `false` its bytes are unspecified.
    async fn read_cached(&self, file: ChunkFile, memory: &mut MemoryObjMut) -> bool {
        if !file.read_cached(self.files.cache, memory).await {
            return false;
        }
        if !file.is_stale {
        } else if self.files.cache == Cache::Memory {
            file.note_use();
        } else if let Ok(pass) = self.others.enter() {
            // This call does not wait for the disk.
            self.threads.try_start(move || {
                file.note_use();
                drop(pass);
            });
        }
        true
    }

    /// Finds and reads the chunk, with one visit to a blocking thread if the pool has memory at once.
    pub(super) async fn read_blocking(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let (wanted, backend) = (key.clone(), self.backend.clone());
        match self.blocking(move |files, work| Read::try_now(files, &backend, &wanted, work)).await? {
            Read::Miss => Ok(None),
            Read::Done(chunk) => Ok(Some(chunk)),
            Read::NeedsMemory(file) => {
                let mut memory = self.backend.allocate(&file.layout).await?;
                self.blocking(move |files, _| file.read(files, &mut memory).map(|()| Some(memory.freeze()))).await
            }
        }
    }

    async fn read_into_blocking(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let key = key.clone();
        // Enters first: a closed store must leave the memory in its place.
        drop(self.gate.enter()?);
        // The blocking thread owns the memory until the read has ended, even if this future is dropped.
        let memory = dst.take();
        let read = move |files: &Files, work: &Work| {
            Ok(read_into(files, &mut files.dirs.opened(), &key, memory, Wait::Yes, work))
        };
        let (memory, answer) = self.blocking(read).await?;
        *dst = memory;
        answer.unwrap_or(Ok(None))
    }
}

/// The result of a read that does not wait for memory.
enum Read {
    Miss,
    Done(MemoryObj),
    NeedsMemory(ChunkFile),
}

impl Read {
    fn try_now(files: &Files, backend: &LocalCpuBackend, key: &CacheKey, work: &Work) -> Result<Self> {
        if work.is_cancelled() {
            return Ok(Self::Miss);
        }
        let Lookup::Found(file) = files.find(&mut files.dirs.opened(), key, Purpose::Get, Wait::Yes)? else {
            return Ok(Self::Miss);
        };
        let Some(memory) = backend.try_allocate(&file.layout) else { return Ok(Self::NeedsMemory(file)) };
        let mut memory = memory?;
        file.read(files, &mut memory)?;
        Ok(Self::Done(memory.freeze()))
    }
}

/// Gives the memory back, filled or not, also after a panic. The answer is `None` if only a call that waits can give it.
pub(super) fn read_into(
    files: &Files,
    opened: &mut Opened<'_>,
    key: &CacheKey,
    mut memory: MemoryObjMut,
    wait: Wait,
    work: &Work,
) -> (MemoryObjMut, Option<Result<Option<usize>>>) {
    let read = || {
        if work.is_cancelled() {
            return Ok(Some(None));
        }
        let file = match files.find(opened, key, Purpose::Get, wait)? {
            Lookup::Found(file) if files.fills(&file, &memory) => file,
            Lookup::Found(_) | Lookup::Miss => return Ok(Some(None)),
            Lookup::WouldWait => return Ok(None),
        };
        memory.set_layout(file.layout.clone())?;
        match wait {
            Wait::Yes => file.read(files, &mut memory)?,
            Wait::No if file.read_now(files.cache, &mut memory) => {}
            Wait::No => return Ok(None),
        }
        Ok(Some(Some(memory.len())))
    };
    let answer = caught(read).transpose();
    (memory, answer)
}

impl RemoteConnector for FSConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.is_there(key).await
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let found = self.files.find(&mut self.files.dirs.opened(), key, Purpose::Get, Wait::No)?;
        match found {
            Lookup::Miss => return Ok(None),
            Lookup::Found(file) => {
                if let Some(memory) = self.backend.try_allocate(&file.layout) {
                    let mut memory = memory?;
                    if self.read_cached(file, &mut memory).await {
                        return Ok(Some(memory.freeze()));
                    }
                }
            }
            Lookup::WouldWait => {}
        }
        self.read_blocking(key).await
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let header = self.files.header(key, chunk.layout())?;
        if self.files.puts_without_waiting() {
            return self.files.put_on_executor(key, header.as_ref(), &chunk).await;
        }
        if let Some(quota) = &self.files.quota {
            return self.put_within(quota, key, header, chunk).await;
        }
        let key = key.clone();
        self.blocking(move |files, work| files.put(&mut files.dirs.opened(), &key, header.as_ref(), &chunk, work)).await
    }

    fn capabilities(&self) -> Capabilities {
        let mut all = Capabilities::new().with_remove().with_list().with_ping().with_raw_object_keys();
        all = match self.files.layout {
            Layout::Lmcache => all.with_max_key_bytes(self.files.name_max - layout::EXTENSION.len()),
            // The longest key depends on its fields.
            Layout::Vllm | Layout::Sglang => all.with_object_keys_only().with_exact_length(),
        };
        let capacity = self.files.quota.as_ref().map(|quota| quota.capacity);
        if self.files.with_header {
            let file_max = capacity.unwrap_or(u64::MAX);
            let chunk_max = file_max.saturating_sub(ChunkHeader::len_for(1) as u64).min(i32::MAX as u64);
            return all.with_layout_kept().with_dtypes(ChunkHeader::DTYPES).with_max_chunk_bytes(chunk_max);
        }
        match capacity {
            Some(bytes) => all.with_max_chunk_bytes(bytes),
            None => all,
        }
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let found = self.files.find(&mut self.files.dirs.opened(), key, Purpose::Get, Wait::No)?;
        match found {
            Lookup::Miss => return Ok(None),
            Lookup::Found(file) if !self.files.fills(&file, dst) => return Ok(None),
            Lookup::Found(file) => {
                dst.set_layout(file.layout.clone())?;
                if self.read_cached(file, dst).await {
                    return Ok(Some(dst.len()));
                }
            }
            Lookup::WouldWait => {}
        }
        self.read_into_blocking(key, dst).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        let mut turn = None;
        if let Some(quota) = &self.files.quota {
            let key = key.clone();
            // A remove from a store that does not exist leaves no ledger behind.
            if !self.asking(move |files, _| files.has_file(&key)).await? {
                return Ok(false);
            }
            turn = Some(quota.turn(&self.files.dirs).await);
        }
        let key = key.clone();
        self.asking(move |files, work| files.remove(&key, turn, work)).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        listing::entries(self.files.clone(), self.threads.clone(), prefix, false).map_ok(|entry| entry.key).boxed()
    }

    fn list_entries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        listing::entries(self.files.clone(), self.threads.clone(), prefix, true).boxed()
    }

    async fn ping(&self) -> Result<()> {
        self.asking(|files, _| files.dirs.ping()).await
    }

    async fn diagnose(&self) -> Result<Vec<Diagnosis>> {
        self.asking(|files, _| Ok(super::diagnose::diagnose(files))).await
    }

    async fn close(&self) -> Result<()> {
        self.gate.close().await;
        match tokio::time::timeout(CLOSE_PATIENCE, self.others.close()).await {
            Ok(()) => self.files.quota.iter().for_each(Quota::close),
            Err(_) => tracing::warn!("fs: closed while work waits for a disk that does not answer"),
        }
        Ok(())
    }

    /// Uses blocking threads: on the executor the reads would run one after the other.
    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        match keys {
            [key] => vec![self.get(key).await],
            keys => self.get_all(keys).await,
        }
    }

    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        match requests {
            [(key, dst)] => vec![self.get_into(key, dst).await],
            requests => self.get_all_into(requests).await,
        }
    }

    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        self.put_all(items).await
    }

    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.all_exist(keys).await
    }

    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        self.leading_run(keys).await
    }
}

#[cfg(test)]
mod tests;
