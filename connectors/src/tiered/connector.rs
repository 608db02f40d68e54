use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connector_core::connector::{Gate, count_run, leading_run};
use connector_core::{
    BoxStream, CacheKey, Capabilities, Connector, ConnectorContext, Diagnosis, Error, ErrorKind, FromContext,
    ListEntry, MemoryObj, MemoryObjMut, RemoteConnector, Result, ServerInfo, external_connector, runtime,
};
use futures::future::{join, ready};
use futures::stream::{self, StreamExt};

use super::buffer::Buffer;
use super::tiers::{Tiers, same_error};
use super::{TieredOptions, WriteMode, writer};
use crate::seen::Seen;

/// A small and fast store (`front`) before a large and slow one (`back`).
///
/// URL: `tiered://?front=URL&back=URL`, with both URLs percent-encoded.
///
/// Reads ask the front, and then the back. Concurrent reads of one key share one read of the back, which fills the
/// front. Puts write to the back before they end (`write_through`) or in the background (`write_back`).
#[external_connector(
    module = "kvconn.tiered",
    name = "TieredConnector",
    scheme = "tiered",
    url = "tiered://?front=memory://name&back=fs:///var/cache/kv",
    url = "tiered://host:0?front=memory://name&back=fs:///var/cache/kv",
    options = TieredOptions
)]
pub struct TieredConnector {
    tiers: Arc<Tiers>,
}

/// The number of puts of a batch that run concurrently.
const PUT_CONCURRENCY: usize = 8;

impl FromContext for TieredConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: TieredOptions = ctx.options()?;
        let (front, back) = options.urls(&ctx)?;
        let buffer = (options.mode == WriteMode::WriteBack).then(|| Buffer::new(options.write_back_bytes));
        let shown = front.to_string();
        let (front, back) = join(ctx.open_behind(front), ctx.open_behind(back)).await;
        let front = front.map_err(|e| e.at("option `front`"))?;
        if !front.capabilities().remove {
            return Err(Error::new(
                ErrorKind::InvalidOption,
                format!("option `front`: `{shown}` cannot remove a chunk"),
            )
            .with_hint("the front store must be able to remove a chunk that a put replaces"));
        }
        let back = back.map_err(|e| e.at("option `back`"))?;
        let (keys, handle, gate) = (Arc::default(), ctx.handle().clone(), Gate::default());
        let url = ctx.url().to_string();
        let backend = ctx.local_cpu_backend();
        let metadata = ctx.metadata().filter(|_| backend.waits());
        let waiting_memory = metadata.map(|metadata| (backend.clone(), metadata.chunk_layout().full.clone()));
        let tiers = Arc::new(Tiers {
            url,
            front,
            back,
            keys,
            buffer,
            handle,
            waiting_memory,
            is_reported: AtomicBool::new(false),
            gate,
        });
        if tiers.buffer.is_some() {
            let tiers = Arc::downgrade(&tiers);
            runtime::at_exit(ctx.url().to_string(), tiers);
        }
        Ok(Self { tiers })
    }
}

impl TieredConnector {
    /// Makes a failure of the front a miss, so that the call reads from the back. A chunk that does not fit into `dst`,
    /// or memory that the front has taken, stays an error.
    fn front_error_is_miss(&self, answer: Result<Option<usize>>, dst: &MemoryObjMut) -> Result<Option<usize>> {
        match answer {
            Err(e) if e.kind() == ErrorKind::SizeMismatch || dst.is_taken() => Err(e),
            Err(e) => {
                self.tiers.front_failed("get_into", &e);
                Ok(None)
            }
            found => found,
        }
    }
}

impl TieredConnector {
    /// Lists the buffer and the front, and then the chunks that only the back has.
    fn listing<'a, T: Send + 'a>(
        &'a self,
        buffered: Vec<T>,
        list: impl Fn(&'a Connector) -> BoxStream<'a, Result<T>> + Send + 'a,
        key: fn(&T) -> &CacheKey,
    ) -> BoxStream<'a, Result<T>> {
        let tiers = &self.tiers;
        if !tiers.back.capabilities().list {
            return list(&tiers.back);
        }
        fn lock(near: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
            near.lock().unwrap_or_else(PoisonError::into_inner)
        }
        let mut near = Seen::new(usize::MAX);
        for item in &buffered {
            near.insert(key(item));
        }
        let near = Arc::new(Mutex::new(near));
        let in_front = near.clone();
        let front = match tiers.front.capabilities().list {
            true => list(&tiers.front),
            false => stream::empty().boxed(),
        };
        let front = front.filter_map(move |item| {
            let item = item.inspect_err(|e| tiers.front_failed("list", e)).ok();
            let is_new = |item: &T| tiers.keys.may_ask_front(key(item)) && lock(&in_front).insert(key(item));
            ready(item.filter(is_new).map(Ok))
        });
        // Starts after the front's listing.
        let back = stream::once(async move { list(&tiers.back) }).flatten();
        let back = back.filter(move |item| ready(item.as_ref().map_or(true, |item| !lock(&near).contains(key(item)))));
        stream::iter(buffered).map(Ok).chain(front).chain(back).boxed()
    }
}

/// `exists` for each key. A single key is not a batch, which some stores serve more slowly.
async fn exists_all(store: &Connector, keys: &[CacheKey]) -> Vec<Result<bool>> {
    match keys {
        [] => Vec::new(),
        [key] => vec![store.exists(key).await],
        keys => store.batched_exists(keys).await,
    }
}

fn copy_into(answer: Result<Option<MemoryObj>>, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
    let Some(chunk) = answer? else { return Ok(None) };
    dst.set_layout(chunk.layout().clone())?;
    dst.copy_from_slice(&chunk);
    Ok(Some(chunk.len()))
}

#[deny(clippy::missing_trait_methods, reason = "a method that is not forwarded would not use the stores' own methods")]
impl RemoteConnector for TieredConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.batched_exists(std::slice::from_ref(key)).await.pop().unwrap_or(Ok(false))
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        if let Some(chunk) = self.tiers.front_get(key).await {
            return Ok(Some(chunk));
        }
        self.tiers.read(&[key]).await.pop().unwrap_or(Ok(None))
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        match &self.tiers.buffer {
            Some(buffer) => self.tiers.write_back(buffer, key, chunk).await,
            None => self.tiers.write_through(key, chunk).await,
        }
    }

    /// The back's capabilities. The layout is kept only if both stores keep it.
    fn capabilities(&self) -> Capabilities {
        let front = self.tiers.front.capabilities();
        let mut can = self.tiers.back.capabilities();
        can.keeps_layout &= front.keeps_layout;
        can.raw_object_keys |= front.raw_object_keys;
        can.puts_in_parts |= front.puts_in_parts;
        // `get_into` copies a chunk that `get` read.
        can.exact_length = false;
        if let Some(buffer) = &self.tiers.buffer {
            can.max_chunk_bytes = Some(can.max_chunk_bytes.unwrap_or(u64::MAX).min(buffer.capacity()));
        }
        can
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        if self.tiers.keys.may_ask_front(key)
            && let Some(n) = self.front_error_is_miss(self.tiers.front.get_into(key, dst).await, dst)?
        {
            return Ok(Some(n));
        }
        copy_into(self.tiers.read(&[key]).await.pop().unwrap_or(Ok(None)), dst)
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        if !self.tiers.back.capabilities().remove {
            return self.tiers.back.remove(key).await;
        }
        self.tiers.remove(key).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        let buffered = self.tiers.buffer.iter().flat_map(|b| b.entries(prefix)).map(|entry| entry.key).collect();
        self.listing(buffered, |store| store.list(prefix), |key| key)
    }

    /// A chunk has the size of its copy in the first of the buffer, the front and the back that has one.
    fn list_entries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        let buffered = self.tiers.buffer.iter().flat_map(|b| b.entries(prefix)).collect();
        self.listing(buffered, |store| store.list_entries(prefix), |entry| &entry.key)
    }

    /// Gives the back's answer. A failure of the front is only logged, because every call works without it.
    async fn ping(&self) -> Result<()> {
        if self.tiers.front.capabilities().ping
            && let Err(e) = self.tiers.front.ping().await
        {
            self.tiers.front_failed("ping", &e);
        }
        self.tiers.back.ping().await
    }

    /// The servers of both stores; the detail `tier` says which store has each.
    async fn servers(&self) -> Result<Vec<ServerInfo>> {
        let (front, back) = join(self.tiers.front.servers(), self.tiers.back.servers()).await;
        let front = front.unwrap_or_else(|e| {
            self.tiers.front_failed("servers", &e);
            Vec::new()
        });
        let front = front.into_iter().map(|server| server.with_detail("tier", "front"));
        Ok(front.chain(back?.into_iter().map(|server| server.with_detail("tier", "back"))).collect())
    }

    /// The diagnoses of both stores.
    async fn diagnose(&self) -> Result<Vec<Diagnosis>> {
        let (front, back) = join(self.tiers.front.diagnose(), self.tiers.back.diagnose()).await;
        let front = front.unwrap_or_else(|e| {
            vec![Diagnosis::warn("front", e.to_string(), "every call works without the front, but more slowly")]
        });
        let of = |tier: &'static str| move |found: Diagnosis| found.of(tier);
        Ok(front.into_iter().map(of("front")).chain(back?.into_iter().map(of("back"))).collect())
    }

    async fn close(&self) -> Result<()> {
        self.tiers.gate.close().await;
        if let Some(buffer) = &self.tiers.buffer {
            writer::flush(&self.tiers, buffer).await?;
        }
        let back = self.tiers.back.close().await;
        if let Err(e) = self.tiers.front.close().await {
            self.tiers.front_failed("close", &e);
        }
        back.and_then(|()| self.tiers.buffer.as_ref().map_or(Ok(()), Buffer::take_refused))
    }

    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let tiers = &self.tiers;
        let asked: Vec<CacheKey> = keys.iter().filter(|key| tiers.keys.may_ask_front(key)).cloned().collect();
        let mut in_front = HashSet::new();
        for (key, answer) in asked.iter().zip(exists_all(&tiers.front, &asked).await) {
            match answer {
                Ok(true) => {
                    in_front.insert(key);
                }
                Ok(false) => {}
                Err(e) => tiers.front_failed("exists", &e),
            }
        }
        let near: Vec<bool> = keys.iter().map(|key| in_front.contains(key) || tiers.buffered(key).is_some()).collect();
        let missing: Vec<CacheKey> =
            keys.iter().zip(&near).filter(|(_, near)| !**near).map(|(k, _)| k.clone()).collect();
        let mut back = exists_all(&tiers.back, &missing).await.into_iter();
        let answer = |near| if near { Ok(true) } else { tiers.back_answer(back.next().unwrap_or(Ok(false))) };
        near.into_iter().map(answer).collect()
    }

    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        count_run(keys, |part| self.batched_exists(part)).await
    }

    async fn get_prefix(&self, keys: &[CacheKey]) -> Result<Vec<MemoryObj>> {
        match self.batched_contains(keys).await? {
            0 => Ok(Vec::new()),
            run => leading_run(self.batched_get(&keys[..run]).await),
        }
    }

    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let mut found = self.tiers.front_batch(keys).await;
        if self.tiers.must_release(keys, &found) {
            found.fill(None);
        }
        let missing: Vec<&CacheKey> = keys.iter().zip(&found).filter(|(_, c)| c.is_none()).map(|(k, _)| k).collect();
        let mut read = self.tiers.read(&missing).await.into_iter();
        found.into_iter().map(|chunk| chunk.map_or_else(|| read.next().unwrap_or(Ok(None)), |c| Ok(Some(c)))).collect()
    }

    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let mut answers: Vec<Result<Option<usize>>> = requests.iter().map(|_| Ok(None)).collect();
        // A batch with a stale key cannot go to the front as it is. The reads below ask the front for its other keys.
        if requests.iter().all(|(key, _)| self.tiers.keys.may_ask_front(key)) {
            let found = self.tiers.front.batched_get_into(requests).await;
            answers = found.into_iter().zip(&*requests).map(|(n, (_, dst))| self.front_error_is_miss(n, dst)).collect();
        }
        let open = |answer: &Result<Option<usize>>| matches!(answer, Ok(None));
        let missing: Vec<CacheKey> =
            requests.iter().zip(&answers).filter(|(_, a)| open(a)).map(|((key, _), _)| key.clone()).collect();
        let mut read = self.tiers.read(&missing.iter().collect::<Vec<_>>()).await.into_iter();
        for (answer, (_, dst)) in answers.iter_mut().zip(requests) {
            if open(answer) {
                *answer = copy_into(read.next().unwrap_or(Ok(None)), dst);
            }
        }
        answers
    }

    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let Some(buffer) = &self.tiers.buffer else { return self.tiers.write_all_through(items).await };
        let put = |i: usize| self.tiers.write_back(buffer, &items[i].0, items[i].1.clone());
        stream::iter(0..items.len()).map(put).buffered(PUT_CONCURRENCY).collect().await
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        if !self.tiers.back.capabilities().remove {
            return same_error(&Error::unsupported("batched_remove"), keys.len());
        }
        match keys {
            // Some stores serve a batch of one key more slowly.
            [key] => vec![self.tiers.remove(key).await],
            keys => self.tiers.remove_all(keys).await,
        }
    }
}
