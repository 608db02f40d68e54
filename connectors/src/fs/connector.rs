use std::sync::Arc;

use connector_core::connector::{Gate, Pass};
use connector_core::{
    BoxStream, CacheKey, Capabilities, ConnectorContext, Dtype, Error, ErrorKind, FromContext, LocalCpuBackend,
    MemoryObj, MemoryObjMut, RemoteConnector, Result, external_connector,
};
use futures::stream::{self, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::commit::{Work, cancellable};
use super::file::{Files, Found};
use super::{FsOptions, layout};

/// One file a chunk, byte for byte as LMCache writes it.
///
/// A file is written under a name of its own and renamed when it is whole. Several base paths share the chunks by hash.
/// Reads go straight into pool memory, or into the caller's.
#[external_connector(module = "kvconn.fs", name = "FSConnector", scheme = "fs", options = FsOptions)]
pub struct FSConnector {
    files: Arc<Files>,
    backend: LocalCpuBackend,
    handle: Handle,
    /// Blocking work outlives the futures that started it.
    gate: Gate,
}

/// The dtypes that a header can name.
const HEADER_DTYPES: &[Dtype] = &[
    Dtype::Float16,
    Dtype::Bfloat16,
    Dtype::Float32,
    Dtype::Float64,
    Dtype::Uint8,
    Dtype::Float8E4m3fn,
    Dtype::Float8E5m2,
];

/// How many keys `list` reads ahead of its caller.
const LIST_AHEAD: usize = 256;

impl FromContext for FSConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: FsOptions = ctx.options()?;
        let files = Arc::new(Files {
            base_paths: options.base_paths(&ctx)?,
            tmp_dir: options.tmp_dir()?,
            with_header: ctx.config().use_layerwise || options.save_chunk_meta.unwrap_or(true),
            metadata: ctx.metadata().cloned(),
        });
        let this =
            Self { files, backend: ctx.local_cpu_backend().clone(), handle: ctx.handle().clone(), gate: Gate::new() };
        this.blocking(|files, _| files.prepare()).await?;
        Ok(this)
    }
}

impl FSConnector {
    /// Runs `job` on a blocking thread. If this future is dropped, `job` sees it and need not begin; if it began, it owns
    /// what it works on, and `close` waits for it.
    async fn blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Files, &Work) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let pass: Pass = self.gate.enter()?;
        let (cancel, work) = cancellable();
        let files = self.files.clone();
        let running = self.handle.spawn_blocking(move || {
            let answer = job(&files, &work);
            drop(pass);
            answer
        });
        let answer = running.await;
        drop(cancel);
        answer.unwrap_or_else(|e| {
            Err(if e.is_panic() {
                Error::new(ErrorKind::Other, "the work on a blocking thread panicked")
            } else {
                Error::new(ErrorKind::Closed, "the tokio runtime is shutting down")
            })
        })
    }

    /// Finds the chunk and reads it, in one visit to a blocking thread if the pool gives memory at once.
    async fn read(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        enum Step {
            Miss,
            Done(MemoryObj),
            NeedsMemory(Found),
        }
        let (wanted, backend) = (key.clone(), self.backend.clone());
        let step = self.blocking(move |files, work| {
            if work.is_cancelled() {
                return Ok(Step::Miss);
            }
            let Some(found) = files.find(&wanted)? else { return Ok(Step::Miss) };
            match backend.try_allocate(&found.layout) {
                Some(memory) => {
                    let mut memory = memory?;
                    found.read(&mut memory)?;
                    Ok(Step::Done(memory.freeze()))
                }
                None => Ok(Step::NeedsMemory(found)),
            }
        });
        match step.await? {
            Step::Miss => Ok(None),
            Step::Done(chunk) => Ok(Some(chunk)),
            Step::NeedsMemory(found) => {
                let mut memory = self.backend.allocate(&found.layout).await?;
                let chunk = self.blocking(move |_, _| found.read(&mut memory).map(|()| memory.freeze()));
                chunk.await.map(Some)
            }
        }
    }
}

impl RemoteConnector for FSConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        let key = key.clone();
        self.blocking(move |files, _| files.exists(&key)).await
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        self.read(key).await
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let header = self.files.check(key, chunk.layout())?;
        let key = key.clone();
        self.blocking(move |files, work| files.write(&key, header.as_ref(), &chunk, work)).await
    }

    fn capabilities(&self) -> Capabilities {
        let all = Capabilities::new()
            .with_remove()
            .with_list()
            .with_ping()
            .with_raw_object_keys()
            .with_max_key_bytes(layout::NAME_MAX - layout::EXTENSION.len());
        if self.files.with_header {
            all.with_layout_kept().with_dtypes(HEADER_DTYPES).with_max_chunk_bytes(i32::MAX as u64)
        } else {
            all
        }
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let key = key.clone();
        // The blocking thread owns the memory until the read has ended, also if this future is dropped.
        let mut memory = dst.take();
        let (memory, answer) = self
            .blocking(move |files, work| {
                let answer = if work.is_cancelled() { Ok(None) } else { read_into(files, &key, &mut memory) };
                Ok((memory, answer))
            })
            .await?;
        *dst = memory;
        answer
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        let key = key.clone();
        self.blocking(move |files, work| if work.commit() { files.remove(&key) } else { Ok(false) }).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        let (send, receive) = mpsc::channel(LIST_AHEAD);
        let (files, prefix) = (self.files.clone(), prefix.to_owned());
        // Ends when the caller drops the stream: then nobody receives. No pass of the gate, because a caller may also keep
        // the stream and never poll it again.
        self.handle.spawn_blocking(move || files.list(&prefix, |item| send.blocking_send(item).is_ok()));
        stream::unfold(receive, |mut receive| async { receive.recv().await.map(|item| (item, receive)) }).boxed()
    }

    async fn ping(&self) -> Result<()> {
        self.blocking(|files, _| files.ping()).await
    }

    async fn close(&self) -> Result<()> {
        self.gate.close().await;
        Ok(())
    }

    /// One visit to a blocking thread for all keys.
    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let n = keys.len();
        let keys = keys.to_vec();
        let answers = self.blocking(move |files, work| {
            let answer = |key: &CacheKey| if work.is_cancelled() { Ok(false) } else { files.exists(key) };
            Ok(keys.iter().map(answer).collect::<Vec<_>>())
        });
        answers.await.unwrap_or_else(|e| (0..n).map(|_| Err(Error::new(e.kind(), e.message().to_owned()))).collect())
    }

    /// Stops at the first key that is missing.
    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        let keys = keys.to_vec();
        self.blocking(move |files, work| {
            for (n, key) in keys.iter().enumerate() {
                match files.exists(key) {
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

fn read_into(files: &Files, key: &CacheKey, memory: &mut MemoryObjMut) -> Result<Option<usize>> {
    let Some(found) = files.find(key)? else { return Ok(None) };
    memory.set_layout(found.layout.clone())?;
    found.read(memory)?;
    Ok(Some(memory.len()))
}
