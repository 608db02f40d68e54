//! One store, as LMCache's connector class calls it.

use std::sync::Arc;
use std::time::Duration;

use connectors::{
    CacheKey, Connector, Dtype, KeyKind, LMCacheEngineConfig, LMCacheMetadata, LayerGroup, LocalCpuBackend, MemoryObj,
    Result, runtime,
};
use futures::StreamExt;
use pyo3::prelude::*;

use super::memory::{self, to_object};
use super::pool::{LMCacheAllocator, NoMemory, Pool};
use crate::batch::{Objects, same_length};
use crate::blocking::block_on;
use crate::buffer::Views;
use crate::errors::{Arg, OrRaise, invalid, to_py};
use crate::open::{ENGINE_BATCH_TIMEOUT, OpenStore, for_engine, opened};
use crate::to_python::{self, sorted};
use crate::{asyncio, logging};

/// A store that LMCache opened. Chunks are LMCache's memory objects, keys are the text of LMCache's keys.
///
/// A method whose name ends in `_sync` waits for its answer. The others give a future of the running event loop.
#[pyclass(frozen, module = "kvconn._kvconn")]
pub(super) struct LMCacheRemote {
    store: OpenStore,
    memory: LocalCpuBackend,
    pool: Option<Arc<Pool>>,
}

/// The model's name, workers, which of them, tokens of a chunk, and (kv size, layers, hidden, dtype) of each group.
type Metadata = (String, u32, u32, usize, Vec<(usize, usize, usize, String)>);

#[pymethods]
impl LMCacheRemote {
    /// Opens `url`. `config` is LMCache's configuration, each value as JSON; `backend` its CPU backend, if it has one.
    #[new]
    #[pyo3(signature = (url, backend, config, metadata, plugin_name))]
    fn new(
        py: Python<'_>,
        url: Arg<String>,
        backend: Option<&Bound<'_, PyAny>>,
        config: Arg<Vec<(String, String)>>,
        metadata: Arg<Option<Metadata>>,
        plugin_name: Arg<Option<String>>,
    ) -> PyResult<Self> {
        logging::start(py)?;
        let config = config_of(py, config.0)?;
        let timeout = Duration::from_secs(config.blocking_timeout_secs);
        let pool = backend.map(|backend| Pool::of(backend, timeout)).transpose()?;
        let memory = match &pool {
            Some(pool) => LocalCpuBackend::with_allocator(LMCacheAllocator(pool.clone())),
            None => LocalCpuBackend::with_allocator(NoMemory),
        };
        let runtime = runtime::handle().or_raise(py)?.clone();
        let mut builder = connectors::builder(&url.0).handle(runtime).config(config).local_cpu_backend(memory.clone());
        if let Some(metadata) = metadata.0 {
            builder = builder.metadata(metadata_of(metadata).or_raise(py)?);
        }
        if let Some(name) = plugin_name.0 {
            builder = builder.plugin_name(name);
        }
        let connector =
            block_on(py, opened(for_engine(builder, timeout, ENGINE_BATCH_TIMEOUT, Duration::ZERO)))?.or_raise(py)?;
        Ok(Self { store: OpenStore::new(py, connector)?, memory, pool })
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

    fn exists<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (py, key) = (key.py(), key_of(key)?);
        self.start(py, |connector| async move { connector.exists(&key).await }, to_python::value)
    }

    fn exists_sync(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (py, key) = (key.py(), key_of(key)?);
        self.wait(py, |connector| async move { connector.exists(&key).await })
    }

    fn contains<'py>(&self, py: Python<'py>, keys: Objects<'py>) -> PyResult<Bound<'py, PyAny>> {
        let keys = leading_keys(&keys)?;
        let work = |connector: Connector| async move { connector.batched_contains(&keys).await };
        self.start(py, work, to_python::value)
    }

    fn contains_sync(&self, py: Python<'_>, keys: Objects<'_>) -> PyResult<usize> {
        let keys = leading_keys(&keys)?;
        self.wait(py, |connector| async move { connector.batched_contains(&keys).await })
    }

    fn get<'py>(&self, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (py, key, memory) = (key.py(), key_of(key)?, self.memory.clone());
        let get = |connector: Connector| async move {
            let answer = connector.get(&key).await;
            in_lmcache(&memory, vec![answer]).await.pop().unwrap_or(Ok(None))
        };
        self.start(py, get, to_object)
    }

    /// A list with a chunk, None or an exception for each key.
    fn batched_get<'py>(&self, py: Python<'py>, keys: Objects<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (keys, refusals) = sorted(py, true, keys.0.iter().map(key_of))?;
        let memory = self.memory.clone();
        let get =
            |connector: Connector| async move { Ok(in_lmcache(&memory, connector.batched_get(&keys).await).await) };
        self.start(py, get, to_python::list(true, refusals, to_object))
    }

    fn put<'py>(&self, key: &Bound<'py, PyAny>, object: &Bound<'_, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (py, key) = (key.py(), key_of(key)?);
        let chunk = memory::to_put(object, self.pool.as_ref())?;
        self.start(py, |connector| async move { connector.put(&key, chunk).await }, to_python::none)
    }

    /// A list with None or an exception for each key.
    fn batched_put<'py>(
        &self,
        py: Python<'py>,
        keys: Objects<'py>,
        objects: Objects<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        same_length(py, keys.0.len(), objects.0.len())?;
        let items = keys.0.iter().zip(&objects.0);
        let items = items.map(|(key, object)| Ok((key_of(key)?, memory::to_put(object, self.pool.as_ref())?)));
        let (items, refusals) = sorted(py, true, items)?;
        let put = |connector: Connector| async move { Ok(connector.batched_put(&items).await) };
        self.start(py, put, to_python::list(true, refusals, to_python::none))
    }

    fn remove_sync(&self, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (py, key) = (key.py(), key_of(key)?);
        self.wait(py, |connector| async move { connector.remove(&key).await })
    }

    fn list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let list = |connector: Connector| async move {
            let (mut keys, mut listing) = (Vec::new(), connector.list(""));
            while let Some(key) = listing.next().await {
                keys.push(key?.as_str().to_owned());
            }
            Ok(keys)
        };
        self.start(py, list, to_python::value)
    }

    fn ping<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.start(py, |connector| async move { connector.ping().await }, to_python::none)
    }

    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let connector = self.store.to_close().or_raise(py)?.clone();
        asyncio::start(py, Views::none(), |_| async move { connector.close().await }, to_python::none)
    }
}

impl LMCacheRemote {
    fn start<'py, T: Send + 'static, F>(
        &self,
        py: Python<'py>,
        work: impl FnOnce(Connector) -> F,
        to_python: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let connector = self.store.connector().or_raise(py)?.clone();
        asyncio::start(py, Views::none(), |_| work(connector), to_python)
    }

    fn wait<T: Send + 'static, F>(&self, py: Python<'_>, work: impl FnOnce(Connector) -> F) -> PyResult<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let connector = self.store.connector().or_raise(py)?.clone();
        block_on(py, work(connector))?.or_raise(py)
    }
}

/// The chunks in LMCache's memory. Copies a chunk if the store has it in its own memory or changed the layout. Allocates all
/// copies at once: two batches that each hold a part of the memory they need would wait for each other.
async fn in_lmcache(
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

fn key_of(text: &Bound<'_, PyAny>) -> PyResult<CacheKey> {
    crate::key::key_of(text, Some(KeyKind::Engine))
}

/// The keys before the first that cannot be one. The leading run of stored keys cannot go on after it.
///
/// # Errors
/// `InvalidError` if it is the first of all.
fn leading_keys(keys: &Objects<'_>) -> PyResult<Vec<CacheKey>> {
    let mut leading = Vec::with_capacity(keys.0.len());
    for key in &keys.0 {
        match key_of(key) {
            Ok(key) => leading.push(key),
            Err(e) if leading.is_empty() => return Err(e),
            Err(_) => break,
        }
    }
    Ok(leading)
}

fn config_of(py: Python<'_>, values: Vec<(String, String)>) -> PyResult<LMCacheEngineConfig> {
    let mut config = LMCacheEngineConfig::default();
    for (key, json) in values {
        let value = serde_json::from_str(&json)
            .map_err(|e| invalid(py, format!("LMCache's configuration key `{key}` cannot be read: {e}")))?;
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
