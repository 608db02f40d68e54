//! The traits that an author implements.

use std::future::Future;

use futures::stream::{self, BoxStream, FuturesOrdered, StreamExt, TryStreamExt};

use super::{Capabilities, Diagnosis, ListEntry, ServerInfo, count_run, leading_run};
use crate::chunk::{MemoryObj, MemoryObjMut};
use crate::context::ConnectorContext;
use crate::key::CacheKey;
use crate::{Error, Result};

/// Answers in order, with [`Capabilities::batch_concurrency`] calls in flight. A macro, because the compiler does not see that
/// the whole future is `Send` if a closure gives futures that borrow its argument.
macro_rules! at_once {
    ($this:expr, $items:expr, |$item:pat_param| $call:expr) => {
        async move {
            let at_once = $this.capabilities().batch_concurrency.max(1);
            let mut items = $items;
            let mut answers = Vec::with_capacity(items.len());
            let mut running = FuturesOrdered::new();
            loop {
                while running.len() < at_once {
                    match items.next() {
                        Some($item) => running.push_back($call),
                        None => break,
                    }
                }
                match running.next().await {
                    Some(answer) => answers.push(answer),
                    None => break answers,
                }
            }
        }
    };
}

/// A store of KV-cache chunks. Authors implement it.
///
/// Three methods are required; write them as plain `async fn`. Callers hold a [`Connector`](crate::Connector), which
/// adds what every store needs: it refuses calls after `close`, and puts operation, key and connector into errors.
///
/// # Contract
/// - `get` after `put` gives the same bytes, and the same shape, dtype and format where the store keeps them
///   ([`keeps_layout`](Capabilities::keeps_layout)). A miss is `None`, never an error. A value that is short, torn or
///   unreadable is the error [`Corrupt`](crate::ErrorKind::Corrupt), never a chunk.
/// - `put` replaces. Two puts of one key leave one of the two values, whole, unless the store [puts in
///   parts](Capabilities::puts_in_parts). A put that failed leaves the old value or none.
/// - A put drops its chunk when its work ends, because the chunk may be a view of the caller's pool. A store in memory copies.
/// - A put keeps exactly `chunk.len()` bytes. The chunk may be larger than the engine's metadata says, have several groups, and
///   have another length than its shape and dtype. `docs/connector/contract.md` says what a store must keep.
/// - A put refuses a chunk that a get could not give back.
/// - Every future and stream is polled inside a tokio runtime with time and I/O enabled, so any method may use
///   tokio's timers and sockets. Two polls may happen in two runtimes, so start background work on
///   [`ConnectorContext::handle`]. A drop may happen on any thread, also outside a runtime.
/// - Every future may be dropped at any await: nothing leaks, and the next call works. Work that outlives its future
///   owns the memory it works on (see [`MemoryObjMut::take`]).
/// - A lost server is an error within the timeout, never a hang. The same connector works again when the server is back.
/// - An operation that the store cannot do is `Unsupported`, and [`capabilities`](Self::capabilities) says so.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a connector: `RemoteConnector` is not implemented for it",
    label = "this struct is registered with `#[external_connector]`",
    note = "write `impl RemoteConnector for {Self} {{ .. }}` with `exists`, `get` and `put`"
)]
pub trait RemoteConnector: Send + Sync + 'static {
    /// Whether the key's chunk is stored and can be read.
    fn exists(&self, key: &CacheKey) -> impl Future<Output = Result<bool>> + Send;

    /// The key's chunk, or `None` if it is not stored.
    ///
    /// Memory comes from the context's [`LocalCpuBackend`](crate::LocalCpuBackend), if the store reads into memory at all.
    fn get(&self, key: &CacheKey) -> impl Future<Output = Result<Option<MemoryObj>>> + Send;

    /// Stores the chunk under the key, replacing what was there.
    fn put(&self, key: &CacheKey, chunk: MemoryObj) -> impl Future<Output = Result<()>> + Send;

    /// The operations and limits of this store beyond the three required methods.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// Reads the chunk into the caller's memory and gives its length in bytes; `None` if it is not stored.
    ///
    /// `dst` then has the chunk's layout and length; its capacity stays. A chunk longer than the capacity is
    /// [`SizeMismatch`](crate::ErrorKind::SizeMismatch) and says both sizes. After a miss or an error the memory is
    /// back in `dst`, its bytes unspecified. A dropped future, a panic or a runtime that shuts down may leave `dst`
    /// [taken](MemoryObjMut::is_taken). The memory then returns to its owner when the I/O has ended. In a store with
    /// [`exact_length`](Capabilities::exact_length), a chunk of another length than `dst` is a miss.
    ///
    /// The default calls `get` and copies.
    fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> impl Future<Output = Result<Option<usize>>> + Send {
        async move {
            let Some(chunk) = self.get(key).await? else { return Ok(None) };
            dst.set_layout(chunk.layout().clone())?;
            dst.copy_from_slice(&chunk);
            Ok(Some(chunk.len()))
        }
    }

    /// Removes the chunk. `true` if it was stored.
    fn remove(&self, key: &CacheKey) -> impl Future<Output = Result<bool>> + Send {
        let _ = key;
        async { Err(Error::unsupported("remove")) }
    }

    /// All keys whose text starts with `prefix`, in no order. A key that is put or removed during the listing may be in it.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        let _ = prefix;
        stream::once(async { Err(Error::unsupported("list")) }).boxed()
    }

    /// As [`list`](Self::list), with the size and the time of each chunk. A store leaves out a size or time that would cost
    /// more than one further call a page. A chunk that vanishes during the listing is left out. The default gives `list`
    /// alone.
    fn list_entries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        self.list(prefix).map_ok(ListEntry::new).boxed()
    }

    /// Checks that the store answers. An empty store that could be used answers.
    fn ping(&self) -> impl Future<Output = Result<()>> + Send {
        async { Err(Error::unsupported("ping")) }
    }

    /// The servers of the store, and what each answers. Empty for a store without servers, which is the default.
    ///
    /// A server that does not answer is in the list with its [error](ServerInfo::error), and is not an error of the call.
    /// The list is made for people and monitoring: a call may ask every server, and its cost does not matter.
    fn servers(&self) -> impl Future<Output = Result<Vec<ServerInfo>>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Facts about the store that an operator should know: its settings, its free room, its servers' state. Empty unless the
    /// connector looks for them. The list is made for people, so its cost does not matter. It changes nothing in the store.
    ///
    /// A fact that the store cannot find out is left out, or is a line that says so, and is not an error of the call.
    fn diagnose(&self) -> impl Future<Output = Result<Vec<Diagnosis>>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Ends connections and background work, after the work in flight. The handle refuses later calls; it calls this again
    /// only if it failed, or its future was dropped.
    fn close(&self) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// `exists` of each key, in the order asked. The default runs [`batch_concurrency`](Capabilities::batch_concurrency) calls at
    /// once, as do the other default batches.
    fn batched_exists(&self, keys: &[CacheKey]) -> impl Future<Output = Vec<Result<bool>>> + Send {
        at_once!(self, keys.iter(), |key| self.exists(key))
    }

    /// The length of the leading run of keys that exist, as an engine needs it for a prefix.
    ///
    /// An error counts as the end of the run, unless it is the first key's. The default asks `batched_exists` for [growing
    /// parts](count_run) of the keys, so a long batch stops soon after its first miss.
    fn batched_contains(&self, keys: &[CacheKey]) -> impl Future<Output = Result<usize>> + Send {
        count_run(keys, |part| self.batched_exists(part))
    }

    /// `get` of each key, in the order asked.
    ///
    /// The default takes the memory of one chunk after the other. A store whose chunks are read into the
    /// [`LocalCpuBackend`](crate::LocalCpuBackend) [reserves](crate::LocalCpuBackend::reserve) the batch's memory
    /// instead. Two batches that each hold a part of their memory would wait for each other.
    fn batched_get(&self, keys: &[CacheKey]) -> impl Future<Output = Vec<Result<Option<MemoryObj>>>> + Send {
        at_once!(self, keys.iter(), |key| self.get(key))
    }

    /// `get_into` of each pair, in the order asked.
    fn batched_get_into(
        &self,
        requests: &mut [(CacheKey, MemoryObjMut)],
    ) -> impl Future<Output = Vec<Result<Option<usize>>>> + Send {
        at_once!(self, requests.iter_mut(), |(key, dst)| self.get_into(key, dst))
    }

    /// `put` of each pair, answered in the order given.
    ///
    /// Of two pairs with one key, either may be left.
    fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> impl Future<Output = Vec<Result<()>>> + Send {
        at_once!(self, items.iter(), |(key, chunk)| self.put(key, chunk.clone()))
    }

    /// `remove` of each key, in the order asked.
    fn batched_remove(&self, keys: &[CacheKey]) -> impl Future<Output = Vec<Result<bool>>> + Send {
        at_once!(self, keys.iter(), |key| self.remove(key))
    }

    /// The chunks of the leading run: those before the first key that is missing, corrupt or an error.
    ///
    /// Fails with the first key's error. The default asks `batched_contains` for the length of the run, and then reads the
    /// run with `batched_get`. So a call reserves memory only for chunks that are there.
    fn get_prefix(&self, keys: &[CacheKey]) -> impl Future<Output = Result<Vec<MemoryObj>>> + Send {
        async move {
            match self.batched_contains(keys).await? {
                0 => Ok(Vec::new()),
                run => leading_run(self.batched_get(&keys[..run.min(keys.len())]).await),
            }
        }
    }
}

/// How a connector is made from a URL.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be made from a URL: `FromContext` is not implemented for it",
    label = "this struct is registered with `#[external_connector]`",
    note = "write `impl FromContext for {Self} {{ async fn from_context(ctx: ConnectorContext) -> Result<Self> {{ .. }} }}`"
)]
pub trait FromContext: Sized {
    /// Makes the connector: reads its options, connects or checks that it could. If [`ConnectorContext::connect`] is
    /// `Lazy`, a server that does not answer within a second is a warning, and a wrong answer is still an error.
    ///
    /// # Errors
    /// The reason why the connector cannot work, as one sentence that says what to change.
    fn from_context(ctx: ConnectorContext) -> impl Future<Output = Result<Self>> + Send;
}
