//! The keys of a store, as an iterator.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use connectors::{CacheKey, Connector, Result};
use futures::future::{Either, select};
use futures::stream::StreamExt;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use tokio::sync::mpsc;

use crate::buffer::Views;
use crate::errors::OrRaise;
use crate::face::Face;
use crate::own::Own;
use crate::runtime::{Process, lock};

/// How many keys a listing reads ahead, and brings at once.
const KEYS_AHEAD: usize = 256;

type Listed = Result<CacheKey>;

/// An iterator over keys, or an async one. The listing ends with it.
#[pyclass(module = "kvconn", frozen)]
pub(crate) struct Keys {
    face: Face,
    listing: Own<Listing>,
}

struct Listing {
    ready: Arc<Mutex<VecDeque<Listed>>>,
    coming: Arc<tokio::sync::Mutex<mpsc::Receiver<Listed>>>,
}

impl Keys {
    pub(crate) fn start(py: Python<'_>, face: Face, connector: &Connector, prefix: &str) -> PyResult<Self> {
        let (send, receive) = mpsc::channel(KEYS_AHEAD);
        let (connector, prefix) = (connector.clone(), prefix.to_owned());
        Process::current().handle().or_raise(py)?.spawn(async move {
            let mut keys = connector.list(&prefix);
            // A store that has nothing to say must not keep a listing that nobody wants.
            while let Either::Left((Some(key), _)) = select(keys.next(), pin!(send.closed())).await {
                if send.send(key).await.is_err() {
                    return;
                }
            }
        });
        let listing = Listing { ready: Arc::default(), coming: Arc::new(tokio::sync::Mutex::new(receive)) };
        Ok(Self { face, listing: Own::new(listing) })
    }

    fn next(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (face, listing) = (self.face, self.listing.get().or_raise(py)?);
        if let Some(listed) = lock(&listing.ready).pop_front() {
            return face.ready(py, listed.or_raise(py).and_then(|key| key.as_str().into_py_any(py)));
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
        face.run(py, Views::none(), more, move |py, key: Option<CacheKey>| match key {
            Some(key) => key.as_str().into_py_any(py),
            None => Err(face.end()),
        })
    }
}

#[pymethods]
impl Keys {
    fn __iter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().only(Face::Blocking, "for")?;
        Ok(slf)
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.only(Face::Blocking, "for")?;
        self.next(py)
    }

    fn __aiter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().only(Face::Async, "async for")?;
        Ok(slf)
    }

    fn __anext__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.only(Face::Async, "async for")?;
        self.next(py)
    }
}

impl Keys {
    fn only(&self, face: Face, what: &str) -> PyResult<()> {
        if self.face == face {
            return Ok(());
        }
        let other = if what == "for" { "async for" } else { "for" };
        Err(pyo3::exceptions::PyTypeError::new_err(format!("these keys are listed with `{other}`, not `{what}`")))
    }
}
