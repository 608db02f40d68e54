//! Watches the calls of a check, so that the kit tells a call that hangs from a store that is slow.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};

use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::connector::{
    BoxConnector, Capabilities, Diagnosis, ListEntry, Operation, RemoteConnector, ServerInfo, list_by, listings,
    operations,
};
use crate::key::CacheKey;
use crate::layer::around;
use crate::{BoxStream, Error, ErrorKind, Result};

/// The part of a check's limit in which a small call must end, if no other call begins or ends meanwhile.
const PATIENCE: f64 = 1.0 / 8.0;
/// The bytes, or the keys of a batch, that may take the whole limit.
const MOST_BYTES: f64 = (64 << 20) as f64;
const MOST_KEYS: f64 = 500.0;
/// The keys of a batch that give a check its limit once more, because it makes several calls on all of them.
const KEYS_PER_LIMIT: f64 = 250.0;
/// More keys than a check puts. A listing that gives more does not end.
const MOST_LISTED: usize = 100_000;

/// The calls of one check. Cheap to clone.
#[derive(Clone)]
pub(super) struct Watch(Arc<Mutex<Calls>>);

struct Calls {
    running: Vec<Running>,
    next: u64,
    /// The last time when a call began or ended.
    last: Instant,
    /// The most bytes of a chunk, and keys of a batch, so far.
    bytes: usize,
    keys: usize,
}

struct Running {
    id: u64,
    name: &'static str,
    in_poll: bool,
}

/// A call that does not end.
pub(super) struct Stalled {
    /// The call: `get`.
    pub(super) call: &'static str,
    pub(super) why: String,
}

impl Watch {
    pub(super) fn new() -> Self {
        let (running, last) = (Vec::new(), Instant::now());
        Self(Arc::new(Mutex::new(Calls { running, next: 0, last, bytes: 0, keys: 0 })))
    }

    /// The same store, with every call watched.
    pub(super) fn around(&self, store: crate::Connector) -> crate::Connector {
        store.wrapped(|inner| BoxConnector::new(Watched { inner, dropping: None, watch: self.clone() }))
    }

    /// Notes that the check moves a chunk of this length.
    pub(super) fn moves(&self, bytes: usize) {
        let mut calls = self.calls();
        calls.bytes = calls.bytes.max(bytes);
    }

    /// Runs a call on `keys` keys.
    pub(super) async fn call<T>(&self, name: &'static str, keys: usize, call: impl Future<Output = T>) -> T {
        let running = self.begin(name, keys);
        let mut call = pin!(call);
        poll_fn(|cx| {
            running.set_in_poll(true);
            let poll = call.as_mut().poll(cx);
            running.set_in_poll(false);
            poll
        })
        .await
    }

    /// Runs a call that is not async.
    fn call_now<T>(&self, name: &'static str, call: impl FnOnce() -> T) -> T {
        let _running = self.begin_now(name);
        call()
    }

    fn begin_now(&self, name: &'static str) -> Guard {
        let running = self.begin(name, 1);
        running.set_in_poll(true);
        running
    }

    fn begin(&self, name: &'static str, keys: usize) -> Guard {
        let mut calls = self.calls();
        let id = calls.next;
        calls.next += 1;
        calls.last = Instant::now();
        calls.keys = calls.keys.max(keys);
        calls.running.push(Running { id, name, in_poll: false });
        Guard { watch: self.clone(), id }
    }

    /// The longest time of the check. A large batch has more than `limit`.
    pub(super) fn longest(&self, limit: Duration) -> Duration {
        limit.mul_f64(1.0 + self.calls().keys as f64 / KEYS_PER_LIMIT)
    }

    /// The call that hangs, if one does. A large chunk or a large batch has more of the check's `limit`.
    pub(super) fn stalled(&self, limit: Duration) -> Option<Stalled> {
        let calls = self.calls();
        let part = PATIENCE + calls.bytes as f64 / MOST_BYTES + calls.keys as f64 / MOST_KEYS;
        let patience = limit.mul_f64(part.min(1.0));
        if calls.last.elapsed() < patience {
            return None;
        }
        let blocking = calls.running.iter().find(|call| call.in_poll);
        let call = blocking.or(calls.running.first())?.name;
        let why = match blocking {
            Some(_) => format!("`{call}` blocks its thread: it did not return within {patience:.1?}"),
            None => format!("`{call}` hangs: it did not end within {patience:.1?}"),
        };
        Some(Stalled { call, why })
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that runs. Its drop ends the call.
struct Guard {
    watch: Watch,
    id: u64,
}

impl Guard {
    fn set_in_poll(&self, in_poll: bool) {
        if let Some(call) = self.watch.calls().running.iter_mut().find(|call| call.id == self.id) {
            call.in_poll = in_poll;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut calls = self.watch.calls();
        calls.running.retain(|call| call.id != self.id);
        calls.last = Instant::now();
    }
}

struct Watched {
    inner: BoxConnector,
    /// The drop of `inner`, while it runs.
    dropping: Option<Guard>,
    watch: Watch,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.dropping = Some(self.watch.begin_now("drop"));
    }
}

impl Watched {
    async fn around<T>(&self, operation: Operation, keys: usize, call: impl Future<Output = T> + Send) -> T {
        self.watch.call(operation.as_str(), keys, call).await
    }

    /// The same listing with every item watched. It fails behind [`MOST_LISTED`] items.
    fn listing<'a, T: Send + 'a>(&'a self, items: BoxStream<'a, Result<T>>) -> BoxStream<'a, Result<T>> {
        stream::unfold((Some(items), 0), move |(items, n)| async move {
            let mut items = items?;
            if n == MOST_LISTED {
                let why = format!("the listing gives more than {MOST_LISTED} keys under a prefix that has fewer");
                return Some((Err(Error::new(ErrorKind::Other, why)), (None, n)));
            }
            let item = self.watch.call("list", 1, items.next()).await?;
            Some((item, (Some(items), n + 1)))
        })
        .boxed()
    }
}

#[deny(clippy::missing_trait_methods, reason = "a missing method would bypass the connector's own")]
impl RemoteConnector for Watched {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    listings!(list_by |this| this.inner, |items| this.listing(this.watch.call_now("list", items)););

    operations!(around '_);
}
