use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use connector_core::connector::Gate;
use connector_core::{
    BoxStream, CacheKey, Capabilities, ChunkHeader, ConnectorContext, Error, ErrorKind, FromContext, LocalCpuBackend,
    MemoryObj, MemoryObjMut, RemoteConnector, Result, external_connector,
};
use futures::stream::StreamExt;
use tokio::runtime::Handle;
use tokio::task::JoinError;

use super::cancel::{Work, cancellable};
use super::files::Files;
use super::read::{Cache, ChunkFile, Lookup, Purpose, Wait};
use super::{FsOptions, layout, listing};

/// One file a chunk, byte for byte as LMCache writes it.
///
/// A file is written under a temporary name and renamed when it is complete. Several base paths share the chunks by hash.
/// Reads go straight into pool memory, or into the caller's.
#[external_connector(module = "kvconn.fs", name = "FSConnector", scheme = "fs", options = FsOptions)]
pub struct FSConnector {
    pub(super) files: Arc<Files>,
    pub(super) backend: LocalCpuBackend,
    handle: Handle,
    /// Work on blocking threads outlives the futures that started it.
    pub(super) gate: Gate,
}

impl FromContext for FSConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let files = Files::of(&ctx)?;
        let files = ctx.handle().spawn_blocking(|| files.prepare()).await.map_err(lost)??;
        let (backend, handle) = (ctx.local_cpu_backend().clone(), ctx.handle().clone());
        Ok(Self { files: Arc::new(files), backend, handle, gate: Gate::default() })
    }
}

impl FSConnector {
    /// Runs `job` on a blocking thread. `job` owns its data, and `close` waits for it even if this future is dropped.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Files, &Work) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let pass = self.gate.enter()?;
        let (_cancel, work) = cancellable();
        let files = self.files.clone();
        let running = self.handle.spawn_blocking(move || {
            let answer = job(&files, &work);
            drop(pass);
            answer
        });
        running.await.unwrap_or_else(|e| Err(lost(e)))
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
        } else if let Ok(pass) = self.gate.enter() {
            // This call does not wait for the disk.
            self.handle.spawn_blocking(move || {
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
pub(super) enum Read {
    Miss,
    Done(MemoryObj),
    NeedsMemory(ChunkFile),
}

impl Read {
    pub(super) fn try_now(files: &Files, backend: &LocalCpuBackend, key: &CacheKey, work: &Work) -> Result<Self> {
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

/// The answer of the work, or an error if it panics.
pub(super) fn caught<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(panicked()))
}

fn panicked() -> Error {
    Error::new(ErrorKind::Other, "the work on a blocking thread panicked")
}

/// The error of a job that panicked or was cut off.
pub(super) fn lost(e: JoinError) -> Error {
    if e.is_panic() {
        panicked()
    } else {
        Error::new(ErrorKind::Closed, "the tokio runtime is shutting down")
    }
}

impl RemoteConnector for FSConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        if let Some(exists) = self.files.exists(key, Wait::No)? {
            return Ok(exists);
        }
        let key = key.clone();
        self.blocking(move |files, _| exists(files, &key)).await
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
        let key = key.clone();
        self.blocking(move |files, work| files.put(&key, header.as_ref(), &chunk, work)).await
    }

    fn capabilities(&self) -> Capabilities {
        let all = Capabilities::new()
            .with_remove()
            .with_list()
            .with_ping()
            .with_raw_object_keys()
            .with_max_key_bytes(self.files.name_max - layout::EXTENSION.len());
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
        let key = key.clone();
        self.blocking(move |files, work| files.remove(&key, work)).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        listing::keys(self.files.clone(), self.handle.clone(), prefix).boxed()
    }

    async fn ping(&self) -> Result<()> {
        self.blocking(|files, _| files.ping()).await
    }

    async fn close(&self) -> Result<()> {
        self.gate.close().await;
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
        self.blocking(move |files, work| {
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

    use super::*;

    fn files(dir: &std::path::Path) -> Files {
        let store = connector_core::builder(&format!("fs://{}", dir.display()));
        Files::of(&store.build().unwrap()).unwrap()
    }

    fn on(dir: &std::path::Path, cache: Cache, pool: &PoolAllocator) -> FSConnector {
        let files = Files { cache, read_ahead_size: Some(1 << 20), ..files(dir) };
        let backend = LocalCpuBackend::with_allocator(pool.clone());
        FSConnector { files: Arc::new(files), backend, handle: Handle::current(), gate: Gate::default() }
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
