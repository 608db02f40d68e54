//! `EngineClient`: a store as an inference engine calls it. vLLM's, SGLang's and LMCache's classes in Python are thin layers
//! over it.
//!
//! | file | part |
//! |---|---|
//! | `calls.rs` | from Python's arguments to a submit, and from completions to Python |
//! | `keys.rs` | the engine's keys, and the names that a worker makes of them |
//! | `memory.rs` | rows, addresses and buffers of Python |
//! | `job.rs` | one submit, and its completion |
//! | `queue.rs` | the order of the submits, and their limits |
//! | `transfer.rs` | one part of a store or load |
//! | `lookup.rs` | lookups within their deadline |
//! | `options.rs` | the options |
//! | `stats.rs` | the counters |
//! | `watch.rs` | the gauges, and the conditions that the log shows |
//! | `worker.rs` | the workers, which take the parts of jobs in their order |
//! | `usage.rs` | the bytes that the store holds, by salt: for LMCache's quotas |

mod calls;
mod job;
mod keys;
mod lookup;
mod memory;
mod options;
mod queue;
mod stats;
mod transfer;
mod usage;
mod watch;
mod worker;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

pub(crate) use self::job::cut_off;
use self::job::{AnswerTo, Kind};
use self::keys::Names;
use self::memory::{Held, Rows};
use self::options::Opening;
use self::queue::Queue;
pub(crate) use self::usage::EngineUsage;
use crate::blocking::{block_on, until};
use crate::errors::{OrRaise, invalid};
use crate::open::{ENGINE_TIMEOUT, OpenStore, for_engine, opened};
use crate::process::ProcessLocal;
use crate::{lock, logging};

/// How long `close` lets transfers run before it cuts them off.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A store as an inference engine calls it. Private to the package.
///
/// Submits return at once, and each has exactly one completion. Loads go before stores. A completion of a store or load comes
/// after the last use of its memory.
///
/// Options: those of the store, and ``lookup_timeout_ms`` (200) and ``store_backlog`` (bytes; 1073741824, and at
/// most half of ``rows``).
///
/// ``stats()`` has these counters since the client was made:
///
/// ===================== ==========================================================
/// name                  meaning
/// ===================== ==========================================================
/// stores, loads,        submits
/// lookups
/// store_keys,           keys of those submits
/// load_keys,
/// lookup_keys
/// stored_keys,          keys that were stored, loaded, found
/// loaded_keys,
/// found_keys
/// stored_bytes,         bytes that were moved
/// loaded_bytes
/// store_seconds,        seconds from the submits to their completions
/// load_seconds,
/// lookup_seconds
/// failed_stores,        completions with an error
/// failed_loads,
/// failed_lookups
/// shed_stores,          stores that were dropped for the backlog, and their bytes
/// shed_bytes
/// stale_keys            loads of a value with another length than the memory for it
/// lookup_timeouts       lookups without an answer in time
/// lookups_refused       lookups that were answered at once, because one was overdue
/// ===================== ==========================================================
///
/// and these gauges:
///
/// ===================== ==========================================================
/// name                  meaning
/// ===================== ==========================================================
/// store_backlog_bytes   bytes of stores that wait or run
/// pinned_bytes          bytes of memory that stores and loads hold
/// waiting_stores,       jobs with parts that wait
/// waiting_loads
/// running_parts         parts under way
/// overdue_jobs,         jobs that hold their memory for more than 30 seconds after
/// overdue_bytes         they began, and their bytes
/// overdue_lookups       lookups that got misses and whose call has not ended
/// lost                  1 if the store did not answer the last call, else 0
/// ===================== ==========================================================
#[pyclass(module = "kvconn._kvconn", frozen)]
pub(crate) struct EngineClient {
    engine: String,
    store: OpenStore,
    names: Arc<Names>,
    queue: ProcessLocal<Arc<Queue<Held>>>,
    rows: Mutex<Option<Arc<Rows>>>,
    has_secret: bool,
}

/// Tag, one byte for each key, error, seconds, bytes.
type Drained<'py> = (i64, Bound<'py, PyBytes>, Option<String>, f64, u64);

#[pymethods]
impl EngineClient {
    #[new]
    #[pyo3(signature = (url, options = None, *, engine, model = "", kv_rank = 0, rows = None))]
    fn new(
        py: Python<'_>,
        url: &str,
        options: Option<&Bound<'_, PyDict>>,
        engine: String,
        model: &str,
        kv_rank: i64,
        rows: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        logging::start(py)?;
        let names = Arc::new(Names::new(model, kv_rank).or_raise(py)?);
        let opening = Opening::read(py, &engine, url, options)?;
        for unknown in &opening.unknown {
            let message = format!("{engine}: unknown option {unknown}; it has no effect");
            py.import("logging")?.call_method1("getLogger", ("kvconn",))?.call_method1("warning", ("%s", message))?;
        }
        // A batch is one part of a transfer, so it needs no more time than a call. A server that hangs keeps a load no longer.
        let lookup = opening.lookup_timeout;
        let builder = for_engine(opening.builder().or_raise(py)?, ENGINE_TIMEOUT, ENGINE_TIMEOUT, lookup);
        let rows = rows.map(Rows::new).transpose()?.map(Arc::new);
        let opened = block_on(py, opened(builder)).and_then(|connector| {
            let connector = connector.or_raise(py)?;
            let queue = Queue::new(connector.clone(), opening.limits(rows.as_deref())).or_raise(py)?;
            Ok((OpenStore::new(py, connector)?, ProcessLocal::new(queue)))
        });
        match opened {
            Ok((store, queue)) => {
                Ok(Self { engine, store, names, queue, rows: Mutex::new(rows), has_secret: opening.has_secret })
            }
            Err(e) => {
                // Released here, because vLLM releases its view at once, and a drop would end the export later.
                rows.into_iter().for_each(|rows| rows.release(py));
                Err(e)
            }
        }
    }

    /// Whether the URL or an option contains a secret as text: a log of the configuration would show it.
    #[getter]
    fn has_secret(&self) -> bool {
        self.has_secret
    }

    /// ``module/Name`` of the store.
    #[getter]
    fn name(&self) -> &str {
        self.store.name()
    }

    /// Bytes of one row of ``rows``; 0 without ``rows`` and after ``close``.
    #[getter]
    fn row_bytes(&self) -> usize {
        lock(&self.rows).as_ref().map_or(0, |rows| rows.row_bytes())
    }

    /// Stores the values of the keys.
    #[pyo3(signature = (tag, keys, *, salt = "", **memory))]
    fn submit_store(
        &self,
        py: Python<'_>,
        tag: i64,
        keys: &Bound<'_, PyAny>,
        salt: &str,
        memory: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.submit(py, Kind::Store, tag, keys, salt, memory, AnswerTo::Drain).map(drop)
    }

    /// Loads the values of the keys into their memory. A value of another length than its memory is not loaded.
    #[pyo3(signature = (tag, keys, *, salt = "", **memory))]
    fn submit_load(
        &self,
        py: Python<'_>,
        tag: i64,
        keys: &Bound<'_, PyAny>,
        salt: &str,
        memory: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        self.submit(py, Kind::Load, tag, keys, salt, memory, AnswerTo::Drain).map(drop)
    }

    /// Asks which keys are stored. With ``run`` only the leading keys that are all stored count.
    #[pyo3(signature = (tag, keys, *, salt = "", run = false))]
    fn submit_lookup(&self, py: Python<'_>, tag: i64, keys: &Bound<'_, PyAny>, salt: &str, run: bool) -> PyResult<()> {
        let keys = self.keys(keys, salt)?;
        self.queue(py)?.lookup(tag, keys, run, AnswerTo::Drain);
        Ok(())
    }

    /// The completions of stores since the last call.
    fn drain_stores<'py>(&self, py: Python<'py>) -> PyResult<Vec<Drained<'py>>> {
        self.drain(py, Kind::Store)
    }

    /// The completions of loads since the last call.
    fn drain_loads<'py>(&self, py: Python<'py>) -> PyResult<Vec<Drained<'py>>> {
        self.drain(py, Kind::Load)
    }

    /// The completions of lookups since the last call.
    fn drain_lookups<'py>(&self, py: Python<'py>) -> PyResult<Vec<Drained<'py>>> {
        self.drain(py, Kind::Lookup)
    }

    /// The descriptor that is readable while completions of stores wait.
    fn store_fd(&self) -> i32 {
        self.queue.peek().event_fd(Kind::Store)
    }

    /// The descriptor that is readable while completions of loads wait.
    fn load_fd(&self) -> i32 {
        self.queue.peek().event_fd(Kind::Load)
    }

    /// The descriptor that is readable while completions of lookups wait.
    fn lookup_fd(&self) -> i32 {
        self.queue.peek().event_fd(Kind::Lookup)
    }

    /// Stores the values of the keys, and waits until the memory is free. Says which were stored.
    #[pyo3(signature = (keys, *, salt = "", **memory))]
    fn store(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        salt: &str,
        memory: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<bool>> {
        self.transfer(py, Kind::Store, keys, salt, memory)
    }

    /// Loads the values of the keys into their memory, and waits until the memory is free. Says which were loaded.
    #[pyo3(signature = (keys, *, salt = "", **memory))]
    fn load(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        salt: &str,
        memory: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<bool>> {
        self.transfer(py, Kind::Load, keys, salt, memory)
    }

    /// Which keys are stored, within ``lookup_timeout_ms``. Keys without an answer count as not stored.
    #[pyo3(signature = (keys, *, salt = ""))]
    fn lookup(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, salt: &str) -> PyResult<Vec<bool>> {
        Ok(self.ask(py, keys, salt, false)?.into_iter().map(|yes| yes == 1).collect())
    }

    /// The number of leading keys that are all stored, within ``lookup_timeout_ms``.
    #[pyo3(signature = (keys, *, salt = ""))]
    fn contains(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, salt: &str) -> PyResult<usize> {
        Ok(self.ask(py, keys, salt, true)?.iter().take_while(|yes| **yes == 1).count())
    }

    /// Removes the keys. Says which were stored.
    #[pyo3(signature = (keys, *, salt = ""))]
    fn remove(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, salt: &str) -> PyResult<Vec<bool>> {
        let keys = self.keys(keys, salt)?;
        let keys =
            keys.parse(0..keys.len()).map(|(_, key)| key).collect::<connectors::Result<Vec<_>>>().or_raise(py)?;
        let connector = self.connector(py)?;
        block_on(py, async move { connector.batched_remove(&keys).await.into_iter().collect() })?.or_raise(py)
    }

    /// Removes all keys of ``model``, and gives their number.
    fn clear(&self, py: Python<'_>) -> PyResult<usize> {
        if self.names.model().is_empty() {
            return Err(invalid(py, "a client without a `model` has no keys of its own to remove"));
        }
        let (connector, prefix) = (self.connector(py)?, format!("{}@", self.names.model()));
        block_on(py, async move { calls::clear(&connector, &prefix).await })?.or_raise(py)
    }

    /// The number of stores and loads that were not drained, and their bytes.
    fn pending(&self) -> (usize, u64) {
        self.queue.get().map_or((0, 0), |queue| queue.pending())
    }

    /// Waits until nothing is under way and every result waits to be drained. Stores that wait are cancelled if the store
    /// does not answer.
    fn wait_idle(&self, py: Python<'_>) -> PyResult<()> {
        let queue = self.queue(py)?;
        py.detach(|| {
            until(None, |longest| {
                if queue.is_lost() {
                    queue.cancel_stores();
                }
                queue.wait_idle(longest).then_some(())
            })
        })?;
        Ok(())
    }

    /// Counters and gauges, by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = PyDict::new(py);
        for (name, value) in self.queue(py)?.stats() {
            stats.set_item(name, value)?;
        }
        Ok(stats)
    }

    /// ``"ok"``, ``"lost"`` if the store did not answer the last call, or ``"closed"``.
    fn state(&self) -> &'static str {
        self.queue.get().map_or("closed", |queue| queue.condition())
    }

    /// Refuses new submits, cuts off transfers after five seconds, and returns when nothing touches memory any more. Ctrl-C
    /// cuts them off at once and ends the wait. Completions can still be drained. May be called twice.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Ok(queue) = self.queue.get() else {
            // The transfers are the parent's.
            return Ok(());
        };
        py.detach(|| {
            queue.close();
            let deadline = Instant::now() + CLOSE_TIMEOUT;
            let waited = until(Some(deadline), |longest| queue.wait_idle(longest).then_some(()));
            // Also the lookups that are overdue.
            queue.cut();
            if waited?.is_none() {
                // A read from a disk cannot be cut off, and still writes to the engine's memory.
                until(None, |longest| queue.wait_idle(longest).then_some(()))?;
            }
            PyResult::Ok(())
        })?;
        // The engine need not drain after this, and its memory must be free all the same.
        queue.take_held().into_iter().for_each(|held| held.release(py));
        let rows = lock(&self.rows).take();
        if let Some(rows) = rows {
            rows.release(py);
        }
        self.store.close(py, CLOSE_TIMEOUT)
    }

    fn __repr__(&self) -> String {
        format!("<kvconn._kvconn.EngineClient of {} for {}>", self.store.name(), self.engine)
    }
}

impl Drop for EngineClient {
    fn drop(&mut self) {
        // The completions cannot be drained any more. A child that was forked since has no transfers.
        if let Ok(queue) = self.queue.get() {
            queue.close();
            queue.cut();
        }
    }
}
