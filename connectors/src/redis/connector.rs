use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use connector_core::{
    BoxStream, CacheKey, Capabilities, ChunkHeader, ConnectorContext, Error, ErrorKind, FromContext, LocalCpuBackend,
    MemoryObj, MemoryObjMut, RemoteConnector, Result, external_connector,
};
use futures::stream::StreamExt;

use super::get::{Destination, Found, Get};
use super::layout::{KV_BYTES, METADATA};
use super::missing::{Missing, Orphans};
use super::put::Put;
use super::{RedisOptions, listing};
use crate::resp_wire::{Arg, Reply, Request, Wire, unexpected};

/// Chunks on a redis or valkey server, two keys each, byte for byte as LMCache writes them.
///
/// Both keys are written, read and removed in one step. Chunks go straight from the socket into pool memory, or the
/// caller's, and from their memory to the socket. Other operations have connections of their own, and batches go many
/// commands at a time.
#[external_connector(
    module = "kvconn.redis",
    name = "RedisConnector",
    scheme = "redis",
    scheme = "unix",
    options = RedisOptions
)]
pub struct RedisConnector {
    wire: Wire,
    backend: LocalCpuBackend,
    ttl_sec: Option<u64>,
    refresh_ttl: bool,
    orphans: Orphans,
    /// The server does not know `UNLINK`.
    is_old: AtomicBool,
    /// It was said that lives are not renewed.
    warned: AtomicBool,
}

impl FromContext for RedisConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: RedisOptions = ctx.options()?;
        let wire = Wire::open(options.wire(&ctx)?, ctx.handle()).await?;
        if options.ttl_sec.is_some() {
            may_do_transactions(&wire).await?;
        }
        Ok(Self {
            wire,
            backend: ctx.local_cpu_backend().clone(),
            ttl_sec: options.ttl_sec,
            refresh_ttl: options.refresh_ttl,
            orphans: Orphans::new(Duration::from_secs(options.orphan_grace_sec)),
            is_old: AtomicBool::new(false),
            warned: AtomicBool::new(false),
        })
    }
}

/// Where `MULTI` is refused, the commands behind it are executed one by one all the same.
async fn may_do_transactions(wire: &Wire) -> Result<()> {
    let answers = wire.commands(2, |i, request| request.command(&[["MULTI", "EXEC"][i].into()])).await;
    answers.into_iter().try_for_each(|answer| match answer {
        Err(e) if e.kind() == ErrorKind::Denied => Err(e.at("option `ttl_sec` needs transactions")),
        other => other.map(drop),
    })
}

impl RedisConnector {
    fn read<'a, D: Destination>(&'a self, key: &'a CacheKey, to: D) -> Get<'a, D> {
        let refresh_sec = self.ttl_sec.filter(|_| self.refresh_ttl);
        Get { key: key.as_str().as_bytes(), to, refresh_sec, warned: &self.warned }
    }

    fn write<'a>(&self, key: &'a CacheKey, chunk: &'a MemoryObj) -> Result<Put<'a>> {
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
        let header = ChunkHeader::faithful(chunk.layout())?;
        Ok(Put { key: key.as_str().as_bytes(), header, chunk, ttl_sec: self.ttl_sec })
    }

    /// The chunk, if there is one; `again` reads once more.
    async fn settle<A>(
        &self,
        key: &CacheKey,
        found: Found<A>,
        again: impl Future<Output = Result<Found<A>>>,
    ) -> Result<Option<A>> {
        let found = if let Found::Torn(_) = found { again.await? } else { found };
        let half = match found {
            Found::Chunk(chunk) => {
                self.orphans.forget([key].into_iter());
                return Ok(Some(chunk));
            }
            Found::Torn(e) => return Err(e),
            Found::Half(half) => Some(half),
            Found::Nothing => None,
        };
        let looked = self.orphans.look(&self.wire, &[Missing { key, half }]).await;
        looked.into_iter().collect::<Result<()>>().map(|()| None)
    }

    /// What a batch gives, once the torn ones were read again: one more look at all that is not there.
    async fn settle_all<'a, A>(
        &self,
        keys: impl Iterator<Item = &'a CacheKey>,
        found: Vec<Result<Found<A>>>,
    ) -> Vec<Result<Option<A>>> {
        let mut missing = Vec::new();
        let mut places = Vec::new();
        let mut answers = Vec::with_capacity(found.len());
        for (key, found) in keys.zip(found) {
            let half = match found {
                Ok(Found::Half(half)) => Some(half),
                Ok(Found::Nothing) => None,
                other => {
                    answers.push(match other {
                        Ok(Found::Chunk(chunk)) => {
                            self.orphans.forget([key].into_iter());
                            Ok(Some(chunk))
                        }
                        Ok(Found::Torn(e)) | Err(e) => Err(e),
                        Ok(Found::Half(_) | Found::Nothing) => Ok(None),
                    });
                    continue;
                }
            };
            missing.push(Missing { key, half });
            places.push(answers.len());
            answers.push(Ok(None));
        }
        if !missing.is_empty() {
            let looked = self.orphans.look(&self.wire, &missing).await;
            places.into_iter().zip(looked).for_each(|(at, looked)| answers[at] = looked.map(|()| None));
        }
        answers
    }

    /// Removes both halves of each key in one command; a whole chunk counts.
    async fn remove_all(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        if !self.is_old.load(Ordering::Relaxed) {
            let answers = both_removed(&self.wire, "UNLINK", keys).await;
            let unknown =
                |answer: &Result<bool>| answer.as_ref().is_err_and(|e| e.message().contains("unknown command"));
            if !answers.iter().any(unknown) {
                return answers;
            }
            self.is_old.store(true, Ordering::Relaxed);
        }
        both_removed(&self.wire, "DEL", keys).await
    }
}

impl RemoteConnector for RedisConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        only(exist(&self.wire, std::slice::from_ref(key)).await)
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let found = self.wire.exchange(self.read(key, &self.backend)).await?;
        self.settle(key, found, async { self.wire.exchange(self.read(key, &self.backend)).await }).await
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let put = self.write(key, &chunk)?;
        self.orphans.forget([key].into_iter());
        self.wire.exchange(put).await
    }

    fn capabilities(&self) -> Capabilities {
        let limit = self.wire.options().limits.payload as u64;
        let can = Capabilities::new().with_remove().with_list().with_ping();
        can.with_layout_kept().with_dtypes(ChunkHeader::DTYPES).with_max_chunk_bytes(limit)
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let found = self.wire.exchange(self.read(key, &mut *dst)).await?;
        self.settle(key, found, async { self.wire.exchange(self.read(key, dst)).await }).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        only(self.remove_all(std::slice::from_ref(key)).await)
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
        exist(&self.wire, keys).await
    }

    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let gets = keys.iter().map(|key| self.read(key, &self.backend)).collect();
        let mut found = self.wire.exchange_all(gets).await;
        let torn = torn(&found);
        let gets = torn.iter().map(|&at| self.read(&keys[at], &self.backend)).collect();
        replace(&mut found, &torn, self.wire.exchange_all(gets).await);
        self.settle_all(keys.iter(), found).await
    }

    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let gets = requests.iter_mut().map(|(key, dst)| self.read(key, dst)).collect();
        let mut found = self.wire.exchange_all(gets).await;
        let torn = torn(&found);
        let again = requests.iter_mut().enumerate().filter(|(at, _)| torn.contains(at));
        let gets = again.map(|(_, (key, dst))| self.read(key, dst)).collect();
        replace(&mut found, &torn, self.wire.exchange_all(gets).await);
        self.settle_all(requests.iter().map(|(key, _)| key), found).await
    }

    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        let mut puts = Vec::with_capacity(items.len());
        let mut answers = Vec::with_capacity(items.len());
        for (key, chunk) in items {
            answers.push(self.write(key, chunk).map(|put| puts.push(put)));
        }
        self.orphans.forget(items.iter().map(|(key, _)| key));
        let mut done = self.wire.exchange_all(puts).await.into_iter();
        for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
            *answer = done.next().unwrap_or_else(|| Err(Error::closed()));
        }
        answers
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        self.remove_all(keys).await
    }
}

/// Whether there is a chunk under each key that can be read: a header, and as many bytes as it says.
pub(super) async fn exist(wire: &Wire, keys: &[CacheKey]) -> Vec<Result<bool>> {
    let replies = wire.commands(keys.len() * 2, |i, request| {
        let name = |suffix: &'static str| Arg::Joined(keys[i / 2].as_str().as_bytes(), suffix.as_bytes());
        match i % 2 {
            // Not `GET`: what is no string is no header, and no error.
            0 => request.command(&["MGET".into(), name(METADATA)]),
            _ => request.command(&["STRLEN".into(), name(KV_BYTES)]),
        }
    });
    let replies = &mut replies.await.into_iter();
    let mut next = || replies.next().unwrap_or_else(|| Err(Error::closed()));
    keys.iter().map(|_| (next(), next())).map(|(header, bytes)| is_chunk(header?, bytes)).collect()
}

fn is_chunk(header: Reply, bytes: Result<Reply>) -> Result<bool> {
    let len = match bytes {
        Ok(Reply::Int(len)) => usize::try_from(len).unwrap_or(0),
        Ok(other) => return Err(unexpected(&other, "a number")),
        // No string lies there.
        Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(false),
        Err(e) => return Err(e),
    };
    match header {
        Reply::Array(mut values) if values.len() == 1 => match values.remove(0) {
            Reply::Bulk(header) => Ok(len > 0 && ChunkHeader::read(&header).is_ok_and(|layout| layout.len == len)),
            Reply::Null => Ok(false),
            other => Err(unexpected(&other, "a header")),
        },
        other => Err(unexpected(&other, "a header")),
    }
}

/// Removes both; asked twice, the answer would be another one.
async fn both_removed(wire: &Wire, command: &'static str, keys: &[CacheKey]) -> Vec<Result<bool>> {
    two(wire.commands_once(keys.len(), both_names(command, keys)).await)
}

/// One command for the two names of each key.
fn both_names<'k>(command: &'static str, keys: &'k [CacheKey]) -> impl Fn(usize, &mut Request<'k>) + Send + Sync {
    move |i, request| {
        let name = |suffix: &'static str| Arg::Joined(keys[i].as_str().as_bytes(), suffix.as_bytes());
        request.command(&[command.into(), name(METADATA), name(KV_BYTES)]);
    }
}

/// Whether each says that there were two.
fn two(answers: Vec<Result<Reply>>) -> Vec<Result<bool>> {
    let is_two = |reply| match reply {
        Reply::Int(n) => Ok(n == 2),
        other => Err(unexpected(&other, "a number")),
    };
    answers.into_iter().map(|answer| answer.and_then(is_two)).collect()
}

/// The answer to the one key.
fn only<T>(answers: Vec<Result<T>>) -> Result<T> {
    answers.into_iter().next().unwrap_or_else(|| Err(Error::closed()))
}

/// Which of them are to be read again.
fn torn<A>(found: &[Result<Found<A>>]) -> Vec<usize> {
    found.iter().enumerate().filter(|(_, found)| matches!(found, Ok(Found::Torn(_)))).map(|(at, _)| at).collect()
}

fn replace<A>(found: &mut [Result<Found<A>>], places: &[usize], by: Vec<Result<Found<A>>>) {
    places.iter().zip(by).for_each(|(&at, by)| found[at] = by);
}
