//! The operations for callers without async.

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::mpsc::RecvTimeoutError;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::{Either, FutureExt, select};
use futures::stream::{BoxStream, StreamExt};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::operation::{Operation, operations};
use super::{Connector, Diagnosis, ListEntry, ListPage, ServerInfo};
use crate::builder::ContextBuilder;
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::key::CacheKey;
use crate::runtime;
use crate::{Error, ErrorKind, Result};

/// A [`Connector`] whose operations block until they are done. Made by [`Connector::blocking`] or
/// [`ContextBuilder::open_blocking`]; cheap to clone.
///
/// You may call every operation on any thread, also inside an async task. The calling thread polls the operation once. If the
/// operation must wait, it moves to kvconn's own runtime, and the calling thread blocks.
///
/// A connector that was opened on your runtime may need that runtime to answer, because its tasks run there. If the calling
/// thread is that runtime's only thread, the call ends with `Timeout` after 10 seconds. So a program without async opens its
/// stores with [`open_blocking`](ContextBuilder::open_blocking), which runs everything on kvconn's own runtime.
///
/// A child of `fork` must open its own stores: it does not have the threads that its parent's stores need.
///
/// A call that panics is an error ([`Other`](ErrorKind::Other)). A call that must wait panics inside tokio's `LocalSet` on a
/// runtime of several threads, as `block_in_place` does there.
///
/// ```
/// # use connector_core::{BlockingConnector, CacheKey, Result};
/// fn lookup(connector: &BlockingConnector, key: &CacheKey) -> Result<usize> {
///     Ok(connector.get(key)?.map_or(0, |chunk| chunk.len()))
/// }
/// ```
#[derive(Debug, Clone)]
pub struct BlockingConnector(Connector);

/// How many keys a listing reads ahead of its caller.
const KEYS_AHEAD: usize = 256;

/// A listing that runs, and the items that it read ahead.
struct Items<T> {
    listing: Option<(mpsc::Receiver<Result<T>>, JoinHandle<()>)>,
    ready: std::vec::IntoIter<Result<T>>,
    opened_on: Option<tokio::runtime::Id>,
}

impl<T: Send + 'static> Iterator for Items<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(item) = self.ready.next() {
            return Some(item);
        }
        let (mut receive, task) = self.listing.take()?;
        let more = async move {
            let mut items = Vec::new();
            if receive.recv_many(&mut items, KEYS_AHEAD).await > 0 {
                return (items, Some((receive, task)));
            }
            // A listing that panics must not look complete.
            let end = task.await.err().map(|_| Err(Error::new(ErrorKind::Other, "the listing panicked")));
            (Vec::from_iter(end), None)
        };
        let (items, listing) = wait(self.opened_on, more).unwrap_or_else(|e| (vec![Err(e)], None));
        (self.ready, self.listing) = (items.into_iter(), listing);
        self.ready.next()
    }
}

/// How long a call waits on the only thread of the connector's runtime. An answer that needs that thread never comes. An
/// answer from another thread, such as a file's, comes sooner.
const SINGLE_THREAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a future to its end, on any thread. `opened_on` is the single-threaded runtime that the connector was opened on, if any.
fn wait<T: Send + 'static>(
    opened_on: Option<tokio::runtime::Id>,
    future: impl Future<Output = T> + Send + 'static,
) -> Result<T> {
    let here = Handle::try_current().ok();
    let runtime = runtime::handle()?;
    let future = AssertUnwindSafe(future).catch_unwind();
    let mut future: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(future);
    let panicked = |_| Error::new(ErrorKind::Other, "the call panicked");
    {
        // Saves two wake-ups for an answer that is ready at once, such as a chunk in memory.
        let _inside = runtime.enter();
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value.map_err(panicked);
        }
    }
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    // The runtime polls it again, which registers the runtime's waker.
    runtime.spawn(async move {
        let _ = send.send(future.await);
    });
    let received = match here {
        // The call may need other tasks of this thread, so they move to another thread.
        Some(here) if here.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(|| receive.recv()).map_err(drop)
        }
        Some(here) if opened_on == Some(here.id()) => match receive.recv_timeout(SINGLE_THREAD_TIMEOUT) {
            Err(RecvTimeoutError::Timeout) => return Err(waits_for_itself()),
            received => received.map_err(drop),
        },
        _ => receive.recv().map_err(drop),
    };
    let closed = |()| Error::new(ErrorKind::Closed, "the call was cut off: kvconn's runtime was shut down");
    received.map_err(closed)?.map_err(panicked)
}

#[cold]
fn waits_for_itself() -> Error {
    let message = format!(
        "no answer within {SINGLE_THREAD_TIMEOUT:?}: the calling thread is the only one of the connector's runtime"
    );
    Error::new(ErrorKind::Timeout, message)
        .with_hint("open the connector with `open_blocking`, or call it from another thread")
}

impl Connector {
    /// The same connector for callers without async.
    pub fn blocking(&self) -> BlockingConnector {
        BlockingConnector(self.clone())
    }
}

impl ContextBuilder {
    /// Opens the connector for callers without async, on kvconn's own runtime.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_blocking(self) -> Result<BlockingConnector> {
        let ctx = self.handle(runtime::handle()?.clone()).build()?;
        wait(None, ctx.open())?.map(BlockingConnector)
    }
}

/// The methods of a `BlockingConnector`, by the shape of their operation.
macro_rules! blocking {
    ($($shape:ident $op:ident $name:ident($($args:tt)*) -> $out:ty;)*) => {
        $(blocking_one! { $shape $op $name($($args)*) -> $out })*
    };
}

macro_rules! blocking_one {
    // These move the caller's memory: see below.
    (into $($rest:tt)*) => {};
    (batch_into $($rest:tt)*) => {};
    (batch $op:ident $name:ident($items:ident: & $l:lifetime $ty:ty) -> $out:ty) => {
        #[doc = concat!("As [`Connector::", stringify!($name), "`].")]
        pub fn $name(&self, $items: &$ty) -> $out {
            let (this, owned) = (self.0.clone(), $items.to_owned());
            let answers = self.run(Operation::$op, async move { this.$name(&owned).await });
            answers.unwrap_or_else(|e| $items.iter().map(|_| Err(e.clone())).collect())
        }
    };
    ($shape:ident $op:ident $name:ident($($key:ident: & $l:lifetime $ty:ty $(, $more:ident: $m:ty)*)?) -> $out:ty) => {
        #[doc = concat!("As [`Connector::", stringify!($name), "`].\n\n# Errors\nAs there.")]
        pub fn $name(&self $(, $key: &$ty $(, $more: $m)*)?) -> $out {
            let this = self.0.clone();
            $(let $key = $key.to_owned();)?
            self.run(Operation::$op, async move { this.$name($(&$key $(, $more)*)?).await })?
        }
    };
}

impl BlockingConnector {
    /// The async handle.
    pub fn connector(&self) -> &Connector {
        &self.0
    }

    operations!(blocking '_);

    /// As [`Connector::get_into`]. A call that panics leaves `dst` [taken](MemoryObjMut::is_taken).
    ///
    /// # Errors
    /// As there.
    pub fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let (this, key, mut memory) = (self.0.clone(), key.clone(), dst.take());
        let (memory, answer) = self.run(Operation::GetInto, async move {
            let answer = this.get_into(&key, &mut memory).await;
            (memory, answer)
        })?;
        *dst = memory;
        answer
    }

    /// As [`Connector::list`]. Reads a few hundred keys ahead; drop the iterator to end the listing.
    pub fn list(&self, prefix: &str) -> impl Iterator<Item = Result<CacheKey>> + Send + use<> {
        self.items(prefix, |store, prefix| store.list(prefix))
    }

    /// As [`Connector::list_entries`]. Reads a few hundred keys ahead; drop the iterator to end the listing.
    pub fn list_entries(&self, prefix: &str) -> impl Iterator<Item = Result<ListEntry>> + Send + use<> {
        self.items(prefix, |store, prefix| store.list_entries(prefix))
    }

    /// As [`Connector::list_page`].
    ///
    /// # Errors
    /// As there.
    pub fn list_page(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<ListPage> {
        let (this, prefix, after) = (self.0.clone(), prefix.to_owned(), after.map(str::to_owned));
        let page = async move { this.list_page(&prefix, after.as_deref(), limit).await };
        self.run(Operation::ListEntries, page)?
    }

    fn items<T: Send + 'static>(
        &self,
        prefix: &str,
        list: for<'a> fn(&'a Connector, &'a str) -> BoxStream<'a, Result<T>>,
    ) -> Items<T> {
        let (this, prefix) = (self.0.clone(), prefix.to_owned());
        let (send, receive) = mpsc::channel(KEYS_AHEAD);
        let listing = async move {
            let mut items = list(&this, &prefix);
            // Ends the listing when its caller drops the iterator, even if the store does not send a key.
            while let Either::Left((Some(item), _)) = select(items.next(), pin!(send.closed())).await {
                if send.send(item).await.is_err() {
                    return;
                }
            }
        };
        let (listing, error) = match runtime::handle() {
            Ok(runtime) => (Some((receive, runtime.spawn(listing))), None),
            Err(e) => (None, Some(Err(e))),
        };
        Items { listing, ready: Vec::from_iter(error).into_iter(), opened_on: self.0.opened_on() }
    }

    /// As [`Connector::batched_get_into`]. A call that panics leaves the destinations
    /// [taken](MemoryObjMut::is_taken).
    pub fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let this = self.0.clone();
        let mut taken: Vec<_> = requests.iter_mut().map(|(key, dst)| (key.clone(), dst.take())).collect();
        let done = self.run(Operation::BatchedGetInto, async move {
            let answers = this.batched_get_into(&mut taken).await;
            (taken, answers)
        });
        match done {
            Ok((back, answers)) => {
                for ((_, dst), (_, memory)) in requests.iter_mut().zip(back) {
                    *dst = memory;
                }
                answers
            }
            Err(e) => requests.iter().map(|_| Err(e.clone())).collect(),
        }
    }

    /// Runs a call to its end. The error of a call that was cut off names the operation.
    fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        wait(self.0.opened_on(), call).map_err(|e| e.with_operation(operation.as_str()).with_connector(self.0.name()))
    }
}
