//! `kvconn.connect` and `kvconn.connect_async`: any store, for Python programs.
#![expect(unsafe_code, reason = "lends Python's memory to the store")]

use std::sync::Arc;

use connectors::{CacheKey, ChunkLayout, Connector, MemoryObj, Result};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::buffer::{Span, Views};
use crate::call::{Holder, WaitMode};
use crate::chunk::{Chunk, layout};
use crate::errors::OrRaise;
use crate::listing::Keys;
use crate::open::{OpenStore, open};
use crate::to_python;

/// The base of `Store`, whose methods return answers, and of `AsyncStore`, whose methods return futures.
#[pyclass(module = "kvconn", frozen, subclass)]
pub(crate) struct AnyStore {
    store: Arc<OpenStore>,
    mode: WaitMode,
}

fn connect(
    py: Python<'_>,
    mode: WaitMode,
    url: &str,
    pool_bytes: Option<usize>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Py<PyAny>> {
    let opening = open(py, url, options, pool_bytes)?;
    let to_python = move |py: Python<'_>, connector| AnyStore::make(py, mode, Arc::new(OpenStore::new(connector)));
    mode.run(py, Views::none(), |_| opening, to_python)
}

#[pyfunction(name = "connect")]
#[pyo3(signature = (url, *, pool_bytes=None, **options))]
fn connect_blocking(
    py: Python<'_>,
    url: &str,
    pool_bytes: Option<usize>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Py<PyAny>> {
    connect(py, WaitMode::Blocking, url, pool_bytes, options)
}

#[pyfunction]
#[pyo3(signature = (url, *, pool_bytes=None, **options))]
fn connect_async(
    py: Python<'_>,
    url: &str,
    pool_bytes: Option<usize>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Py<PyAny>> {
    connect(py, WaitMode::Asyncio, url, pool_bytes, options)
}

#[pymethods]
impl AnyStore {
    /// ``module/Name`` of the connector.
    #[getter]
    fn name(&self) -> &str {
        self.store.name()
    }

    /// What the store can do beyond get, put and exists.
    #[getter]
    fn capabilities<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let c = self.store.connector().or_raise(py)?.capabilities();
        let dict = PyDict::new(py);
        dict.set_item("remove", c.remove)?;
        dict.set_item("list", c.list)?;
        dict.set_item("ping", c.ping)?;
        dict.set_item("keeps_layout", c.keeps_layout)?;
        dict.set_item("max_key_bytes", c.max_key_bytes)?;
        dict.set_item("max_chunk_bytes", c.max_chunk_bytes)?;
        Ok(dict)
    }

    /// The same store, for code without an event loop.
    #[getter]
    fn blocking(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Self::make(py, WaitMode::Blocking, self.store.clone())
    }

    /// The same store, for asyncio.
    #[getter]
    fn aio(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Self::make(py, WaitMode::Asyncio, self.store.clone())
    }

    #[pyo3(signature = (key, data, *, shape=None, dtype=None, format=None))]
    fn put(
        &self,
        py: Python<'_>,
        key: &str,
        data: Bound<'_, PyAny>,
        shape: Option<Vec<usize>>,
        dtype: Option<&str>,
        format: Option<&str>,
    ) -> PyResult<Py<PyAny>> {
        let key = parse(py, key)?;
        let (views, spans) = Views::to_read(&[data])?;
        let span = spans[0];
        let layout = layout(py, span.len(), shape, dtype, format)?;
        let work = |connector: Connector, call: Holder<()>| async move {
            let chunk = lend(span, layout, call)?;
            connector.put(&key, chunk).await
        };
        self.run(py, views, work, to_python::none)
    }

    fn get(&self, py: Python<'_>, key: &str) -> PyResult<Py<PyAny>> {
        let key = parse(py, key)?;
        self.run(py, Views::none(), |connector, _| async move { connector.get(&key).await }, chunk_to_python)
    }

    fn get_into(&self, py: Python<'_>, key: &str, buffer: Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let key = parse(py, key)?;
        let (views, spans) = Views::to_write(&[buffer])?;
        let span = spans[0];
        let work = |connector: Connector, call: Holder<Option<usize>>| async move {
            // SAFETY: the buffer stays exported until the last holder of `call` is gone, and only then comes the answer.
            // `get_into` documents that the buffer is the store's until then.
            let mut memory = unsafe { span.lend_to_write(call)? };
            connector.get_into(&key, &mut memory).await
        };
        self.run(py, views, work, to_python::value)
    }

    fn exists(&self, py: Python<'_>, key: &str) -> PyResult<Py<PyAny>> {
        let key = parse(py, key)?;
        self.run(py, Views::none(), |connector, _| async move { connector.exists(&key).await }, to_python::value)
    }

    fn remove(&self, py: Python<'_>, key: &str) -> PyResult<Py<PyAny>> {
        let key = parse(py, key)?;
        self.run(py, Views::none(), |connector, _| async move { connector.remove(&key).await }, to_python::value)
    }

    #[pyo3(signature = (prefix=""))]
    fn list(&self, py: Python<'_>, prefix: &str) -> PyResult<Keys> {
        Keys::start(py, self.mode, self.store.connector().or_raise(py)?, prefix)
    }

    fn ping(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.run(py, Views::none(), |connector, _| async move { connector.ping().await }, to_python::none)
    }

    fn close(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.run(py, Views::none(), |connector, _| async move { connector.close().await }, to_python::none)
    }

    #[pyo3(signature = (items, *, return_exceptions=false))]
    fn batched_put(
        &self,
        py: Python<'_>,
        items: Vec<(String, Bound<'_, PyAny>)>,
        return_exceptions: bool,
    ) -> PyResult<Py<PyAny>> {
        let (keys, buffers): (Vec<_>, Vec<_>) = items.into_iter().unzip();
        let keys = parse_all(py, &keys)?;
        let (views, spans) = Views::to_read(&buffers)?;
        let work = |connector: Connector, call: Holder<_>| async move {
            let lent = spans.into_iter().map(|span| lend(span, ChunkLayout::binary(span.len()), call.clone()));
            let items: Vec<_> = keys.into_iter().zip(lent).map(|(k, c)| c.map(|c| (k, c))).collect::<Result<_>>()?;
            drop(call);
            Ok(connector.batched_put(&items).await)
        };
        self.run(py, views, work, to_python::list(return_exceptions, to_python::none))
    }

    #[pyo3(signature = (keys, *, return_exceptions=false))]
    fn batched_get(&self, py: Python<'_>, keys: Vec<String>, return_exceptions: bool) -> PyResult<Py<PyAny>> {
        let keys = parse_all(py, &keys)?;
        let work = |connector: Connector, _| async move { Ok(connector.batched_get(&keys).await) };
        self.run(py, Views::none(), work, to_python::list(return_exceptions, chunk_to_python))
    }

    #[pyo3(signature = (keys, buffers, *, return_exceptions=false))]
    fn batched_get_into(
        &self,
        py: Python<'_>,
        keys: Vec<String>,
        buffers: Vec<Bound<'_, PyAny>>,
        return_exceptions: bool,
    ) -> PyResult<Py<PyAny>> {
        if keys.len() != buffers.len() {
            return Err(PyValueError::new_err(format!("{} keys, but {} buffers", keys.len(), buffers.len())));
        }
        let keys = parse_all(py, &keys)?;
        let (views, spans) = Views::to_write(&buffers)?;
        let work = |connector: Connector, call: Holder<_>| async move {
            // SAFETY: as in `get_into`.
            let lent = spans.into_iter().map(|span| unsafe { span.lend_to_write(call.clone()) });
            let mut requests: Vec<_> =
                keys.into_iter().zip(lent).map(|(k, m)| m.map(|m| (k, m))).collect::<Result<_>>()?;
            drop(call);
            Ok(connector.batched_get_into(&mut requests).await)
        };
        self.run(py, views, work, to_python::list(return_exceptions, to_python::value))
    }

    #[pyo3(signature = (keys, *, return_exceptions=false))]
    fn batched_exists(&self, py: Python<'_>, keys: Vec<String>, return_exceptions: bool) -> PyResult<Py<PyAny>> {
        let keys = parse_all(py, &keys)?;
        let work = |connector: Connector, _| async move { Ok(connector.batched_exists(&keys).await) };
        self.run(py, Views::none(), work, to_python::list(return_exceptions, to_python::value))
    }

    fn batched_contains(&self, py: Python<'_>, keys: Vec<String>) -> PyResult<Py<PyAny>> {
        let keys = parse_all(py, &keys)?;
        let work = |connector: Connector, _| async move { connector.batched_contains(&keys).await };
        self.run(py, Views::none(), work, to_python::value)
    }

    #[pyo3(signature = (keys, *, return_exceptions=false))]
    fn batched_remove(&self, py: Python<'_>, keys: Vec<String>, return_exceptions: bool) -> PyResult<Py<PyAny>> {
        let keys = parse_all(py, &keys)?;
        let work = |connector: Connector, _| async move { Ok(connector.batched_remove(&keys).await) };
        self.run(py, Views::none(), work, to_python::list(return_exceptions, to_python::value))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Ok(format!("<kvconn.{} of {}>", slf.get_type().name()?, slf.get().store.name()))
    }
}

impl AnyStore {
    fn make(py: Python<'_>, mode: WaitMode, store: Arc<OpenStore>) -> PyResult<Py<PyAny>> {
        let base = PyClassInitializer::from(Self { store, mode });
        Ok(match mode {
            WaitMode::Blocking => Py::new(py, base.add_subclass(Store))?.into_any(),
            WaitMode::Asyncio => Py::new(py, base.add_subclass(AsyncStore))?.into_any(),
        })
    }

    fn run<T: Send + 'static, F>(
        &self,
        py: Python<'_>,
        views: Views,
        work: impl FnOnce(Connector, Holder<T>) -> F,
        to_python: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Py<PyAny>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let connector = self.store.connector().or_raise(py)?.clone();
        self.mode.run(py, views, |call| work(connector, call), to_python)
    }
}

/// A store whose methods return when they are done. Made by ``kvconn.connect``; usable from any thread.
#[pyclass(module = "kvconn", frozen, extends = AnyStore)]
pub(crate) struct Store;

#[pymethods]
impl Store {
    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __exit__(
        slf: &Bound<'_, Self>,
        _class: &Bound<'_, PyAny>,
        _exception: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        slf.as_super().get().close(slf.py()).map(drop)
    }
}

/// A store whose methods are awaited on asyncio. Made by ``kvconn.connect_async``.
#[pyclass(module = "kvconn", frozen, extends = AnyStore)]
pub(crate) struct AsyncStore;

#[pymethods]
impl AsyncStore {
    fn __aenter__(slf: Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        WaitMode::Asyncio.ready(slf.py(), Ok(slf.clone().into_any().unbind()))
    }

    fn __aexit__(
        slf: &Bound<'_, Self>,
        _class: &Bound<'_, PyAny>,
        _exception: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        slf.as_super().get().close(slf.py())
    }
}

fn parse(py: Python<'_>, key: &str) -> PyResult<CacheKey> {
    key.parse().or_raise(py)
}

fn parse_all(py: Python<'_>, keys: &[String]) -> PyResult<Vec<CacheKey>> {
    keys.iter().map(|key| parse(py, key)).collect()
}

fn lend<T: Send + 'static>(span: Span, layout: ChunkLayout, call: Holder<T>) -> Result<MemoryObj> {
    // SAFETY: the buffer stays exported until the last holder of `call` is gone, and only then comes the answer. `put`
    // documents that the buffer must not change until then.
    unsafe { span.lend_to_read(layout, call) }
}

fn chunk_to_python(py: Python<'_>, chunk: Option<MemoryObj>) -> PyResult<Py<PyAny>> {
    to_python::value(py, chunk.map(Chunk::new))
}

pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(connect_blocking, m)?)?;
    m.add_function(wrap_pyfunction!(connect_async, m)?)?;
    m.add_class::<AnyStore>()?;
    m.add_class::<Store>()?;
    m.add_class::<AsyncStore>()
}
