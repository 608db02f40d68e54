//! The same operations for callers without async.

use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use futures::stream::StreamExt;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Capabilities, Connector};
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::context::ContextBuilder;
use crate::key::CacheKey;
use crate::{Error, ErrorKind, Result};

/// A [`Connector`] whose operations return when they are done. Made by [`Connector::blocking`] or
/// [`ContextBuilder::open_blocking`]; cheap to clone.
///
/// Every operation may be called on any thread, also inside an async task: it is tried on the calling thread, and if it has to
/// wait, it goes on on a runtime that has a thread of its own. Inside a task it still keeps that task's thread from
/// other work.
///
/// A connector that was opened on somebody's runtime may need that runtime to answer (its sockets live there). Where its only
/// thread is the one that waits here, nothing would ever come: so a program without async opens its stores with
/// [`open_blocking`](ContextBuilder::open_blocking), which puts all of it on the runtime of its own.
///
/// ```
/// # use connector_core::{BlockingConnector, CacheKey, Result};
/// fn lookup(connector: &BlockingConnector, key: &CacheKey) -> Result<usize> {
///     Ok(connector.get(key)?.map_or(0, |chunk| chunk.len()))
/// }
/// ```
#[derive(Debug, Clone)]
pub struct BlockingConnector(Connector);

static RUNTIME: LazyLock<Result<Runtime>> = LazyLock::new(|| {
    let built = Builder::new_multi_thread().worker_threads(1).thread_name("kvconn-blocking").enable_all().build();
    built.map_err(|e| Error::io(e, "start a thread for blocking calls"))
});

fn runtime() -> Result<&'static Handle> {
    RUNTIME.as_ref().map(Runtime::handle).map_err(Error::again)
}

/// How many keys a listing reads ahead of its caller.
const KEYS_AHEAD: usize = 256;

/// A listing that runs, and what came of it but was not asked for yet.
struct Keys {
    listing: Option<(mpsc::Receiver<Result<CacheKey>>, JoinHandle<()>)>,
    ready: std::vec::IntoIter<Result<CacheKey>>,
}

impl Iterator for Keys {
    type Item = Result<CacheKey>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(key) = self.ready.next() {
            return Some(key);
        }
        let (mut receive, task) = self.listing.take()?;
        let more = async move {
            let mut keys = Vec::new();
            if receive.recv_many(&mut keys, KEYS_AHEAD).await > 0 {
                return (keys, Some((receive, task)));
            }
            // A listing that just stops would pass for a whole one.
            let end = task.await.err().map(|_| Err(Error::new(ErrorKind::Other, "the listing panicked")));
            (Vec::from_iter(end), None)
        };
        let (keys, listing) = wait(more).unwrap_or_else(|e| (vec![Err(e)], None));
        (self.ready, self.listing) = (keys.into_iter(), listing);
        self.ready.next()
    }
}

/// Runs a future to its end, wherever this thread is.
fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Result<T> {
    let runtime = runtime()?;
    let mut future: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(future);
    {
        // What is ready at once (a chunk in memory, a file in the page cache) needs no other thread: two wake-ups are saved.
        let _inside = runtime.enter();
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Ok(value);
        }
    }
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    // Polled there again from the start of its wait, so that it wakes that runtime.
    runtime.spawn(async move {
        let _ = send.send(future.await);
    });
    receive.recv().map_err(|_| Error::new(ErrorKind::Other, "the call panicked"))
}

impl Connector {
    /// The same connector for callers without async.
    pub fn blocking(&self) -> BlockingConnector {
        BlockingConnector(self.clone())
    }
}

impl ContextBuilder {
    /// Opens the connector for callers without async, on a runtime with a thread of its own.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_blocking(self) -> Result<BlockingConnector> {
        let ctx = self.handle(runtime()?.clone()).build()?;
        wait(ctx.open())?.map(BlockingConnector)
    }
}

impl BlockingConnector {
    /// Opens the store that `url` names: [`create_connector`](crate::create_connector) for callers without async.
    ///
    /// # Errors
    /// As [`ConnectorManager::create_connector`](crate::ConnectorManager::create_connector).
    pub fn open(url: &str) -> Result<Self> {
        crate::ConnectorManager::builder(url).open_blocking()
    }

    /// The async handle.
    pub fn connector(&self) -> &Connector {
        &self.0
    }

    /// What this store can do beyond `exists`, `get` and `put`.
    pub fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    /// As [`Connector::exists`].
    ///
    /// # Errors
    /// As there.
    pub fn exists(&self, key: &CacheKey) -> Result<bool> {
        let (this, key) = (self.0.clone(), key.clone());
        wait(async move { this.exists(&key).await })?
    }

    /// As [`Connector::get`].
    ///
    /// # Errors
    /// As there.
    pub fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let (this, key) = (self.0.clone(), key.clone());
        wait(async move { this.get(&key).await })?
    }

    /// As [`Connector::put`].
    ///
    /// # Errors
    /// As there.
    pub fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let (this, key) = (self.0.clone(), key.clone());
        wait(async move { this.put(&key, chunk).await })?
    }

    /// As [`Connector::get_into`]. Should the call panic, `dst` is left [taken](MemoryObjMut::is_taken).
    ///
    /// # Errors
    /// As there.
    pub fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let (this, key, mut memory) = (self.0.clone(), key.clone(), dst.take());
        let (memory, answer) = wait(async move {
            let answer = this.get_into(&key, &mut memory).await;
            (memory, answer)
        })?;
        *dst = memory;
        answer
    }

    /// As [`Connector::remove`].
    ///
    /// # Errors
    /// As there.
    pub fn remove(&self, key: &CacheKey) -> Result<bool> {
        let (this, key) = (self.0.clone(), key.clone());
        wait(async move { this.remove(&key).await })?
    }

    /// As [`Connector::list`]. Reads a few hundred keys ahead; drop the iterator to end the listing.
    pub fn list(&self, prefix: &str) -> impl Iterator<Item = Result<CacheKey>> + Send + use<> {
        let (this, prefix) = (self.0.clone(), prefix.to_owned());
        let (send, receive) = mpsc::channel(KEYS_AHEAD);
        let listing = async move {
            let mut keys = this.list(&prefix);
            while let Some(key) = keys.next().await {
                if send.send(key).await.is_err() {
                    return;
                }
            }
        };
        let (listing, error) = match runtime() {
            Ok(runtime) => (Some((receive, runtime.spawn(listing))), None),
            Err(e) => (None, Some(Err(e))),
        };
        Keys { listing, ready: Vec::from_iter(error).into_iter() }
    }

    /// As [`Connector::ping`].
    ///
    /// # Errors
    /// As there.
    pub fn ping(&self) -> Result<()> {
        let this = self.0.clone();
        wait(async move { this.ping().await })?
    }

    /// As [`Connector::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(&self) -> Result<()> {
        let this = self.0.clone();
        wait(async move { this.close().await })?
    }

    /// As [`Connector::batched_exists`].
    pub fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.batch(keys, |this, keys| async move { this.batched_exists(&keys).await })
    }

    /// As [`Connector::batched_contains`].
    ///
    /// # Errors
    /// As there.
    pub fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        let (this, keys) = (self.0.clone(), keys.to_vec());
        wait(async move { this.batched_contains(&keys).await })?
    }

    /// As [`Connector::batched_get`].
    pub fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        self.batch(keys, |this, keys| async move { this.batched_get(&keys).await })
    }

    /// As [`Connector::batched_get_into`]. Should the call panic, the destinations are left
    /// [taken](MemoryObjMut::is_taken).
    pub fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let this = self.0.clone();
        let mut taken: Vec<_> = requests.iter_mut().map(|(key, dst)| (key.clone(), dst.take())).collect();
        let done = wait(async move {
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
            Err(e) => requests.iter().map(|_| Err(e.again())).collect(),
        }
    }

    /// As [`Connector::batched_put`].
    pub fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        self.batch(items, |this, items| async move { this.batched_put(&items).await })
    }

    /// As [`Connector::batched_remove`].
    pub fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.batch(keys, |this, keys| async move { this.batched_remove(&keys).await })
    }

    fn batch<I: Clone, T: Send + 'static, F>(
        &self,
        items: &[I],
        ask: impl FnOnce(Connector, Vec<I>) -> F,
    ) -> Vec<Result<T>>
    where
        F: Future<Output = Vec<Result<T>>> + Send + 'static,
    {
        let answers = wait(ask(self.0.clone(), items.to_vec()));
        answers.unwrap_or_else(|e| items.iter().map(|_| Err(e.again())).collect())
    }
}
