//! An iterator over the keys of a store.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use connectors::{CacheKey, Connector, Result, runtime};
use futures::future::{Either, select};
use futures::stream::StreamExt;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use tokio::sync::mpsc;

use crate::buffer::Views;
use crate::call::WaitMode;
use crate::errors::OrRaise;
use crate::process::ProcessLocal;
use crate::{lock, to_python};

/// How many keys a listing reads ahead and moves at once.
const KEYS_AHEAD: usize = 256;

type Listed = Result<CacheKey>;

/// An iterator over keys, or an async one. The listing ends with it.
#[pyclass(module = "kvconn", frozen)]
pub(crate) struct Keys {
    mode: WaitMode,
    listing: ProcessLocal<Listing>,
}

struct Listing {
    ready: Arc<Mutex<VecDeque<Listed>>>,
    coming: Arc<tokio::sync::Mutex<mpsc::Receiver<Listed>>>,
}

impl Keys {
    pub(crate) fn start(py: Python<'_>, mode: WaitMode, connector: &Connector, prefix: &str) -> PyResult<Self> {
        let (send, receive) = mpsc::channel(KEYS_AHEAD);
        let (connector, prefix) = (connector.clone(), prefix.to_owned());
        runtime::handle().or_raise(py)?.spawn(async move {
            let mut keys = connector.list(&prefix);
            // The listing ends with its iterator, also while the store gives no key.
            while let Either::Left((Some(key), _)) = select(keys.next(), pin!(send.closed())).await {
                if send.send(key).await.is_err() {
                    return;
                }
            }
        });
        let listing = Listing { ready: Arc::default(), coming: Arc::new(tokio::sync::Mutex::new(receive)) };
        Ok(Self { mode, listing: ProcessLocal::new(listing) })
    }

    fn next(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (mode, listing) = (self.mode, self.listing.get().or_raise(py)?);
        if let Some(listed) = lock(&listing.ready).pop_front() {
            return mode.ready(py, listed.or_raise(py).and_then(|key| to_python::value(py, key.as_str())));
        }
        let (coming, ready) = (listing.coming.clone(), listing.ready.clone());
        let more = |_| async move {
            let mut keys = Vec::new();
            coming.lock().await.recv_many(&mut keys, KEYS_AHEAD).await;
            let mut keys = keys.into_iter();
            let first = keys.next().transpose();
            lock(&ready).extend(keys);
            first
        };
        mode.run(py, Views::none(), more, move |py, key: Option<CacheKey>| match key {
            Some(key) => to_python::value(py, key.as_str()),
            None => Err(mode.end()),
        })
    }
}

#[pymethods]
impl Keys {
    fn __iter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().require(WaitMode::Blocking)?;
        Ok(slf)
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.require(WaitMode::Blocking)?;
        self.next(py)
    }

    fn __aiter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().require(WaitMode::Asyncio)?;
        Ok(slf)
    }

    fn __anext__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.require(WaitMode::Asyncio)?;
        self.next(py)
    }
}

impl Keys {
    fn require(&self, mode: WaitMode) -> PyResult<()> {
        let wrong = match (mode, self.mode) {
            (WaitMode::Blocking, WaitMode::Asyncio) => "these keys are listed with `async for`, not `for`",
            (WaitMode::Asyncio, WaitMode::Blocking) => "these keys are listed with `for`, not `async for`",
            _ => return Ok(()),
        };
        Err(PyTypeError::new_err(wrong))
    }
}
