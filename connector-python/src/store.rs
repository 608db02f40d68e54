//! The native object behind `kvconn.Store` and `kvconn.AsyncStore`. `kvconn/_store.py` and `kvconn/_async_store.py` are the
//! classes that Python programs use.
#![expect(unsafe_code, reason = "lends Python's memory to the store")]

use std::sync::Arc;

use connectors::{CacheKey, ChunkLayout, Connector, KeyKind, MemoryObj, MemoryObjMut, Result};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::array::{Elements, Given};
use crate::batch::{Objects, Pairs, same_length};
use crate::buffer::{Memory, Place, Views};
use crate::call::{Holder, Timeout, WaitMode};
use crate::chunk::Chunk;
use crate::errors::{Arg, OrRaise};
use crate::key::{key_of, kind_of};
use crate::listing::{Items, Keys};
use crate::open::{OpenStore, open, shown_url};
use crate::span::Span;
use crate::to_python::{self, sorted};

/// An open store. Its methods return answers if ``connect`` opened it, and futures of the running event loop if
/// ``connect_async`` did.
#[pyclass(module = "kvconn._kvconn", frozen)]
pub(crate) struct AnyStore {
    store: Arc<OpenStore>,
    /// The URL with its options, without secrets.
    url: Arc<str>,
    mode: WaitMode,
    /// The kind of the keys. None if each text decides.
    key_kind: Option<KeyKind>,
}

fn connect(
    py: Python<'_>,
    mode: WaitMode,
    url: &str,
    pool_bytes: Option<usize>,
    key_kind: Option<String>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Py<PyAny>> {
    let key_kind = key_kind.map(|name| kind_of(py, &name)).transpose()?;
    let opening = open(py, url, options, pool_bytes)?;
    let url = shown_url(url, options)?.into();
    let to_python = move |py: Python<'_>, connector| {
        to_python::value(py, AnyStore { store: Arc::new(OpenStore::new(py, connector)?), url, mode, key_kind })
    };
    mode.run(py, Views::none(), |_| opening, to_python)
}

#[pyfunction(name = "connect")]
#[pyo3(signature = (url, *, pool_bytes=Arg(None), key_kind=Arg(None), **options))]
fn connect_blocking(
    py: Python<'_>,
    url: Arg<String>,
    pool_bytes: Arg<Option<usize>>,
    key_kind: Arg<Option<String>>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Py<PyAny>> {
    connect(py, WaitMode::Blocking, &url.0, pool_bytes.0, key_kind.0, options)
}

#[pyfunction]
#[pyo3(signature = (url, *, pool_bytes=Arg(None), key_kind=Arg(None), **options))]
fn connect_async(
    py: Python<'_>,
    url: Arg<String>,
    pool_bytes: Arg<Option<usize>>,
    key_kind: Arg<Option<String>>,
    options: Option<&Bound<'_, PyDict>>,
) -> PyResult<Py<PyAny>> {
    connect(py, WaitMode::Asyncio, &url.0, pool_bytes.0, key_kind.0, options)
}

#[pymethods]
impl AnyStore {
    /// ``module/Name`` of the connector.
    #[getter]
    fn name(&self) -> &str {
        self.store.name()
    }

    /// The URL with its options, without secrets.
    #[getter]
    fn url(&self) -> &str {
        &self.url
    }

    /// Whether calls raise `ClosedError`.
    #[getter]
    fn closed(&self) -> bool {
        self.store.is_closed()
    }

    /// The place that the warning of a store that is not closed names.
    fn _set_place(&self, place: &str) {
        self.store.set_place(place);
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
    fn blocking(&self) -> Self {
        self.of(WaitMode::Blocking)
    }

    /// The same store, for asyncio.
    #[getter]
    fn aio(&self) -> Self {
        self.of(WaitMode::Asyncio)
    }

    #[expect(clippy::too_many_arguments, reason = "each is an argument in Python")]
    #[pyo3(signature = (key, data, *, shape=Arg(None), dtype=None, format=Arg(None), timeout=Timeout::NONE))]
    fn put(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        data: Bound<'_, PyAny>,
        shape: Arg<Option<Vec<usize>>>,
        dtype: Option<Bound<'_, PyAny>>,
        format: Arg<Option<String>>,
        timeout: Timeout,
    ) -> PyResult<Py<PyAny>> {
        let key = key_of(key, self.key_kind)?;
        let given = Given::read(py, shape, dtype.as_ref(), format)?;
        let can = self.store.connector().or_raise(py)?.capabilities();
        let (views, (span, layout)) = Views::with(py, |views| {
            let memory = views.read(Place::Only("data"), &data)?;
            Ok((memory.span, given.layout(memory.span.len(), &memory.elements, &can).or_raise(py)?))
        })?;
        let work = |connector: Connector, call: Holder<()>| async move {
            let chunk = lend(span, layout, call)?;
            connector.put(&key, chunk).await
        };
        self.run(py, timeout, views, work, to_python::none)
    }

    #[pyo3(signature = (key, timeout=Timeout::NONE))]
    fn get(&self, py: Python<'_>, key: &Bound<'_, PyAny>, timeout: Timeout) -> PyResult<Py<PyAny>> {
        let key = key_of(key, self.key_kind)?;
        self.run(py, timeout, Views::none(), |connector, _| async move { connector.get(&key).await }, chunk_to_python)
    }

    #[pyo3(signature = (key, buffer, timeout=Timeout::NONE))]
    fn get_into(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        buffer: Bound<'_, PyAny>,
        timeout: Timeout,
    ) -> PyResult<Py<PyAny>> {
        let key = key_of(key, self.key_kind)?;
        let (views, Memory { span, elements }) = Views::with(py, |views| views.write(Place::Only("buffer"), &buffer))?;
        let work = |connector: Connector, call: Holder<Option<usize>>| async move {
            // SAFETY: the buffer stays exported until the last holder of `call` is gone, and only then comes the answer.
            // `get_into` documents that the buffer is the store's until then.
            let mut memory = unsafe { span.lend_to_write(call)? };
            let read = connector.get_into(&key, &mut memory).await?;
            checked(read, &elements, &key, &memory)
        };
        self.run(py, timeout, views, work, to_python::value)
    }

    #[pyo3(signature = (key, timeout=Timeout::NONE))]
    fn exists(&self, py: Python<'_>, key: &Bound<'_, PyAny>, timeout: Timeout) -> PyResult<Py<PyAny>> {
        let key = key_of(key, self.key_kind)?;
        self.run(
            py,
            timeout,
            Views::none(),
            |connector, _| async move { connector.exists(&key).await },
            to_python::value,
        )
    }

    #[pyo3(signature = (key, timeout=Timeout::NONE))]
    fn remove(&self, py: Python<'_>, key: &Bound<'_, PyAny>, timeout: Timeout) -> PyResult<Py<PyAny>> {
        let key = key_of(key, self.key_kind)?;
        self.run(
            py,
            timeout,
            Views::none(),
            |connector, _| async move { connector.remove(&key).await },
            to_python::value,
        )
    }

    #[pyo3(signature = (prefix=Arg(String::new()), timeout=Timeout::NONE))]
    fn list(&self, py: Python<'_>, prefix: Arg<String>, timeout: Timeout) -> PyResult<Keys> {
        Keys::start(py, timeout.of(self.store.connector().or_raise(py)?), prefix.0, Items::Keys)
    }

    #[pyo3(signature = (prefix=Arg(String::new()), timeout=Timeout::NONE))]
    fn list_entries(&self, py: Python<'_>, prefix: Arg<String>, timeout: Timeout) -> PyResult<Keys> {
        Keys::start(py, timeout.of(self.store.connector().or_raise(py)?), prefix.0, Items::Entries)
    }

    #[pyo3(signature = (timeout=Timeout::NONE))]
    fn ping(&self, py: Python<'_>, timeout: Timeout) -> PyResult<Py<PyAny>> {
        self.run(py, timeout, Views::none(), |connector, _| async move { connector.ping().await }, to_python::none)
    }

    #[pyo3(signature = (timeout=Timeout::NONE))]
    fn servers(&self, py: Python<'_>, timeout: Timeout) -> PyResult<Py<PyAny>> {
        self.run(
            py,
            timeout,
            Views::none(),
            |connector, _| async move { connector.servers().await },
            to_python::servers,
        )
    }

    fn close(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let connector = self.store.to_close().or_raise(py)?.clone();
        self.mode.run(py, Views::none(), |_| async move { connector.close().await }, to_python::none)
    }

    #[expect(clippy::too_many_arguments, reason = "each is an argument in Python")]
    #[pyo3(signature = (items, *, shape=Arg(None), dtype=None, format=Arg(None), return_exceptions=Arg(false), timeout=Timeout::NONE))]
    fn batched_put(
        &self,
        py: Python<'_>,
        items: Pairs<'_>,
        shape: Arg<Option<Vec<usize>>>,
        dtype: Option<Bound<'_, PyAny>>,
        format: Arg<Option<String>>,
        return_exceptions: Arg<bool>,
        timeout: Timeout,
    ) -> PyResult<Py<PyAny>> {
        let given = Given::read(py, shape, dtype.as_ref(), format)?;
        let can = self.store.connector().or_raise(py)?.capabilities();
        let (views, (items, refusals)) = Views::with(py, |views| {
            let items = items.0.iter().enumerate().map(|(i, (key, data))| {
                let (key, memory) = (key_of(key, self.key_kind)?, views.read(Place::Batch(i), data)?);
                let layout = given.layout(memory.span.len(), &memory.elements, &can).or_raise(py)?;
                Ok((key, memory.span, layout))
            });
            sorted(py, return_exceptions.0, items)
        })?;
        let work = |connector: Connector, call: Holder<_>| async move {
            let lent = |(key, span, layout)| Ok((key, lend(span, layout, call.clone())?));
            let items: Vec<_> = items.into_iter().map(lent).collect::<Result<_>>()?;
            drop(call);
            Ok(connector.batched_put(&items).await)
        };
        self.run(py, timeout, views, work, to_python::list(return_exceptions.0, refusals, to_python::none))
    }

    #[pyo3(signature = (keys, *, return_exceptions=Arg(false), timeout=Timeout::NONE))]
    fn batched_get(
        &self,
        py: Python<'_>,
        keys: Objects<'_>,
        return_exceptions: Arg<bool>,
        timeout: Timeout,
    ) -> PyResult<Py<PyAny>> {
        let (keys, refusals) = sorted(py, return_exceptions.0, keys.0.iter().map(|key| key_of(key, self.key_kind)))?;
        let work = |connector: Connector, _| async move { Ok(connector.batched_get(&keys).await) };
        let to_python = to_python::list(return_exceptions.0, refusals, chunk_to_python);
        self.run(py, timeout, Views::none(), work, to_python)
    }

    #[pyo3(signature = (keys, buffers, *, return_exceptions=Arg(false), timeout=Timeout::NONE))]
    fn batched_get_into(
        &self,
        py: Python<'_>,
        keys: Objects<'_>,
        buffers: Objects<'_>,
        return_exceptions: Arg<bool>,
        timeout: Timeout,
    ) -> PyResult<Py<PyAny>> {
        same_length(py, keys.0.len(), buffers.0.len())?;
        let (views, (requests, refusals)) = Views::with(py, |views| {
            let both = keys.0.iter().zip(&buffers.0).enumerate();
            let requests =
                both.map(|(i, (key, buffer))| Ok((key_of(key, self.key_kind)?, views.write(Place::Batch(i), buffer)?)));
            sorted(py, return_exceptions.0, requests)
        })?;
        let work = |connector: Connector, call: Holder<_>| async move {
            // SAFETY: as in `get_into`.
            let lent = |span: Span| unsafe { span.lend_to_write(call.clone()) };
            let (mut targets, mut elements) = (Vec::with_capacity(requests.len()), Vec::with_capacity(requests.len()));
            for (key, memory) in requests {
                targets.push((key, lent(memory.span)?));
                elements.push(memory.elements);
            }
            drop(call);
            let answers = connector.batched_get_into(&mut targets).await;
            let each = answers.into_iter().zip(&targets).zip(&elements);
            Ok(each.map(|((read, (key, memory)), elements)| checked(read?, elements, key, memory)).collect())
        };
        self.run(py, timeout, views, work, to_python::list(return_exceptions.0, refusals, to_python::value))
    }

    #[pyo3(signature = (keys, *, return_exceptions=Arg(false), timeout=Timeout::NONE))]
    fn batched_exists(
        &self,
        py: Python<'_>,
        keys: Objects<'_>,
        return_exceptions: Arg<bool>,
        timeout: Timeout,
    ) -> PyResult<Py<PyAny>> {
        let (keys, refusals) = sorted(py, return_exceptions.0, keys.0.iter().map(|key| key_of(key, self.key_kind)))?;
        let work = |connector: Connector, _| async move { Ok(connector.batched_exists(&keys).await) };
        let to_python = to_python::list(return_exceptions.0, refusals, to_python::value);
        self.run(py, timeout, Views::none(), work, to_python)
    }

    #[pyo3(signature = (keys, timeout=Timeout::NONE))]
    fn batched_contains(&self, py: Python<'_>, keys: Objects<'_>, timeout: Timeout) -> PyResult<Py<PyAny>> {
        let keys = keys.0.iter().map(|key| key_of(key, self.key_kind)).collect::<PyResult<Vec<_>>>()?;
        let work = |connector: Connector, _| async move { connector.batched_contains(&keys).await };
        self.run(py, timeout, Views::none(), work, to_python::value)
    }

    #[pyo3(signature = (keys, timeout=Timeout::NONE))]
    fn get_prefix(&self, py: Python<'_>, keys: Objects<'_>, timeout: Timeout) -> PyResult<Py<PyAny>> {
        let keys = keys.0.iter().map(|key| key_of(key, self.key_kind)).collect::<PyResult<Vec<_>>>()?;
        let work = |connector: Connector, _| async move { connector.get_prefix(&keys).await };
        let to_python = |py: Python<'_>, chunks: Vec<MemoryObj>| {
            to_python::value(py, chunks.into_iter().map(Chunk::new).collect::<Vec<_>>())
        };
        self.run(py, timeout, Views::none(), work, to_python)
    }

    #[pyo3(signature = (keys, *, return_exceptions=Arg(false), timeout=Timeout::NONE))]
    fn batched_remove(
        &self,
        py: Python<'_>,
        keys: Objects<'_>,
        return_exceptions: Arg<bool>,
        timeout: Timeout,
    ) -> PyResult<Py<PyAny>> {
        let (keys, refusals) = sorted(py, return_exceptions.0, keys.0.iter().map(|key| key_of(key, self.key_kind)))?;
        let work = |connector: Connector, _| async move { Ok(connector.batched_remove(&keys).await) };
        let to_python = to_python::list(return_exceptions.0, refusals, to_python::value);
        self.run(py, timeout, Views::none(), work, to_python)
    }
}

impl AnyStore {
    /// The same store, with another way to wait.
    fn of(&self, mode: WaitMode) -> Self {
        Self { store: self.store.clone(), url: self.url.clone(), mode, key_kind: self.key_kind }
    }

    fn run<T: Send + 'static, F>(
        &self,
        py: Python<'_>,
        timeout: Timeout,
        views: Views,
        work: impl FnOnce(Connector, Holder<T>) -> F,
        to_python: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Py<PyAny>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let connector = timeout.of(self.store.connector().or_raise(py)?);
        self.mode.run(py, views, |call| work(connector, call), to_python)
    }
}

fn lend<T: Send + 'static>(span: Span, layout: ChunkLayout, call: Holder<T>) -> Result<MemoryObj> {
    // SAFETY: the buffer stays exported until the last holder of `call` is gone, and only then comes the answer. `put`
    // documents that the buffer must not change until then.
    unsafe { span.lend_to_read(layout, call) }
}

/// The answer of a read into memory of these elements.
///
/// # Errors
/// `SizeMismatch` if the memory is a tensor of another dtype or shape than the chunk.
fn checked(read: Option<usize>, elements: &Elements, key: &CacheKey, memory: &MemoryObjMut) -> Result<Option<usize>> {
    if read.is_some() {
        elements.check(memory.layout()).map_err(|e| e.with_operation("get_into").with_key(key))?;
    }
    Ok(read)
}

fn chunk_to_python(py: Python<'_>, chunk: Option<MemoryObj>) -> PyResult<Py<PyAny>> {
    to_python::value(py, chunk.map(Chunk::new))
}

pub(crate) fn add_to(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(connect_blocking, m)?)?;
    m.add_function(wrap_pyfunction!(connect_async, m)?)?;
    m.add_class::<AnyStore>()
}
