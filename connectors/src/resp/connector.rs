use std::sync::atomic::AtomicBool;

use connector_core::raw_layout;
use connector_core::{
    BoxStream, CacheKey, Capabilities, ConnectorContext, Diagnosis, Error, ErrorKind, FromContext, LMCacheMetadata,
    ListEntry, MemoryObj, MemoryObjMut, RemoteConnector, Result, ServerInfo, external_connector,
};
use futures::stream::{self, Stream, StreamExt, TryStreamExt};

use super::exchanges::{Get, Length, Put, Size};
use super::{PlainSettings, RespOptions};
use crate::places::{Memory, Place};
use crate::resp_wire::{Destination, Remover, TtlSettings, Wire, scan};

/// Chunks on a redis or valkey server, one plain value each.
///
/// URLs: `resp://[USER:PASSWORD@]HOST:PORT[/DATABASE]`, `resp://[USER:PASSWORD@]HOST:PORT,HOST:PORT?cluster=true`.
/// `resps` in place of `resp` means TLS.
///
/// Chunks go straight between the socket and pool memory, or the caller's. Other operations have separate
/// connections. A batch sends many commands at a time.
#[external_connector(
    module = "kvconn.resp",
    name = "RESPConnector",
    scheme = "resp",
    scheme = "resps",
    url = "resp://user:password@host:6379/0",
    url = "resps://user:password@host:6379/0",
    url = "resp://user:password@host:7000,host:7001/0?cluster=true",
    url = "resps://user:password@host:7000,host:7001/0?cluster=true",
    options = RespOptions
)]
pub struct RESPConnector {
    wire: Wire,
    memory: Memory,
    ttl: TtlSettings,
    /// Whether kvconn logged that the server refuses to renew times to live.
    warned: AtomicBool,
    remover: Remover,
}

impl FromContext for RESPConnector {
    async fn from_context(ctx: ConnectorContext) -> Result<Self> {
        let options: RespOptions = ctx.options()?;
        Self::open(options.with_environment(), &ctx).await
    }
}

impl RESPConnector {
    /// Opens the store. Connects once, to check that the server answers.
    pub(crate) async fn open(settings: PlainSettings, ctx: &ConnectorContext) -> Result<Self> {
        Ok(Self {
            wire: Wire::open(settings.wire(ctx)?, ctx).await?,
            memory: Memory::new(ctx),
            ttl: settings.ttl,
            warned: AtomicBool::new(false),
            remover: Remover::default(),
        })
    }

    fn read<'a, D: Destination>(&'a self, key: &'a CacheKey, to: D) -> Get<'a, D> {
        let (metadata, refresh_sec) = (self.metadata(), self.ttl.refresh_sec());
        Get { name: self.wire.name(key), to, metadata, refresh_sec, warned: &self.warned }
    }

    fn metadata(&self) -> Option<&LMCacheMetadata> {
        self.memory.metadata()
    }

    async fn read_all<'a>(&'a self, keys: &'a [CacheKey], places: Vec<Place>) -> Vec<Result<Option<MemoryObj>>> {
        self.wire.exchange_all(keys.iter().zip(places).map(|(key, place)| self.read(key, place)).collect()).await
    }

    /// Asks for the lengths, reserves memory for all chunks, and reads them.
    async fn read_by_length(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let length = |key| Length { name: self.wire.name(key), metadata: self.metadata() };
        let lengths = keys.iter().map(length).collect();
        let places = self.memory.reserve(self.wire.exchange_all(lengths).await).await;
        self.wire.exchange_valid(keys.iter().zip(places).map(|(key, place)| Ok(self.read(key, place?)))).await
    }

    fn write<'a>(&'a self, key: &'a CacheKey, chunk: &'a MemoryObj) -> Result<Put<'a>> {
        self.wire.check_len(chunk.len())?;
        raw_layout(self.metadata(), chunk.len()).map_err(|e| {
            Error::new(ErrorKind::InvalidInput, format!("a raw value could not give it back: {}", e.message()))
        })?;
        Ok(Put { name: self.wire.name(key), chunk, ttl_sec: self.ttl.ttl_sec })
    }

    /// Whether `get` can read a value of this size. A value may have a length that no chunk has.
    fn is_chunk(&self, size: Option<usize>) -> bool {
        size.is_some_and(|len| len > 0 && raw_layout(self.metadata(), len).is_ok())
    }

    /// The sizes of a page of keys. A value that vanished is left out.
    async fn entries(&self, keys: Vec<CacheKey>) -> Vec<Result<ListEntry>> {
        let sizes = self.wire.exchange_all(keys.iter().map(|key| Size(self.wire.name(key))).collect()).await;
        let entries = keys.into_iter().zip(sizes).filter_map(|(key, size)| match size {
            Ok(Some(0)) => None,
            Ok(Some(bytes)) => Some(Ok(ListEntry::new(key).with_size(bytes as u64))),
            Ok(None) => Some(Ok(ListEntry::new(key))),
            Err(e) => Some(Err(e)),
        });
        entries.collect()
    }

    fn pages<'a>(&'a self, prefix: &'a str) -> impl Stream<Item = Result<Vec<CacheKey>>> + Send + 'a {
        scan::keys(&self.wire, prefix, "", |name| str::from_utf8(name).ok()?.parse().ok())
    }
}

impl RemoteConnector for RESPConnector {
    async fn exists(&self, key: &CacheKey) -> Result<bool> {
        self.wire.exchange(Size(self.wire.name(key))).await.map(|size| self.is_chunk(size))
    }

    async fn get(&self, key: &CacheKey) -> Result<Option<MemoryObj>> {
        match self.memory.at_once() {
            Some(place) => self.wire.exchange(self.read(key, place)).await,
            None => self.batched_get(std::slice::from_ref(key)).await.pop().unwrap_or(Ok(None)),
        }
    }

    async fn put(&self, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        self.wire.exchange(self.write(key, &chunk)?).await
    }

    fn capabilities(&self) -> Capabilities {
        let limit = self.wire.options().limits.payload as u64;
        Capabilities::new().with_remove().with_list().with_ping().with_max_chunk_bytes(limit)
    }

    async fn get_into(&self, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        self.wire.exchange(self.read(key, dst)).await
    }

    async fn remove(&self, key: &CacheKey) -> Result<bool> {
        self.batched_remove(std::slice::from_ref(key)).await.pop().unwrap_or_else(|| Err(Error::closed()))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<CacheKey>> {
        self.pages(prefix).map_ok(|keys| stream::iter(keys.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn list_entries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ListEntry>> {
        let entries = move |keys| async move { Ok(stream::iter(self.entries(keys).await)) };
        // The next page arrives while the server gives the sizes.
        self.pages(prefix).map_ok(entries).try_buffered(2).try_flatten().boxed()
    }

    async fn ping(&self) -> Result<()> {
        self.wire.ping().await
    }

    async fn servers(&self) -> Result<Vec<ServerInfo>> {
        Ok(self.wire.describe_servers().await)
    }

    async fn diagnose(&self) -> Result<Vec<Diagnosis>> {
        Ok(self.wire.diagnose(self.ttl.ttl_sec).await)
    }

    async fn close(&self) -> Result<()> {
        self.wire.close();
        self.memory.trim();
        Ok(())
    }

    async fn batched_exists(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let sizes = self.wire.exchange_all(keys.iter().map(|key| Size(self.wire.name(key))).collect()).await;
        sizes.into_iter().map(|size| size.map(|size| self.is_chunk(size))).collect()
    }

    async fn batched_get(&self, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let read = match self.memory.reserve_full(keys).await {
            Ok(Some(places)) => self.read_all(keys, places).await,
            Ok(None) => return self.read_by_length(keys).await,
            Err(e) => return keys.iter().map(|_| Err(e.clone())).collect(),
        };
        if !read.iter().any(Memory::is_short) {
            return read;
        }
        drop(read);
        self.read_by_length(keys).await
    }

    async fn batched_get_into(&self, requests: &mut [(CacheKey, MemoryObjMut)]) -> Vec<Result<Option<usize>>> {
        self.wire.exchange_all(requests.iter_mut().map(|(key, dst)| self.read(key, dst)).collect()).await
    }

    async fn batched_put(&self, items: &[(CacheKey, MemoryObj)]) -> Vec<Result<()>> {
        self.wire.exchange_valid(items.iter().map(|(key, chunk)| self.write(key, chunk))).await
    }

    async fn batched_remove(&self, keys: &[CacheKey]) -> Vec<Result<bool>> {
        let values: Vec<_> = keys.iter().map(|key| (self.wire.name(key), &[""][..])).collect();
        self.remover.remove(&self.wire, &values).await
    }
}
