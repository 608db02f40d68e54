//! `NativeClient`: LMCache's interface for native connectors in multiprocess mode (`native_plugin`).
//!
//! A submit gives an id at once. When the call has ended, one completion for that id waits to be drained, and the eventfd is
//! readable. LMCache lends its memory from the submit to that completion, and not longer.
#![expect(unsafe_code, reason = "lends Python's memory to the store")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use connectors::{CacheKey, ChunkLayout, Connector, Error, ErrorKind, KeyKind, Result, runtime};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::watch;

use crate::batch::{Objects, same_length};
use crate::blocking::{block_on, until};
use crate::buffer::Views;
use crate::call::{Call, Holder};
use crate::errors::{Arg, OrRaise};
use crate::key::text_of;
use crate::lock;
use crate::open::{OpenStore, open_for_engine};
use crate::process::{ProcessId, ProcessLocal};

/// How long `close` lets calls run before it cuts them off.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// LMCache's `native_plugin` interface over any store.
///
/// ``{"type": "native_plugin", "module_path": "kvconn", "class_name": "NativeClient",
/// "adapter_params": {"url": "resp://127.0.0.1:6379"}}``
///
/// All parameters beside ``url`` are the store's options, as they could stand in the URL's query.
#[pyclass(module = "kvconn", frozen, subclass)]
pub(crate) struct NativeClient {
    store: OpenStore,
    shared: Arc<Shared>,
    next_id: AtomicU64,
    /// Set to true to cut off the calls in flight.
    cut: ProcessLocal<watch::Sender<bool>>,
}

/// The part that calls in flight hold. It outlives the client, so the eventfd's number is not given to another file.
struct Shared {
    process: ProcessId,
    event: OwnedFd,
    done: Mutex<Vec<Completion>>,
    state: Mutex<State>,
    idle: Condvar,
}

struct State {
    closed: bool,
    in_flight: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Get,
    Set,
    Exists,
    Delete,
}

/// The result of a batch.
struct Outcome {
    /// Per key: loaded, stored, there, removed.
    yes: Vec<bool>,
    failed: usize,
    first_error: Option<String>,
}

struct Completion {
    id: u64,
    ok: bool,
    error: String,
    yes: Option<Vec<bool>>,
    /// Released when the completion is drained, on a thread that is attached.
    views: Views,
}

type Drained = (u64, bool, String, Option<Vec<bool>>);

#[pymethods]
impl NativeClient {
    #[new]
    #[pyo3(signature = (url, **options))]
    fn new(py: Python<'_>, url: Arg<String>, options: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|e| Error::io(e.into(), "make an eventfd"))
            .or_raise(py)?;
        let connector = block_on(py, open_for_engine(py, &url.0, options)?)?.or_raise(py)?;
        let shared = Shared {
            process: ProcessId::current(),
            event,
            done: Mutex::default(),
            state: Mutex::new(State { closed: false, in_flight: 0 }),
            idle: Condvar::new(),
        };
        Ok(Self {
            store: OpenStore::new(py, connector)?,
            shared: Arc::new(shared),
            next_id: AtomicU64::new(1),
            cut: ProcessLocal::new(watch::Sender::new(false)),
        })
    }

    /// The file descriptor that is readable while completions wait to be drained.
    fn event_fd(&self) -> i32 {
        self.shared.event.as_raw_fd()
    }

    /// Reads each key's chunk into its buffer. The completion's bools say which were loaded. A chunk whose length is not
    /// the buffer's is not loaded.
    fn submit_batch_get(&self, py: Python<'_>, keys: Objects<'_>, views: Objects<'_>) -> PyResult<u64> {
        same_length(py, keys.0.len(), views.0.len())?;
        let (views, spans) = Views::to_write(&views.0)?;
        self.submit(py, Kind::Get, keys, views, move |call, connector, keys| async move {
            let (mut places, mut requests) = (Vec::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
            for (i, key) in keys {
                // SAFETY: the completion holds the exports and comes after the last holder of `call` is gone. LMCache
                // promises to leave the memory alone until then.
                let memory = unsafe { spans[i].lend_to_write(call.clone())? };
                places.push(i);
                requests.push((key, memory));
            }
            let answers = connector.batched_get_into(&mut requests).await;
            let whole = |i: usize, answer: Result<Option<usize>>| match answer? {
                Some(read) if read == spans[i].len() => Ok(true),
                Some(read) => {
                    let message = format!("the chunk has {read} bytes, its buffer {}", spans[i].len());
                    Err(Error::new(ErrorKind::SizeMismatch, message))
                }
                None => Ok(false),
            };
            Ok(places.iter().zip(answers).map(|(&i, answer)| (i, whole(i, answer))).collect())
        })
    }

    /// Stores each buffer's bytes under its key.
    fn submit_batch_set(&self, py: Python<'_>, keys: Objects<'_>, views: Objects<'_>) -> PyResult<u64> {
        same_length(py, keys.0.len(), views.0.len())?;
        let (views, spans) = Views::to_read(&views.0)?;
        self.submit(py, Kind::Set, keys, views, move |call, connector, keys| async move {
            let (mut places, mut items) = (Vec::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
            for (i, key) in keys {
                // SAFETY: as in `submit_batch_get`; LMCache promises not to write to the memory until the completion.
                let chunk = unsafe { spans[i].lend_to_read(ChunkLayout::binary(spans[i].len()), call.clone())? };
                places.push(i);
                items.push((key, chunk));
            }
            let answers = connector.batched_put(&items).await;
            Ok(places.into_iter().zip(answers).map(|(i, answer)| (i, answer.map(|()| true))).collect())
        })
    }

    /// Asks which keys exist. The completion is `ok` if the store could answer for any key; the other keys count as
    /// missing.
    fn submit_batch_exists(&self, py: Python<'_>, keys: Objects<'_>) -> PyResult<u64> {
        self.submit(py, Kind::Exists, keys, Views::none(), |_, connector, keys| async move {
            let (places, keys): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
            Ok(places.into_iter().zip(connector.batched_exists(&keys).await).collect())
        })
    }

    /// Removes the keys. The completion's bools say which existed.
    fn submit_batch_delete(&self, py: Python<'_>, keys: Objects<'_>) -> PyResult<u64> {
        self.submit(py, Kind::Delete, keys, Views::none(), |_, connector, keys| async move {
            let (places, keys): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
            Ok(places.into_iter().zip(connector.batched_remove(&keys).await).collect())
        })
    }

    /// All completions since the last call, as `(id, ok, error, bools)`. Clears the eventfd.
    fn drain_completions(&self, py: Python<'_>) -> PyResult<Vec<Drained>> {
        // A forked child shares the eventfd and would clear it for the parent.
        self.shared.process.check().or_raise(py)?;
        let done = py.detach(|| {
            // Before the queue is read, so that a completion in between sets the eventfd again.
            let _ = rustix::io::read(&self.shared.event, &mut [0; 8]);
            std::mem::take(&mut *lock(&self.shared.done))
        });
        Ok(done.into_iter().map(|done| done.drained(py)).collect())
    }

    /// Refuses new submits, cuts off calls that are in flight after five seconds, and returns when nothing touches a buffer
    /// any more. Ctrl-C cuts them off at once and ends the wait. Completions can still be drained. May be called twice.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.shared.process.check().is_err() {
            // The calls are the parent's.
            return Ok(());
        }
        py.detach(|| {
            lock(&self.shared.state).closed = true;
            let waited = self.shared.wait_until_idle(Some(Instant::now() + CLOSE_TIMEOUT));
            if !matches!(waited, Ok(true)) {
                self.cut.peek().send_replace(true);
            }
            if !waited? {
                // A read from a disk cannot be cut off, and still writes to LMCache's memory.
                self.shared.wait_until_idle(None)?;
            }
            PyResult::Ok(())
        })?;
        // LMCache need not drain after this, and its memory must be free all the same.
        let take = |completion: &mut Completion| std::mem::replace(&mut completion.views, Views::none());
        let views: Vec<Views> = lock(&self.shared.done).iter_mut().map(take).collect();
        views.into_iter().for_each(|views| views.release(py));
        self.store.close(py, CLOSE_TIMEOUT)
    }

    fn __repr__(&self) -> String {
        format!("<kvconn.NativeClient of {}>", self.store.name())
    }
}

impl NativeClient {
    fn submit<F>(
        &self,
        py: Python<'_>,
        kind: Kind,
        keys: Objects<'_>,
        views: Views,
        make: impl FnOnce(Holder<Outcome>, Connector, Vec<(usize, CacheKey)>) -> F + Send,
    ) -> PyResult<u64>
    where
        F: Future<Output = Result<Vec<(usize, Result<bool>)>>> + Send + 'static,
    {
        let keys = keys.0.iter().map(text_of).collect::<PyResult<Vec<_>>>()?;
        let submitted = py.detach(move || {
            self.shared.process.check()?;
            let runtime = runtime::handle()?;
            self.shared.begin()?;
            let (id, asked, shared) = (self.next_id.fetch_add(1, Ordering::Relaxed), keys.len(), self.shared.clone());
            let call = Call::new(move |outcome| shared.complete(Completion::new(id, kind, asked, outcome, views)));
            let mut outcome = Outcome::new(asked);
            let mut readable = Vec::with_capacity(asked);
            for (i, text) in keys.into_iter().enumerate() {
                match text.and_then(|text| key(&text)) {
                    Ok(key) => readable.push((i, key)),
                    Err(e) => outcome.put(i, Err(e)),
                }
            }
            let connector = self.store.connector()?.clone();
            let work = make(call.clone(), connector, readable);
            let mut cut = self.cut.get()?.subscribe();
            let work = async move {
                for (i, answer) in work.await? {
                    outcome.put(i, answer);
                }
                Ok(outcome)
            };
            runtime.spawn(async move {
                tokio::select! {
                    () = call.run(work) => {}
                    _ = cut.wait_for(|cut| *cut) => {}
                }
            });
            Ok(id)
        });
        submitted.or_raise(py)
    }
}

impl Drop for NativeClient {
    fn drop(&mut self) {
        // The completions cannot be drained any more. A child that was forked since has no calls in flight.
        if let Ok(cut) = self.cut.get() {
            cut.send_replace(true);
        }
    }
}

impl Shared {
    fn begin(&self) -> Result<()> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, "the client is closed"));
        }
        state.in_flight += 1;
        Ok(())
    }

    fn complete(&self, completion: Completion) {
        lock(&self.done).push(completion);
        // A write fails only when the counter is full, and then the eventfd is readable.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        lock(&self.state).in_flight -= 1;
        self.idle.notify_all();
    }

    /// Waits until nothing is in flight; false if `deadline` has passed before. The calling thread must not be
    /// attached.
    ///
    /// # Errors
    /// As [`until`].
    fn wait_until_idle(&self, deadline: Option<Instant>) -> PyResult<bool> {
        let idle = until(deadline, |longest| {
            let waited = self.idle.wait_timeout_while(lock(&self.state), longest, |state| state.in_flight > 0);
            let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            (state.in_flight == 0).then_some(())
        })?;
        Ok(idle.is_some())
    }
}

impl Outcome {
    fn new(asked: usize) -> Self {
        Self { yes: vec![false; asked], failed: 0, first_error: None }
    }

    fn put(&mut self, i: usize, answer: Result<bool>) {
        match answer {
            Ok(yes) => self.yes[i] = yes,
            Err(e) => {
                self.failed += 1;
                self.first_error.get_or_insert_with(|| e.to_string());
            }
        }
    }
}

impl Completion {
    fn new(id: u64, kind: Kind, asked: usize, outcome: Result<Outcome>, views: Views) -> Self {
        let outcome = outcome.unwrap_or_else(|e| Outcome {
            yes: vec![false; asked],
            failed: asked.max(1),
            first_error: Some(e.to_string()),
        });
        let ok = match kind {
            // LMCache reads the bools only of a completion that is `ok`. One key's error must not hide the others.
            Kind::Exists => outcome.failed == 0 || outcome.failed < asked,
            _ => outcome.failed == 0,
        };
        let error = match outcome.first_error {
            Some(first) if outcome.failed > 1 => format!("{} of {asked} keys failed, first: {first}", outcome.failed),
            Some(first) => first,
            None => String::new(),
        };
        Self { id, ok, error, yes: (kind != Kind::Set).then_some(outcome.yes), views }
    }

    fn drained(self, py: Python<'_>) -> Drained {
        self.views.release(py);
        (self.id, self.ok, self.error, self.yes)
    }
}

/// LMCache passes object keys here.
fn key(text: &str) -> Result<CacheKey> {
    CacheKey::parse(text, KeyKind::Object)
}
