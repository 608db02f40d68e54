use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use connector_core::{
    BoxStream, CacheKey, Capabilities, ChunkHeader, ConnectorContext, Diagnosis, Error, FromContext, ListEntry,
    MemoryObj, MemoryObjMut, RemoteConnector, Result, ServerInfo, external_connector,
};
use futures::future::{FutureExt, join};
use futures::stream::{StreamExt, TryStreamExt};

use super::apart::Relabel;
use super::exchanges::{Found, Get, Half, Header, Put, Renew, SUFFIXES, Size};
use super::missing::{Missing, Orphans};
use super::{RedisOptions, apart, listing};
use crate::places::Memory;
use crate::resp_wire::{Name, Remover, Wire, of_valid};

/// Chunks on a redis or valkey server, two keys each, byte for byte as LMCache writes them.
///
/// URLs: `redis://[USER:PASSWORD@]HOST:PORT[/DATABASE]`, `unix:///PATH/OF/SOCKET`,
/// `redis-sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT[/SERVICE]`, `redis-cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT`.
/// `rediss` in place of `redis` means TLS.
///
/// One atomic step writes, reads or removes both keys. In a cluster they lie on two nodes, and each has its own step.
/// Chunks go straight between the socket and pool memory, or the caller's. Other operations have separate connections. A
/// batch sends many commands at a time.
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
    /// Whether kvconn logged that the server refuses to renew times to live.
    warned: AtomicBool,
}

impl FromContext for RedisConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: RedisOptions = ctx.options()?;
        let wire = Wire::open(options.wire(&ctx)?, &ctx).await?;
        Ok(Self {
            wire,
            memory: Memory::new(&ctx),
            ttl_sec: options.ttl.ttl_sec,
            refresh_sec: options.ttl.refresh_sec(),
            orphans: Orphans::new(Duration::from_secs(options.orphan_grace_sec)),
            remover: Remover::default(),
            warned: AtomicBool::new(false),
        })
    }
}

impl RedisConnector {
    /// Reads one chunk, without the memory that a batch needs. Reads a torn one once more.
    async fn read_one<D: Relabel>(&self, key: &CacheKey, mut to: D) -> Result<Option<D::Chunk>> {
        let found = if self.wire.is_cluster() || self.refresh_sec.is_some() {
            only(self.read(vec![(key, to)]).await)
        } else {
            let name = self.wire.name(key);
            match self.wire.exchange(Get { name, to: &mut to }).await {
                Ok(Found::Torn(_)) => self.wire.exchange(Get { name, to }).await,
                found => found,
            }
        };
        if let Ok(Found::Chunk(chunk)) = found {
            self.orphans.forget([key].into_iter());
            return Ok(Some(chunk));
        }
        only(self.settle([key].into_iter(), vec![found]).await)
    }

    /// Reads chunks. Reads the torn ones once more.
    async fn read<D: Relabel>(&self, mut items: Vec<(&CacheKey, D)>) -> Vec<Result<Found<D::Chunk>>> {
        let mut found = self.read_once(items.iter_mut().map(|(key, to)| (self.wire.name(key), to)).collect()).await;
        let is_torn = |found: &Result<_>| matches!(found, Ok(Found::Torn(_)));
        let torn: Vec<_> = items.iter_mut().zip(&found).filter(|(_, found)| is_torn(found)).collect();
        if !torn.is_empty() {
            let again = torn.into_iter().map(|((key, to), _)| (self.wire.name(key), to)).collect();
            let again = self.read_once(again).await;
            found.iter_mut().filter(|found| is_torn(found)).zip(again).for_each(|(torn, again)| *torn = again);
        }
        found
    }

    async fn read_once<D: Relabel>(&self, items: Vec<(Name<'_>, D)>) -> Vec<Result<Found<D::Chunk>>> {
        let renewals = self.renewals(items.iter().map(|(name, _)| *name));
        // Boxed, because each call would allocate the room for them, too.
        let found = async {
            match self.wire.is_cluster() {
                true => apart::read(&self.wire, items).boxed().await,
                false => self.wire.exchange_all(items.into_iter().map(|(name, to)| Get { name, to }).collect()).await,
            }
        };
        match renewals.is_empty() {
            true => found.await,
            false => join(found, self.renew(renewals).boxed()).await.0,
        }
    }

    /// The exchanges that start the time to live of both values again, if the option says so.
    fn renewals<'a>(&self, names: impl Iterator<Item = Name<'a>>) -> Vec<Renew<'a>> {
        let Some(ttl_sec) = self.refresh_sec else { return Vec::new() };
        let halves = names.flat_map(|name| [(name, Half::Metadata), (name, Half::KvBytes)]);
        halves.map(|(name, half)| Renew { name, half, ttl_sec }).collect()
    }

    async fn renew(&self, renewals: Vec<Renew<'_>>) {
        let renewed = self.wire.exchange_all(renewals).await;
        // The chunks are valid even so.
        if let Some(e) = renewed.into_iter().find_map(Result::err)
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("`refresh_ttl` renews nothing: {e}");
        }
    }

    /// Asks for the lengths, reserves memory for all chunks, and reads them.
    async fn read_by_length(&self, keys: &[CacheKey]) -> Vec<Result<Found<MemoryObj>>> {
        let headers = keys.iter().map(|key| Header::<true>(self.wire.name(key))).collect();
        let places = self.memory.reserve(self.wire.exchange_all(headers).await).await;
        let items = keys.iter().zip(places).map(|(key, place)| Ok((key, place?)));
        of_valid(items, |items| self.read(items)).await
    }

    async fn write<'a>(
        &'a self,
        items: impl Iterator<Item = (&'a CacheKey, &'a MemoryObj)> + Clone,
    ) -> Vec<Result<()>> {
        self.orphans.forget(items.clone().map(|(key, _)| key));
        let puts = items.map(|(key, chunk)| self.to_write(key, chunk));
        match self.wire.is_cluster() {
            true => of_valid(puts, |puts| apart::write(&self.wire, &self.remover, puts).boxed()).await,
            false => self.wire.exchange_valid(puts).await,
        }
    }

    fn to_write<'a>(&'a self, key: &'a CacheKey, chunk: &'a MemoryObj) -> Result<Put<'a>> {
        self.wire.check_len(chunk.len())?;
        let header = ChunkHeader::faithful(chunk.layout())?;
        Ok(Put { name: self.wire.name(key), header, chunk, ttl_sec: self.ttl_sec })
    }

    /// The results of reads. For missing chunks, checks the halves that are left.
    async fn settle<'a, A>(
        &self,
        keys: impl Iterator<Item = &'a CacheKey> + Clone,
        found: Vec<Result<Found<A>>>,
    ) -> Vec<Result<Option<A>>> {
        let is_chunk = |found: &Result<_>| matches!(found, Ok(Found::Chunk(_)));
        self.orphans.forget(keys.clone().zip(&found).filter(|(_, found)| is_chunk(found)).map(|(key, _)| key));
        let (mut missing, mut places) = (Vec::new(), Vec::new());
        let settled = |(at, (key, found))| {
            let half = match found? {
                Found::Chunk(chunk) => return Ok(Some(chunk)),
                Found::Torn(e) => return Err(e),
                Found::Half(half) => Some(half),
                Found::Nothing => None,
            };
            missing.push(Missing { key, half });
            places.push(at);
            Ok(None)
        };
        let mut answers: Vec<_> = keys.zip(found).enumerate().map(settled).collect();
        if !missing.is_empty() {
            let checked = self.orphans.check(&self.wire, &self.remover, &missing).await;
            places.into_iter().zip(checked).for_each(|(at, checked)| answers[at] = checked.map(|()| None));
        }
        answers
    }
}

impl RemoteConnector for RedisConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        match self.wire.is_cluster() {
            true => only(self.batched_exists(std::slice::from_ref(key)).await),
            false => self.wire.exchange(Size(self.wire.name(key))).await.map(|size| size.is_some()),
        }
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        match self.memory.at_once() {
            Some(place) => self.read_one(key, place).await,
            None => only(self.batched_get(std::slice::from_ref(key)).await),
        }
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        if self.wire.is_cluster() {
            return only(self.write([(key, &chunk)].into_iter()).await);
        }
        self.orphans.forget([key].into_iter());
        self.wire.exchange(self.to_write(key, &chunk)?).await
    }

    fn capabilities(&self) -> Capabilities {
        let limit = self.wire.options().limits.payload as u64;
        let can = Capabilities::new().with_remove().with_list().with_ping();
        let can = can.with_layout_kept().with_dtypes(ChunkHeader::DTYPES).with_max_chunk_bytes(limit);
        if self.wire.is_cluster() { can.with_puts_in_parts() } else { can }
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        self.read_one(key, dst).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        only(self.batched_remove(std::slice::from_ref(key)).await)
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

    async fn diagnose(&self) -> Result<Vec<Diagnosis>> {
        Ok(self.wire.diagnose(self.ttl_sec).await)
    }

    async fn close(&self) -> Result<()> {
        self.wire.close();
        self.memory.trim();
        Ok(())
    }

    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let sizes = listing::sizes(&self.wire, keys).await;
        sizes.into_iter().map(|size| size.map(|size| size.is_some())).collect()
    }

    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let mut found = match self.memory.reserve_full(keys).await {
            Ok(Some(places)) => self.read(keys.iter().zip(places).collect()).await,
            Ok(None) => Vec::new(),
            Err(e) => return keys.iter().map(|_| Err(e.clone())).collect(),
        };
        if found.is_empty() || found.iter().any(Memory::is_short) {
            // Gives all memory back before it asks for more.
            drop(found);
            found = self.read_by_length(keys).await;
        }
        self.settle(keys.iter(), found).await
    }

    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        let found = self.read(requests.iter_mut().map(|(key, dst)| (&*key, dst)).collect()).await;
        self.settle(requests.iter().map(|(key, _)| key), found).await
    }

    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        self.write(items.iter().map(|(key, chunk)| (key, chunk))).await
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let chunks: Vec<_> = keys.iter().map(|key| (self.wire.name(key), SUFFIXES)).collect();
        self.remover.remove(&self.wire, &chunks).await
    }
}

/// The answer of a batch of one.
fn only<A>(mut answers: Vec<Result<A>>) -> Result<A> {
    answers.pop().unwrap_or_else(|| Err(Error::closed()))
}
