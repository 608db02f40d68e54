use std::sync::atomic::AtomicBool;
use std::time::Duration;

use connector_core::{
    BoxStream, CacheKey, Capabilities, ChunkHeader, ConnectorContext, Error, ErrorKind, FromContext, ListEntry, MemoryObj,
    MemoryObjMut, RemoteConnector, Result, ServerInfo, external_connector,
};
use futures::stream::{StreamExt, TryStreamExt};

use super::exchanges::{Found, Get, Header, Put, SUFFIXES, Size};
use super::missing::{Missing, Orphans};
use super::{RedisOptions, listing};
use crate::places::{Memory, Place};
use crate::resp_wire::{Destination, Remover, Slots, Wire};

/// Chunks on a redis or valkey server, two keys each, byte for byte as LMCache writes them.
///
/// URLs: `redis://[USER:PASSWORD@]HOST:PORT[/DATABASE]`, `unix:///PATH/OF/SOCKET`,
/// `redis-sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT[/SERVICE]`, `redis-cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT`.
/// `rediss` in place of `redis` means TLS.
///
/// One atomic step writes, reads or removes both keys. Chunks go straight between the socket and pool memory, or the
/// caller's. Other operations have separate connections. A batch sends many commands at a time.
#[external_connector(
    module = "kvconn.redis",
    name = "RedisConnector",
    scheme = "redis",
    scheme = "rediss",
    scheme = "redis-sentinel",
    scheme = "rediss-sentinel",
    scheme = "redis-cluster",
    scheme = "rediss-cluster",
    scheme = "unix",
    url = "redis://user:password@host:6379/0",
    url = "rediss://user:password@host:6379/0",
    url = "redis://user:password@host:7000,host:7001/0?cluster=true",
    url = "rediss://user:password@host:7000,host:7001/0?cluster=true",
    url = "redis-sentinel://user:password@host:26379,host:26379/service",
    url = "rediss-sentinel://user:password@host:26379,host:26379/service",
    url = "redis-cluster://user:password@host:7000,host:7001",
    url = "rediss-cluster://user:password@host:7000,host:7001",
    url = "unix:///run/redis.sock",
    url = "unix://user:password@/run/redis.sock",
    options = RedisOptions
)]
pub struct RedisConnector {
    wire: Wire,
    memory: Memory,
    ttl_sec: Option<u64>,
    /// The time to live that a read sets, in seconds.
    refresh_sec: Option<u64>,
    orphans: Orphans,
    remover: Remover,
    /// Whether the server refuses a command with the names of both values.
    is_apart: AtomicBool,
    /// Whether kvconn logged that the server refuses to renew times to live.
    warned: AtomicBool,
}

impl FromContext for RedisConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: RedisOptions = ctx.options()?;
        let wire = Wire::open(options.wire(&ctx)?, &ctx).await?;
        let is_apart = AtomicBool::new(wire.is_cluster());
        Ok(Self {
            wire,
            memory: Memory::new(&ctx),
            ttl_sec: options.ttl.ttl_sec,
            refresh_sec: options.ttl.refresh_sec(),
            orphans: Orphans::new(Duration::from_secs(options.orphan_grace_sec)),
            remover: Remover::default(),
            is_apart,
            warned: AtomicBool::new(false),
        })
    }
}

impl RedisConnector {
    fn slots(&self) -> Slots<'_> {
        Slots::new(&self.is_apart)
    }

    fn read<'a, D: Destination>(&'a self, key: &'a CacheKey, to: D) -> Get<'a, D> {
        Get { name: self.wire.name(key), slots: self.slots(), to, refresh_sec: self.refresh_sec, warned: &self.warned }
    }

    async fn read_all<'a>(&'a self, keys: &'a [CacheKey], places: Vec<Place>) -> Vec<Result<Found<MemoryObj>>> {
        self.wire.exchange_all(keys.iter().zip(places).map(|(key, place)| self.read(key, place)).collect()).await
    }

    /// Asks for the lengths, reserves memory for all chunks, and reads them.
    async fn read_by_length(&self, keys: &[CacheKey]) -> Vec<Result<Found<MemoryObj>>> {
        let headers = keys.iter().map(|key| Header(self.wire.name(key))).collect();
        let places = self.memory.reserve(self.wire.exchange_all(headers).await).await;
        self.wire.exchange_valid(keys.iter().zip(places).map(|(key, place)| Ok(self.read(key, place?)))).await
    }

    fn write<'a>(&'a self, key: &'a CacheKey, chunk: &'a MemoryObj) -> Result<Put<'a>> {
        self.wire.check_len(chunk.len())?;
        let header = ChunkHeader::faithful(chunk.layout())?;
        Ok(Put { name: self.wire.name(key), slots: self.slots(), header, chunk, ttl_sec: self.ttl_sec })
    }

    /// Removes chunks of which the server may have taken one value and refused the other. Only a put in two commands
    /// leaves such a chunk.
    async fn remove_refused<'a>(&self, puts: impl Iterator<Item = (&'a CacheKey, &'a Result<()>)>) {
        let is_refused = |e: &Error| e.kind() == ErrorKind::StoreFull;
        let refused = puts.filter(|(_, answer)| self.slots().apart && answer.as_ref().is_err_and(is_refused));
        let names: Vec<_> = refused.map(|(key, _)| self.wire.name(key)).collect();
        if !names.is_empty() {
            // The put's own error is the answer.
            self.remover.remove(&self.wire, &names, &SUFFIXES, self.slots()).await;
        }
    }

    /// The result of a read. For a missing chunk, checks the half that is left.
    async fn settle<A>(&self, key: &CacheKey, found: Found<A>) -> Result<Option<A>> {
        let half = match found {
            Found::Chunk(chunk) => {
                self.orphans.forget([key].into_iter());
                return Ok(Some(chunk));
            }
            Found::Again(e) => return Err(e),
            Found::Half(half) => Some(half),
            Found::Nothing => None,
        };
        let checked = self.orphans.check(&self.wire, &self.remover, &[Missing { key, half }]).await;
        checked.into_iter().collect::<Result<()>>().map(|()| None)
    }

    /// As [`settle`](Self::settle) for a batch. Checks all missing chunks together.
    async fn settle_all<'a, A>(
        &self,
        keys: impl Iterator<Item = &'a CacheKey>,
        found: Vec<Result<Found<A>>>,
    ) -> Vec<Result<Option<A>>> {
        let (mut missing, mut places) = (Vec::new(), Vec::new());
        let mut answers = Vec::with_capacity(found.len());
        for (key, found) in keys.zip(found) {
            let half = match found {
                Ok(Found::Chunk(chunk)) => {
                    self.orphans.forget([key].into_iter());
                    answers.push(Ok(Some(chunk)));
                    continue;
                }
                Ok(Found::Again(e)) | Err(e) => {
                    answers.push(Err(e));
                    continue;
                }
                Ok(Found::Half(half)) => Some(half),
                Ok(Found::Nothing) => None,
            };
            missing.push(Missing { key, half });
            places.push(answers.len());
            answers.push(Ok(None));
        }
        if !missing.is_empty() {
            let checked = self.orphans.check(&self.wire, &self.remover, &missing).await;
            places.into_iter().zip(checked).for_each(|(at, checked)| answers[at] = checked.map(|()| None));
        }
        answers
    }
}

impl RemoteConnector for RedisConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.wire.exchange(Size(self.wire.name(key))).await.map(|size| size.is_some())
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        let Some(place) = self.memory.at_once() else {
            return self.batched_get(std::slice::from_ref(key)).await.pop().unwrap_or(Ok(None));
        };
        let mut found = self.wire.exchange(self.read(key, place)).await?;
        if let (Found::Again(_), Some(place)) = (&found, self.memory.at_once()) {
            found = self.wire.exchange(self.read(key, place)).await?;
        }
        self.settle(key, found).await
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.orphans.forget([key].into_iter());
        let slots = self.slots();
        let mut answer = self.wire.exchange(self.write(key, &chunk)?).await;
        if slots.is_outdated() {
            answer = self.wire.exchange(self.write(key, &chunk)?).await;
        }
        self.remove_refused([(key, &answer)].into_iter()).await;
        answer
    }

    fn capabilities(&self) -> Capabilities {
        let limit = self.wire.options().limits.payload as u64;
        let can = Capabilities::new().with_remove().with_list().with_ping();
        can.with_layout_kept().with_dtypes(ChunkHeader::DTYPES).with_max_chunk_bytes(limit)
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let mut found = self.wire.exchange(self.read(key, &mut *dst)).await?;
        if let Found::Again(_) = found {
            found = self.wire.exchange(self.read(key, dst)).await?;
        }
        self.settle(key, found).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        self.batched_remove(std::slice::from_ref(key)).await.pop().unwrap_or_else(|| Err(Error::closed()))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        self.list_entries(prefix).map_ok(|entry| entry.key).boxed()
    }

    fn list_entries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        listing::entries(&self.wire, prefix).boxed()
    }

    async fn ping(&self) -> Result<()> {
        self.wire.ping().await
    }

    async fn servers(&self) -> Result<Vec<ServerInfo>> {
        Ok(self.wire.describe_servers().await)
    }

    async fn close(&self) -> Result<()> {
        self.wire.close();
        self.memory.trim();
        Ok(())
    }

    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let sizes = self.wire.exchange_all(keys.iter().map(|key| Size(self.wire.name(key))).collect()).await;
        sizes.into_iter().map(|size| size.map(|size| size.is_some())).collect()
    }

    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let mut found = match self.memory.reserve_full(keys).await {
            Ok(Some(places)) => self.read_all(keys, places).await,
            Ok(None) => Vec::new(),
            Err(e) => return keys.iter().map(|_| Err(e.clone())).collect(),
        };
        if found.is_empty() || found.iter().any(Memory::is_short) {
            // Gives all memory back before it asks for more.
            drop(found);
            found = self.read_by_length(keys).await;
        }
        let places_again = to_read_again(&found);
        if places_again.is_empty() {
        } else if self.memory.waits() {
            drop(found);
            found = self.read_by_length(keys).await;
        } else {
            let again = places_again.iter().filter_map(|&at| Some(self.read(&keys[at], self.memory.at_once()?))).collect();
            replace(&mut found, &places_again, self.wire.exchange_all(again).await);
        }
        self.settle_all(keys.iter(), found).await
    }

    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let gets = requests.iter_mut().map(|(key, dst)| self.read(key, dst)).collect();
        let mut found = self.wire.exchange_all(gets).await;
        let again = to_read_again(&found);
        let requests_again = requests.iter_mut().enumerate().filter(|(at, _)| again.contains(at));
        let gets = requests_again.map(|(_, (key, dst))| self.read(key, dst)).collect();
        replace(&mut found, &again, self.wire.exchange_all(gets).await);
        self.settle_all(requests.iter().map(|(key, _)| key), found).await
    }

    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        self.orphans.forget(items.iter().map(|(key, _)| key));
        let slots = self.slots();
        let mut answers = self.wire.exchange_valid(items.iter().map(|(key, chunk)| self.write(key, chunk))).await;
        if slots.is_outdated() {
            answers = self.wire.exchange_valid(items.iter().map(|(key, chunk)| self.write(key, chunk))).await;
        }
        self.remove_refused(items.iter().map(|(key, _)| key).zip(&answers)).await;
        answers
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let names: Vec<_> = keys.iter().map(|key| self.wire.name(key)).collect();
        let slots = self.slots();
        let answers = self.remover.remove(&self.wire, &names, &SUFFIXES, slots).await;
        match slots.is_outdated() {
            true => self.remover.remove(&self.wire, &names, &SUFFIXES, self.slots()).await,
            false => answers,
        }
    }
}

/// The indexes of the chunks that the store reads once more.
fn to_read_again<A>(found: &[Result<Found<A>>]) -> Vec<usize> {
    found.iter().enumerate().filter(|(_, found)| matches!(found, Ok(Found::Again(_)))).map(|(at, _)| at).collect()
}

fn replace<A>(found: &mut [Result<Found<A>>], places: &[usize], by: Vec<Result<Found<A>>>) {
    places.iter().zip(by).for_each(|(&at, by)| found[at] = by);
}
