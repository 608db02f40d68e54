use std::collections::HashSet;
use std::sync::Arc;

use connector_core::connector::Gate;
use connector_core::{
    BoxStream, CacheKey, Capabilities, ConnectorContext, Error, ErrorKind, FromContext, MemoryObj, MemoryObjMut,
    RemoteConnector, Result, external_connector,
};
use futures::stream::{self, FuturesOrdered, StreamExt};

use super::buffer::Buffer;
use super::tiers::{Tiers, to_all};
use super::{TieredOptions, WriteMode, writer};

/// A bounded store near by in front of a store far away.
///
/// Reads come from the front, or from the back, once for all who ask, and are kept in the front. Puts go to the back at
/// once (`write_through`) or in the background (`write_back`).
#[external_connector(module = "kvconn.tiered", name = "TieredConnector", scheme = "tiered", options = TieredOptions)]
pub struct TieredConnector {
    tiers: Arc<Tiers>,
}

/// How many puts of a batch wait for the buffer at once.
const AT_ONCE: usize = 8;

impl FromContext for TieredConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: TieredOptions = ctx.options()?;
        let (front, back) = options.urls(&ctx)?;
        let buffer = (options.mode == WriteMode::WriteBack).then(|| Buffer::new(options.write_back_bytes));
        let shown = front.to_string();
        let front = ctx.open_behind(front).await.map_err(|e| e.at("option `front`"))?;
        if !front.capabilities().remove {
            return Err(Error::new(
                ErrorKind::InvalidOption,
                format!("option `front`: `{shown}` cannot remove a chunk"),
            )
            .with_hint("a store in front must be able to drop what was replaced in the store behind"));
        }
        let back = ctx.open_behind(back).await.map_err(|e| e.at("option `back`"))?;
        let (keys, handle, gate) = (Arc::default(), ctx.handle().clone(), Gate::new());
        Ok(Self { tiers: Arc::new(Tiers { front, back, keys, buffer, handle, gate }) })
    }
}

impl Drop for TieredConnector {
    /// Writers go on with what waits, but do not try for ever for a connector that is gone.
    fn drop(&mut self) {
        if let Some(buffer) = &self.tiers.buffer {
            buffer.end();
        }
    }
}

impl TieredConnector {
    /// Whether a whole batch may go to the front as it is.
    fn trusts_front<'k>(&self, mut keys: impl Iterator<Item = &'k CacheKey>) -> bool {
        keys.all(|key| self.tiers.keys.trusts_front(key))
    }

    /// A front hit straight into the caller's memory.
    async fn front_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        if !self.tiers.keys.trusts_front(key) {
            return Ok(None);
        }
        self.fallen(self.tiers.front.get_into(key, dst).await, dst)
    }

    /// What the front failed to read into `dst` is read from the back, unless that cannot be right either.
    fn fallen(&self, answer: Result<Option<usize>>, dst: &MemoryObjMut) -> Result<Option<usize>> {
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

fn copy_into(answer: Result<Option<MemoryObj>>, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
    let Some(chunk) = answer? else { return Ok(None) };
    dst.set_layout(chunk.layout().clone())?;
    dst.copy_from_slice(&chunk);
    Ok(Some(chunk.len()))
}

#[deny(clippy::missing_trait_methods, reason = "a method that is not forwarded would pass over the stores' own")]
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
            Some(buffer) => self.tiers.put_later(buffer, key, chunk).await,
            None => self.tiers.put_through(key, chunk).await,
        }
    }

    /// The weaker of the two where it matters which store a chunk comes from; otherwise the back's.
    fn capabilities(&self) -> Capabilities {
        let front = self.tiers.front.capabilities();
        let mut can = self.tiers.back.capabilities();
        can.keeps_layout &= front.keeps_layout;
        can.raw_object_keys |= front.raw_object_keys;
        if let Some(buffer) = &self.tiers.buffer {
            can.max_chunk_bytes = Some(can.max_chunk_bytes.unwrap_or(u64::MAX).min(buffer.capacity()));
        }
        can
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        if let Some(n) = self.front_into(key, dst).await? {
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

    /// What is in the back, what waits for it, and what only the front has.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        let tiers = &self.tiers;
        if !tiers.back.capabilities().list {
            return tiers.back.list(prefix);
        }
        let near = async move {
            let mut near: HashSet<CacheKey> = tiers.buffer.iter().flat_map(|b| b.keys(prefix)).collect();
            if tiers.front.capabilities().list {
                let mut keys = tiers.front.list(prefix);
                while let Some(item) = keys.next().await {
                    match item {
                        Ok(key) if tiers.keys.trusts_front(&key) => {
                            near.insert(key);
                        }
                        Ok(_) => {}
                        Err(e) => tiers.front_failed("list", &e),
                    }
                }
            }
            let listed: Vec<Result<CacheKey>> = near.iter().cloned().map(Ok).collect();
            let far = tiers.back.list(prefix);
            let far = far.filter(move |item| std::future::ready(item.as_ref().map_or(true, |key| !near.contains(key))));
            stream::iter(listed).chain(far)
        };
        stream::once(near).flatten().boxed()
    }

    /// The back's answer. A front that is not there is logged: everything still works.
    async fn ping(&self) -> Result<()> {
        if self.tiers.front.capabilities().ping
            && let Err(e) = self.tiers.front.ping().await
        {
            self.tiers.front_failed("ping", &e);
        }
        self.tiers.back.ping().await
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
        back
    }

    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let tiers = &self.tiers;
        let trusted: Vec<CacheKey> = keys.iter().filter(|key| tiers.keys.trusts_front(key)).cloned().collect();
        let mut near = HashSet::new();
        if !trusted.is_empty() {
            let answers = match &trusted[..] {
                [key] => vec![tiers.front.exists(key).await],
                keys => tiers.front.batched_exists(keys).await,
            };
            for (key, answer) in trusted.iter().zip(answers) {
                match answer {
                    Ok(true) => {
                        near.insert(key);
                    }
                    Ok(false) => {}
                    Err(e) => tiers.front_failed("exists", &e),
                }
            }
        }
        let is_near = |key: &CacheKey| near.contains(key) || tiers.buffered(key).is_some();
        let there: Vec<bool> = keys.iter().map(is_near).collect();
        let missing: Vec<CacheKey> = keys.iter().zip(&there).filter(|(_, t)| !**t).map(|(k, _)| k.clone()).collect();
        let mut far = match &missing[..] {
            [] => Vec::new(),
            [key] => vec![tiers.back.exists(key).await],
            keys => tiers.back.batched_exists(keys).await,
        }
        .into_iter();
        let answer = |near| if near { Ok(true) } else { tiers.behind(far.next().unwrap_or(Ok(false))) };
        there.into_iter().map(answer).collect()
    }

    async fn batched_contains(&self, keys: &[CacheKey]) -> Result<usize> {
        for (n, answer) in self.batched_exists(keys).await.into_iter().enumerate() {
            match answer {
                Ok(true) => {}
                Err(e) if n == 0 => return Err(e),
                Ok(false) | Err(_) => return Ok(n),
            }
        }
        Ok(keys.len())
    }

    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let found = self.tiers.front_batch(keys).await;
        let missing: Vec<&CacheKey> = keys.iter().zip(&found).filter(|(_, c)| c.is_none()).map(|(k, _)| k).collect();
        let mut far = self.tiers.read(&missing).await.into_iter();
        found.into_iter().map(|chunk| chunk.map_or_else(|| far.next().unwrap_or(Ok(None)), |c| Ok(Some(c)))).collect()
    }

    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let mut answers: Vec<Result<Option<usize>>> = requests.iter().map(|_| Ok(None)).collect();
        // A batch with a key that the front may have wrong passes the front by; the reads below ask it where it is right.
        if self.trusts_front(requests.iter().map(|(key, _)| key)) {
            let found = self.tiers.front.batched_get_into(requests).await;
            answers = found.into_iter().zip(&*requests).map(|(n, (_, dst))| self.fallen(n, dst)).collect();
        }
        let open = |answer: &Result<Option<usize>>| matches!(answer, Ok(None));
        let missing: Vec<CacheKey> =
            requests.iter().zip(&answers).filter(|(_, a)| open(a)).map(|((key, _), _)| key.clone()).collect();
        let mut far = self.tiers.read(&missing.iter().collect::<Vec<_>>()).await.into_iter();
        for (answer, (_, dst)) in answers.iter_mut().zip(requests) {
            if open(answer) {
                *answer = copy_into(far.next().unwrap_or(Ok(None)), dst);
            }
        }
        answers
    }

    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let Some(buffer) = &self.tiers.buffer else { return self.tiers.put_all_through(items).await };
        let mut items = items.iter();
        let (mut running, mut answers) = (FuturesOrdered::new(), Vec::with_capacity(items.len()));
        loop {
            while running.len() < AT_ONCE {
                let Some((key, chunk)) = items.next() else { break };
                running.push_back(self.tiers.put_later(buffer, key, chunk.clone()));
            }
            match running.next().await {
                Some(answer) => answers.push(answer),
                None => return answers,
            }
        }
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        if !self.tiers.back.capabilities().remove {
            return to_all(&Error::unsupported("batched_remove"), keys.len());
        }
        let mut answers = Vec::with_capacity(keys.len());
        for key in keys {
            answers.push(self.tiers.remove(key).await);
        }
        answers
    }
}
