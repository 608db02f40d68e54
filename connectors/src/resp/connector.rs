use std::sync::Arc;

use connector_core::metadata::raw_layout;
use connector_core::{
    BoxStream, CacheKey, Capabilities, ChunkLayout, ConnectorContext, Error, ErrorKind, FromContext, LMCacheMetadata,
    LocalCpuBackend, MemoryObj, MemoryObjMut, RemoteConnector, Result, external_connector,
};
use futures::stream::StreamExt;

use super::{RespOptions, listing};
use crate::resp_wire::{Get, GetInto, Memory, Reply, Set, Wire, unexpected};

/// Chunks on a redis or valkey server, one plain value each.
///
/// Chunks go straight from the socket into pool memory, or the caller's, and from their memory to the socket. Other
/// operations have connections of their own, and batches go many commands at a time.
#[external_connector(module = "kvconn.resp", name = "RESPConnector", scheme = "resp", options = RespOptions)]
pub struct RESPConnector {
    wire: Wire,
    backend: LocalCpuBackend,
    metadata: Option<Arc<LMCacheMetadata>>,
}

impl FromContext for RESPConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: RespOptions = ctx.options()?;
        let wire = Wire::open(options.wire(&ctx)?, ctx.handle()).await?;
        Ok(Self { wire, backend: ctx.local_cpu_backend().clone(), metadata: ctx.metadata().cloned() })
    }
}

impl RESPConnector {
    fn layout(&self) -> impl Fn(usize) -> Result<ChunkLayout> + Send + Sync + '_ {
        |len| match len {
            0 => Err(Error::new(ErrorKind::Corrupt, "an empty value is no chunk")),
            len => raw_layout(self.metadata.as_deref(), len),
        }
    }

    fn memory(&self) -> Memory<'_, impl Fn(usize) -> Result<ChunkLayout> + Send + Sync + '_> {
        Memory { backend: &self.backend, layout: self.layout() }
    }

    /// Refuses a chunk that a get could not give back.
    fn check(&self, chunk: &MemoryObj) -> Result<()> {
        if chunk.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "a chunk of no bytes cannot be told from none"));
        }
        let limit = self.wire.options().limits.payload;
        if chunk.len() > limit {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("a chunk of {} bytes is over the limit of {limit}", chunk.len()),
            )
            .with_hint("`max_value_bytes` is the limit, redis' own is 512 MiB"));
        }
        raw_layout(self.metadata.as_deref(), chunk.len()).map(drop).map_err(|e| {
            Error::new(ErrorKind::InvalidInput, format!("a raw value could not give it back: {}", e.message()))
        })
    }

    /// One command for each key, many in one go, each answered by how many keys it found.
    async fn exist(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let answers = self.wire.commands(keys.len(), |i, request| {
            request.command(&["STRLEN".into(), keys[i].as_str().into()]);
        });
        answers.await.into_iter().map(|answer| self.is_chunk(answer)).collect()
    }

    /// Whether a value of this length can be read. One that is not there has none.
    fn is_chunk(&self, answer: Result<Reply>) -> Result<bool> {
        match answer {
            Ok(Reply::Int(len)) => {
                let len = usize::try_from(len).unwrap_or(0);
                Ok(len > 0 && raw_layout(self.metadata.as_deref(), len).is_ok())
            }
            Ok(other) => Err(unexpected(&other, "a number")),
            // No string lies there.
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Asked twice, the answer would be another one.
    async fn remove_each(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let answers = self.wire.commands_once(keys.len(), |i, request| {
            request.command(&["UNLINK".into(), keys[i].as_str().into()]);
        });
        answers.await.into_iter().map(|answer| answer.and_then(is_one)).collect()
    }
}

impl RemoteConnector for RESPConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.is_chunk(self.wire.command(&["STRLEN".into(), key.as_str().into()]).await)
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        self.wire.exchange(Get { key: key.as_str().as_bytes(), memory: &self.memory() }).await
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.check(&chunk)?;
        self.wire.exchange(Set { key: key.as_str().as_bytes(), chunk: &chunk, ttl_secs: None }).await
    }

    fn capabilities(&self) -> Capabilities {
        let limit = self.wire.options().limits.payload as u64;
        Capabilities::new().with_remove().with_list().with_ping().with_max_chunk_bytes(limit)
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        self.wire.exchange(GetInto { key: key.as_str().as_bytes(), dst, layout: &self.layout() }).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        self.remove_each(std::slice::from_ref(key)).await.pop().unwrap_or_else(|| Err(Error::closed()))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        listing::keys(&self.wire, prefix).boxed()
    }

    async fn ping(&self) -> Result<()> {
        self.wire.ping().await
    }

    async fn close(&self) -> Result<()> {
        self.wire.close();
        Ok(())
    }

    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.exist(keys).await
    }

    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let memory = self.memory();
        let gets = keys.iter().map(|key| Get { key: key.as_str().as_bytes(), memory: &memory }).collect();
        self.wire.exchange_all(gets).await
    }

    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let layout = self.layout();
        let gets = requests.iter_mut().map(|(key, dst)| GetInto { key: key.as_str().as_bytes(), dst, layout: &layout });
        self.wire.exchange_all(gets.collect()).await
    }

    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let mut answers: Vec<Result<()>> = items.iter().map(|(_, chunk)| self.check(chunk)).collect();
        let good = items.iter().zip(&answers).filter(|(_, checked)| checked.is_ok());
        let sets = good.map(|((key, chunk), _)| Set { key: key.as_str().as_bytes(), chunk, ttl_secs: None }).collect();
        let mut done = self.wire.exchange_all(sets).await.into_iter();
        for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
            *answer = done.next().unwrap_or_else(|| Err(Error::closed()));
        }
        answers
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.remove_each(keys).await
    }
}

fn is_one(reply: Reply) -> Result<bool> {
    match reply {
        Reply::Int(n) => Ok(n > 0),
        other => Err(unexpected(&other, "a number")),
    }
}
