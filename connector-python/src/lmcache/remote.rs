//! One store, as LMCache's connector class calls it.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use connectors::watch::{self, Moments};
use connectors::{
    CacheKey, Connector, Dtype, LMCacheEngineConfig, LMCacheMetadata, LayerGroup, LocalCpuBackend, MemoryObj, Result,
};
use futures::StreamExt;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::answer::{Answer, Started, ask, start};
use super::pool::{LMCacheAllocator, NoMemory, Pool};
use super::{memory, moment};
use crate::errors::{OrRaise, to_py};
use crate::logging;
use crate::open::Opened;
use crate::runtime::{Process, SIGNALS_EVERY, check_signals};

/// A store that LMCache opened. Chunks come and go as LMCache's memory objects, keys as the text of theirs.
///
/// The methods that take a loop, which runs on this thread, return a future of it and what cancels the call; or, if the answer is
/// known already, the answer and None.
#[pyclass(frozen, module = "kvconn._kvconn")]
pub(super) struct LMCacheRemote {
    store: Opened,
    memory: LocalCpuBackend,
    pool: Option<Arc<Pool>>,
    /// Of the questions that a thread waits for.
    moments: Mutex<Moments>,
}

/// The model's name, workers, which of them, tokens of a chunk, and (kv size, layers, hidden, dtype) of each group.
type Metadata = (String, u32, u32, usize, Vec<(usize, usize, usize, String)>);

#[pymethods]
impl LMCacheRemote {
    /// Opens `url`. `config` is LMCache's configuration, each value as JSON; `backend` its CPU backend, if there is one.
    #[new]
    #[pyo3(signature = (url, backend, config, metadata, plugin_name))]
    fn new(
        py: Python<'_>,
        url: &str,
        backend: Option<&Bound<'_, PyAny>>,
        config: Vec<(String, String)>,
        metadata: Option<Metadata>,
        plugin_name: Option<String>,
    ) -> PyResult<Self> {
        logging::start(py)?;
        let process = Process::current();
        let handle = process.handle().or_raise(py)?;
        let config = config_of(py, config)?;
        let patience = Duration::from_secs(config.blocking_timeout_secs);
        let pool = backend.map(|backend| Pool::of(backend, patience, process)).transpose()?;
        let memory = match &pool {
            Some(pool) => LocalCpuBackend::with_allocator(LMCacheAllocator(pool.clone())),
            None => LocalCpuBackend::with_allocator(NoMemory),
        };
        let mut builder =
            connectors::builder(url).handle(handle.clone()).config(config).local_cpu_backend(memory.clone());
        if let Some(metadata) = metadata {
            builder = builder.metadata(metadata_of(metadata).or_raise(py)?);
        }
        if let Some(name) = plugin_name {
            builder = builder.plugin_name(name);
        }
        let connector = py.detach(|| handle.block_on(builder.open())).or_raise(py)?;
        Ok(Self { store: Opened::new(connector), memory, pool, moments: Mutex::default() })
    }

    /// `module/Name`.
    #[getter]
    fn name(&self) -> &str {
        self.store.name()
    }

    /// Whether `ping` works.
    #[getter]
    fn can_ping(&self) -> bool {
        self.store.connector().is_ok_and(|connector| connector.capabilities().ping)
    }

    fn exists<'py>(&self, key: &str, event_loop: &Bound<'py, PyAny>) -> PyResult<Started<'py>> {
        let (connector, key) = (self.connector(event_loop.py())?.clone(), key_of(event_loop.py(), key)?);
        ask(self.store.process(), event_loop, async move { connector.exists(&key).await.map(Answer::Flag) })
    }

    fn exists_sync(&self, py: Python<'_>, key: &str) -> PyResult<bool> {
        let key = key_of(py, key)?;
        self.wait(py, self.connector(py)?.exists(&key))
    }

    fn contains<'py>(&self, keys: Vec<String>, event_loop: &Bound<'py, PyAny>) -> PyResult<Started<'py>> {
        let (connector, keys) = (self.connector(event_loop.py())?.clone(), keys_of(event_loop.py(), &keys)?);
        ask(self.store.process(), event_loop, async move { connector.batched_contains(&keys).await.map(Answer::Count) })
    }

    fn contains_sync(&self, py: Python<'_>, keys: Vec<String>) -> PyResult<usize> {
        let keys = keys_of(py, &keys)?;
        self.wait(py, self.connector(py)?.batched_contains(&keys))
    }

    fn get<'py>(&self, key: &str, event_loop: &Bound<'py, PyAny>) -> PyResult<Started<'py>> {
        let (connector, memory, key) =
            (self.connector(event_loop.py())?.clone(), self.memory.clone(), key_of(event_loop.py(), key)?);
        start(self.store.process(), event_loop, async move {
            let chunk = match connector.get(&key).await? {
                Some(chunk) => Some(in_lmcache(&memory, chunk).await?),
                None => None,
            };
            Ok(Answer::Chunk(chunk))
        })
    }

    /// A list with a chunk, None or an exception for each key.
    fn batched_get<'py>(&self, keys: Vec<String>, event_loop: &Bound<'py, PyAny>) -> PyResult<Started<'py>> {
        let (connector, memory, keys) =
            (self.connector(event_loop.py())?.clone(), self.memory.clone(), keys_of(event_loop.py(), &keys)?);
        start(self.store.process(), event_loop, async move {
            let chunks = all_in_lmcache(&memory, connector.batched_get(&keys).await).await;
            Ok(Answer::Chunks(chunks))
        })
    }

    fn put<'py>(&self, key: &str, object: &Bound<'_, PyAny>, event_loop: &Bound<'py, PyAny>) -> PyResult<Started<'py>> {
        let (connector, key) = (self.connector(event_loop.py())?.clone(), key_of(event_loop.py(), key)?);
        let chunk = memory::to_put(object, self.pool.as_ref(), self.store.process())?;
        start(self.store.process(), event_loop, async move { connector.put(&key, chunk).await.map(|()| Answer::Done) })
    }

    /// A list with None or an exception for each key.
    fn batched_put<'py>(
        &self,
        keys: Vec<String>,
        objects: Vec<Bound<'_, PyAny>>,
        event_loop: &Bound<'py, PyAny>,
    ) -> PyResult<Started<'py>> {
        if keys.len() != objects.len() {
            return Err(PyValueError::new_err(format!("{} keys and {} chunks", keys.len(), objects.len())));
        }
        let (connector, keys) = (self.connector(event_loop.py())?.clone(), keys_of(event_loop.py(), &keys)?);
        let chunks = objects.iter().map(|object| memory::to_put(object, self.pool.as_ref(), self.store.process()));
        let items: Vec<(CacheKey, MemoryObj)> = keys.into_iter().zip(chunks.collect::<PyResult<Vec<_>>>()?).collect();
        start(self.store.process(), event_loop, async move { Ok(Answer::Puts(connector.batched_put(&items).await)) })
    }

    fn remove_sync(&self, py: Python<'_>, key: &str) -> PyResult<bool> {
        let key = key_of(py, key)?;
        self.wait(py, self.connector(py)?.remove(&key))
    }

    fn list<'py>(&self, event_loop: &Bound<'py, PyAny>) -> PyResult<Started<'py>> {
        let connector = self.connector(event_loop.py())?.clone();
        start(self.store.process(), event_loop, async move {
            let (mut keys, mut listing) = (Vec::new(), connector.list(""));
            while let Some(key) = listing.next().await {
                keys.push(key?.as_str().to_owned());
            }
            Ok(Answer::Keys(keys))
        })
    }

    fn ping<'py>(&self, event_loop: &Bound<'py, PyAny>) -> PyResult<Started<'py>> {
        let connector = self.connector(event_loop.py())?.clone();
        ask(self.store.process(), event_loop, async move { connector.ping().await.map(|()| Answer::Done) })
    }

    fn close<'py>(&self, event_loop: &Bound<'py, PyAny>) -> PyResult<Started<'py>> {
        let connector = self.connector(event_loop.py())?.clone();
        start(self.store.process(), event_loop, async move { connector.close().await.map(|()| Answer::Done) })
    }
}

impl LMCacheRemote {
    fn connector(&self, py: Python<'_>) -> PyResult<&Connector> {
        self.store.connector().or_raise(py)
    }

    fn wait<T: Send>(&self, py: Python<'_>, work: impl Future<Output = Result<T>> + Send) -> PyResult<T> {
        let handle = self.store.process().handle().or_raise(py)?;
        let moments = &self.moments;
        let answer = py.detach(|| {
            let _inside = handle.enter();
            // Here, so that what is left of it is dropped within the runtime, and without Python's lock.
            let mut work = pin!(work);
            // Alone or not: a thread that waits keeps nobody else waiting.
            match moment::poll(moments, work.as_mut()) {
                Poll::Ready(answer) => Ok(answer),
                // Ctrl-C ends the wait, and the question.
                Poll::Pending => watch::try_block_on(work, SIGNALS_EVERY, check_signals),
            }
        });
        answer?.or_raise(py)
    }
}

/// The chunk in memory of LMCache's: as it is, or, if the store has it in memory of its own or calls it something else
/// than it was allocated for, a copy.
async fn in_lmcache(memory: &LocalCpuBackend, chunk: MemoryObj) -> Result<MemoryObj> {
    if memory::is_lent(&chunk) {
        return Ok(chunk);
    }
    let mut copy = memory.allocate(chunk.layout()).await?;
    copy.copy_from_slice(&chunk);
    Ok(copy.freeze())
}

/// The same for a batch. Memory for all copies is asked for at once: two batches that each wait for the rest of what they
/// need, with a part in hand, would wait for each other.
async fn all_in_lmcache(
    memory: &LocalCpuBackend,
    mut chunks: Vec<Result<Option<MemoryObj>>>,
) -> Vec<Result<Option<MemoryObj>>> {
    let mut to_copy: Vec<&mut Result<Option<MemoryObj>>> =
        chunks.iter_mut().filter(|chunk| matches!(chunk, Ok(Some(chunk)) if !memory::is_lent(chunk))).collect();
    if to_copy.is_empty() {
        return chunks;
    }
    let layouts: Vec<_> = to_copy.iter().filter_map(|c| Some(c.as_ref().ok()?.as_ref()?.layout().clone())).collect();
    match memory.allocate_many(&layouts).await {
        Ok(copies) => {
            for (chunk, mut copy) in to_copy.into_iter().zip(copies) {
                if let Ok(Some(read)) = chunk {
                    copy.copy_from_slice(read);
                }
                *chunk = Ok(Some(copy.freeze()));
            }
        }
        Err(e) => to_copy.iter_mut().for_each(|chunk| **chunk = Err(e.clone())),
    }
    chunks
}

fn key_of(py: Python<'_>, text: &str) -> PyResult<CacheKey> {
    CacheKey::parse(text).or_raise(py)
}

fn keys_of(py: Python<'_>, texts: &[String]) -> PyResult<Vec<CacheKey>> {
    texts.iter().map(|text| key_of(py, text)).collect()
}

fn config_of(py: Python<'_>, values: Vec<(String, String)>) -> PyResult<LMCacheEngineConfig> {
    let mut config = LMCacheEngineConfig::new();
    for (key, json) in values {
        let value = serde_json::from_str(&json)
            .map_err(|e| PyValueError::new_err(format!("LMCache's configuration key `{key}` cannot be read: {e}")))?;
        config.set(&key, value).map_err(|e| to_py(py, &e))?;
    }
    Ok(config)
}

fn metadata_of((model, workers, worker, chunk_size, groups): Metadata) -> Result<LMCacheMetadata> {
    let group = |(kv_size, num_layers, hidden_dim, dtype): (usize, usize, usize, String)| {
        dtype.parse::<Dtype>().map(|dtype| LayerGroup { kv_size, num_layers, hidden_dim, dtype })
    };
    let groups = groups.into_iter().map(group).collect::<Result<Vec<_>>>()?;
    LMCacheMetadata::new(model, workers, worker, chunk_size, &groups)
}
