//! An iterator over the keys or the entries of a store.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::UNIX_EPOCH;

use connectors::{Connector, ListEntry, Result, runtime};
use futures::future::{Either, select};
use futures::stream::{StreamExt, TryStreamExt};
use pyo3::exceptions::PyStopAsyncIteration;
use pyo3::prelude::*;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::buffer::Views;
use crate::engine::cut_off;
use crate::errors::OrRaise;
use crate::process::ProcessLocal;
use crate::{asyncio, blocking, lock, to_python};

/// How many keys a listing reads ahead and moves at once.
const KEYS_AHEAD: usize = 256;

/// An iterator over keys or entries. The listing ends with it. `AsyncKeys` in `kvconn._listing` is the one for asyncio.
#[pyclass(module = "kvconn._kvconn", frozen)]
pub(crate) struct Keys(ProcessLocal<Arc<Listing>>);

/// An entry or an error; None for the end, so that a listing that was cut off does not look whole.
type Listed = Option<Result<ListEntry>>;

/// The items of an iterator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Items {
    /// The texts of keys.
    Keys,
    /// `kvconn.ListEntry`: key, size and time.
    Entries,
}

struct Listing {
    items: Items,
    work: AbortHandle,
    is_closed: AtomicBool,
    ready: Mutex<VecDeque<Listed>>,
    coming: tokio::sync::Mutex<mpsc::Receiver<Listed>>,
}

impl Listing {
    /// The next key, or the end, if it is there.
    fn take(&self) -> Poll<Listed> {
        if self.is_closed.load(Ordering::Relaxed) {
            return Poll::Ready(None);
        }
        let mut ready = lock(&self.ready);
        match ready.front() {
            None => Poll::Pending,
            // The end stays.
            Some(None) => Poll::Ready(None),
            Some(Some(_)) => Poll::Ready(ready.pop_front().flatten()),
        }
    }

    /// Ends the listing. A caller that waits for a key gets the end.
    fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.work.abort();
        lock(&self.ready).clear();
    }

    /// Waits until [`take`](Self::take) has something. A caller that is cancelled loses no key.
    async fn more(&self) -> Result<()> {
        let mut coming = self.coming.lock().await;
        if !lock(&self.ready).is_empty() {
            return Ok(());
        }
        let mut keys = Vec::new();
        coming.recv_many(&mut keys, KEYS_AHEAD).await;
        if keys.is_empty() {
            keys = vec![Some(Err(cut_off())), None];
        }
        lock(&self.ready).extend(keys);
        Ok(())
    }
}

impl Items {
    fn to_python(self, py: Python<'_>, entry: &ListEntry) -> PyResult<Py<PyAny>> {
        let key = entry.key.as_str();
        if self == Self::Keys {
            return to_python::value(py, key);
        }
        let modified = entry.modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = modified.map(|time| time.as_secs_f64());
        let class = py.import("kvconn._listing")?.getattr("ListEntry")?;
        Ok(class.call1((key, entry.size, modified))?.unbind())
    }
}

impl Keys {
    pub(crate) fn start(py: Python<'_>, connector: Connector, prefix: String, items: Items) -> PyResult<Self> {
        let (send, receive) = mpsc::channel(KEYS_AHEAD);
        let work = runtime::handle().or_raise(py)?.spawn(async move {
            let mut entries = match items {
                Items::Keys => connector.list(&prefix).map_ok(ListEntry::new).boxed(),
                Items::Entries => connector.list_entries(&prefix),
            };
            // The listing ends with its iterator, also while the store gives no key.
            while let Either::Left((Some(entry), _)) = select(entries.next(), pin!(send.closed())).await {
                if send.send(Some(entry)).await.is_err() {
                    return;
                }
            }
            let _ = send.send(None).await;
        });
        let listing = Listing {
            items,
            work: work.abort_handle(),
            is_closed: AtomicBool::new(false),
            ready: Mutex::default(),
            coming: tokio::sync::Mutex::new(receive),
        };
        Ok(Self(ProcessLocal::new(Arc::new(listing))))
    }

    fn listing(&self, py: Python<'_>) -> PyResult<Arc<Listing>> {
        self.0.get().or_raise(py).cloned()
    }
}

#[pymethods]
impl Keys {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let listing = self.listing(py)?;
        loop {
            if let Poll::Ready(listed) = listing.take() {
                return listed.map(|entry| listing.items.to_python(py, &entry.or_raise(py)?)).transpose();
            }
            let more = listing.clone();
            blocking::block_on(py, async move { more.more().await })?.or_raise(py)?;
        }
    }

    /// Ends the listing. Later calls of `__next__` give the end.
    fn close(&self) {
        // The listing of a parent is not this process's.
        if let Ok(listing) = self.0.get() {
            listing.close();
        }
    }

    /// The next key if it is there, otherwise None.
    fn _take(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let listing = self.listing(py)?;
        match listing.take() {
            Poll::Pending => Ok(None),
            Poll::Ready(None) => Err(PyStopAsyncIteration::new_err(())),
            Poll::Ready(Some(entry)) => listing.items.to_python(py, &entry.or_raise(py)?).map(Some),
        }
    }

    /// A future that is done when `_take` has something.
    fn _more<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let listing = self.listing(py)?;
        asyncio::start(py, Views::none(), |_| async move { listing.more().await }, to_python::none)
    }
}
