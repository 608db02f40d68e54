//! One store, as LMCache's connector class calls it.

use std::sync::Arc;
use std::time::Duration;

use connectors::{
    CacheKey, Connector, Dtype, KeyKind, LMCacheEngineConfig, LMCacheMetadata, LayerGroup, LocalCpuBackend, MemoryObj,
    Result, runtime,
};
use futures::StreamExt;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::memory::{self, to_object};
use super::pool::{LMCacheAllocator, NoMemory, Pool};
use crate::blocking::block_on;
use crate::buffer::Views;
use crate::errors::{OrRaise, to_py};
use crate::open::OpenStore;
use crate::{asyncio, logging, to_python};

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
        url: &str,
        backend: Option<&Bound<'_, PyAny>>,
        config: Vec<(String, String)>,
        metadata: Option<Metadata>,
        plugin_name: Option<String>,
    ) -> PyResult<Self> {
        logging::start(py)?;
        let config = config_of(py, config)?;
        let timeout = Duration::from_secs(config.blocking_timeout_secs);
        let pool = backend.map(|backend| Pool::of(backend, timeout)).transpose()?;
        let memory = match &pool {
            Some(pool) => LocalCpuBackend::with_allocator(LMCacheAllocator(pool.clone())),
            None => LocalCpuBackend::with_allocator(NoMemory),
        };
        let runtime = runtime::handle().or_raise(py)?.clone();
        let mut builder = connectors::builder(url).handle(runtime).config(config).local_cpu_backend(memory.clone());
        if let Some(metadata) = metadata {
            builder = builder.metadata(metadata_of(metadata).or_raise(py)?);
        }
        if let Some(name) = plugin_name {
            builder = builder.plugin_name(name);
        }
        let connector = block_on(py, builder.open())?.or_raise(py)?;
        Ok(Self { store: OpenStore::new(connector), memory, pool })
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

    fn exists<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Bound<'py, PyAny>> {
        let (connector, key) = (self.connector(py)?, key_of(py, key)?);
        start(py, async move { connector.exists(&key).await }, to_python::value)
    }

    fn exists_sync(&self, py: Python<'_>, key: &str) -> PyResult<bool> {
        let (connector, key) = (self.connector(py)?, key_of(py, key)?);
        block_on(py, async move { connector.exists(&key).await })?.or_raise(py)
    }

    fn contains<'py>(&self, py: Python<'py>, keys: Vec<String>) -> PyResult<Bound<'py, PyAny>> {
        let (connector, keys) = (self.connector(py)?, keys_of(py, &keys)?);
        start(py, async move { connector.batched_contains(&keys).await }, to_python::value)
    }

    fn contains_sync(&self, py: Python<'_>, keys: Vec<String>) -> PyResult<usize> {
        let (connector, keys) = (self.connector(py)?, keys_of(py, &keys)?);
        block_on(py, async move { connector.batched_contains(&keys).await })?.or_raise(py)
    }

    fn get<'py>(&self, py: Python<'py>, key: &str) -> PyResult<Bound<'py, PyAny>> {
        let (connector, memory, key) = (self.connector(py)?, self.memory.clone(), key_of(py, key)?);
        let get = async move {
            let answer = connector.get(&key).await;
            in_lmcache(&memory, vec![answer]).await.pop().unwrap_or(Ok(None))
        };
        start(py, get, to_object)
    }

    /// A list with a chunk, None or an exception for each key.
    fn batched_get<'py>(&self, py: Python<'py>, keys: Vec<String>) -> PyResult<Bound<'py, PyAny>> {
        let (connector, memory, keys) = (self.connector(py)?, self.memory.clone(), keys_of(py, &keys)?);
        let get = async move { Ok(in_lmcache(&memory, connector.batched_get(&keys).await).await) };
        start(py, get, to_python::list(true, to_object))
    }

    fn put<'py>(&self, py: Python<'py>, key: &str, object: &Bound<'_, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (connector, key) = (self.connector(py)?, key_of(py, key)?);
        let chunk = memory::to_put(object, self.pool.as_ref())?;
        start(py, async move { connector.put(&key, chunk).await }, to_python::none)
    }

    /// A list with None or an exception for each key.
    fn batched_put<'py>(
        &self,
        py: Python<'py>,
        keys: Vec<String>,
        objects: Vec<Bound<'_, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if keys.len() != objects.len() {
            return Err(PyValueError::new_err(format!("{} keys and {} chunks", keys.len(), objects.len())));
        }
        let (connector, keys) = (self.connector(py)?, keys_of(py, &keys)?);
        let chunks = objects.iter().map(|object| memory::to_put(object, self.pool.as_ref()));
        let items: Vec<(CacheKey, MemoryObj)> = keys.into_iter().zip(chunks.collect::<PyResult<Vec<_>>>()?).collect();
        let put = async move { Ok(connector.batched_put(&items).await) };
        start(py, put, to_python::list(true, to_python::none))
    }

    fn remove_sync(&self, py: Python<'_>, key: &str) -> PyResult<bool> {
        let (connector, key) = (self.connector(py)?, key_of(py, key)?);
        block_on(py, async move { connector.remove(&key).await })?.or_raise(py)
    }

    fn list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let connector = self.connector(py)?;
        let list = async move {
            let (mut keys, mut listing) = (Vec::new(), connector.list(""));
            while let Some(key) = listing.next().await {
                keys.push(key?.as_str().to_owned());
            }
            Ok(keys)
        };
        start(py, list, to_python::value)
    }

    fn ping<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let connector = self.connector(py)?;
        start(py, async move { connector.ping().await }, to_python::none)
    }

    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let connector = self.connector(py)?;
        start(py, async move { connector.close().await }, to_python::none)
    }
}

impl LMCacheRemote {
    fn connector(&self, py: Python<'_>) -> PyResult<Connector> {
        self.store.connector().or_raise(py).cloned()
    }
}

fn start<T: Send + 'static>(
    py: Python<'_>,
    work: impl Future<Output = Result<T>> + Send + 'static,
    to_python: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Bound<'_, PyAny>> {
    asyncio::start(py, Views::none(), |_| work, to_python)
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

fn key_of(py: Python<'_>, text: &str) -> PyResult<CacheKey> {
    CacheKey::parse(text, KeyKind::Engine).or_raise(py)
}

fn keys_of(py: Python<'_>, texts: &[String]) -> PyResult<Vec<CacheKey>> {
    texts.iter().map(|text| key_of(py, text)).collect()
}

fn config_of(py: Python<'_>, values: Vec<(String, String)>) -> PyResult<LMCacheEngineConfig> {
    let mut config = LMCacheEngineConfig::default();
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
