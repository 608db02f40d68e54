use std::sync::Arc;
use std::time::Duration;

use connector_core::connector::Gate;
use connector_core::{
    BoxStream, CacheKey, Capabilities, ChunkHeader, ConnectorContext, FromContext, ListEntry, LocalCpuBackend, MemoryObj,
    MemoryObjMut, RemoteConnector, Result, external_connector,
};
use futures::stream::{StreamExt, TryStreamExt};

use super::cancel::{Work, cancellable};
use super::files::Files;
use super::folder::Wait;
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
        let (memory, answer) = self.blocking(move |files, work| Ok(read_into(files, &key, memory, work))).await?;
        *dst = memory;
        answer
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
        let Lookup::Found(file) = files.find(key, Purpose::Get, Wait::Yes)? else { return Ok(Self::Miss) };
        let Some(memory) = backend.try_allocate(&file.layout) else { return Ok(Self::NeedsMemory(file)) };
        let mut memory = memory?;
        file.read(files, &mut memory)?;
        Ok(Self::Done(memory.freeze()))
    }
}

/// Gives the memory back, filled or not, also after a panic.
pub(super) fn read_into(
    files: &Files,
    key: &CacheKey,
    mut memory: MemoryObjMut,
    work: &Work,
) -> (MemoryObjMut, Result<Option<usize>>) {
    let read = || {
        if work.is_cancelled() {
            return Ok(None);
        }
        let Lookup::Found(file) = files.find(key, Purpose::Get, Wait::Yes)? else { return Ok(None) };
        if !files.fills(&file, &memory) {
            return Ok(None);
        }
        memory.set_layout(file.layout.clone())?;
        file.read(files, &mut memory)?;
        Ok(Some(memory.len()))
    };
    let answer = caught(read);
    (memory, answer)
}

pub(super) fn exists(files: &Files, key: &CacheKey) -> Result<bool> {
    files.exists(key, Wait::Yes).map(|exists| exists.unwrap_or(false))
}

impl RemoteConnector for FSConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        if let Some(exists) = self.files.exists(key, Wait::No)? {
            return Ok(exists);
        }
        let key = key.clone();
        self.asking(move |files, _| exists(files, &key)).await
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        match self.files.find(key, Purpose::Get, Wait::No)? {
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
        self.blocking(move |files, work| files.put(&key, header.as_ref(), &chunk, work)).await
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
        match self.files.find(key, Purpose::Get, Wait::No)? {
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

    async fn close(&self) -> Result<()> {
        self.gate.close().await;
        if tokio::time::timeout(CLOSE_PATIENCE, self.others.close()).await.is_err() {
            tracing::warn!("fs: closed while work waits for a disk that does not answer");
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

    /// Stops at the first key that is missing.
    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        let keys = keys.to_vec();
        self.asking(move |files, work| {
            for (n, key) in keys.iter().enumerate() {
                match exists(files, key) {
                    Ok(true) if !work.is_cancelled() => {}
                    Err(e) if n == 0 => return Err(e),
                    _ => return Ok(n),
                }
            }
            Ok(keys.len())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use connector_core::PoolAllocator;
    use tokio::runtime::Handle;

    use super::*;

    fn files(dir: &std::path::Path) -> Files {
        let store = connector_core::builder(&format!("fs://{}", dir.display()));
        Files::of(&store.build().unwrap()).unwrap()
    }

    fn on(dir: &std::path::Path, cache: Cache, pool: &PoolAllocator) -> FSConnector {
        let files = Files { cache, read_ahead_size: Some(1 << 20), ..files(dir) };
        let backend = LocalCpuBackend::with_allocator(pool.clone());
        FSConnector::new(files, backend, Threads::new(Handle::current()))
    }

    /// Drops the file from the page cache, so that a read has to wait.
    fn forget(path: &std::path::Path) {
        let file = std::fs::File::open(path).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }

    #[tokio::test]
    async fn reads_are_right_with_every_kind_of_cache_warm_and_cold() {
        let pool = PoolAllocator::new(64 << 20);
        let key: CacheKey = "org/m@1@0@1@half".parse().unwrap();
        let missing: CacheKey = "org/m@1@0@2@half".parse().unwrap();
        let bytes: Vec<u8> = (0..(3 << 20) + 77_u32).map(|i| (i % 251) as u8).collect();
        for cache in [Cache::Never, Cache::NoWait, Cache::Memory] {
            let dir = tempfile::tempdir().unwrap();
            let connector = on(dir.path(), cache, &pool);
            connector.put(&key, MemoryObj::from(bytes.clone())).await.unwrap();
            for cold in [false, true] {
                if cold {
                    forget(&dir.path().join(layout::file_name(&key).unwrap()));
                }
                assert!(connector.exists(&key).await.unwrap() && !connector.exists(&missing).await.unwrap());
                assert_eq!(connector.get(&key).await.unwrap().as_deref(), Some(&bytes[..]), "{cache:?}, cold: {cold}");
                assert_eq!(connector.get(&missing).await.unwrap(), None);
                if cold {
                    forget(&dir.path().join(layout::file_name(&key).unwrap()));
                }
                let mut memory = MemoryObjMut::zeroed(bytes.len() + 1);
                assert_eq!(connector.get_into(&key, &mut memory).await.unwrap(), Some(bytes.len()));
                assert_eq!(&*memory, &bytes[..], "{cache:?}, cold: {cold}");
            }
        }
        assert_eq!(pool.stats().in_use, 0);
    }

    #[tokio::test]
    async fn the_file_systems_longest_name_limits_the_keys() {
        let pool = PoolAllocator::new(1 << 20);
        let dir = tempfile::tempdir().unwrap();
        let mut connector = on(dir.path(), Cache::Never, &pool);
        // eCryptfs.
        let files = Files { name_max: 143, ..files(dir.path()) };
        connector.files = Arc::new(files);
        assert_eq!(connector.capabilities().max_key_bytes, Some(138));
        let key = |len: usize| -> CacheKey { format!("{}@1@0@1@half", "m".repeat(len - 11)).parse().unwrap() };
        for refused in [
            connector.put(&key(139), MemoryObj::from(vec![1])).await.map(|()| false),
            connector.exists(&key(139)).await,
            connector.remove(&key(139)).await,
        ] {
            let e = refused.unwrap_err();
            assert!(e.to_string().contains("144 bytes") && e.to_string().contains("at most 143"), "{e}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        connector.put(&key(138), MemoryObj::from(vec![1])).await.unwrap();
    }
}
