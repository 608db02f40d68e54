//! Gets: the object's head, then memory, then the bytes.

use std::error::Error as _;
use std::future::{Future, ready};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use connector_core::{CacheKey, ChunkLayout, Error, ErrorKind, MemoryObj, MemoryObjMut, Result, raw_layout};
use futures::future::FutureExt;
use futures::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use opendal::options::ReaderOptions;
use opendal::{BufferStream, Metadata, Operator};

use super::checksum;
use super::entries::entry;
use super::store::Store;
use super::write::{LAYOUT_ENTRY, recorded_layout};
use crate::places::{Memory, Place};

/// The memory that one object is read into.
trait Destination: Send {
    /// The result.
    type Chunk: Send;

    /// The length of memory that exists before the answer; 0 if it is allocated for the answer.
    fn capacity(&self) -> usize;

    /// Memory of the object's layout and length.
    fn memory(&mut self, layout: ChunkLayout) -> impl Future<Output = Result<&mut MemoryObjMut>> + Send;

    /// The chunk that was read into the memory.
    fn chunk(&mut self) -> Result<Self::Chunk>;
}

impl Destination for Place {
    type Chunk = MemoryObj;

    fn capacity(&self) -> usize {
        self.capacity()
    }

    async fn memory(&mut self, layout: ChunkLayout) -> Result<&mut MemoryObjMut> {
        self.memory(layout, ready(Ok(()))).await?
    }

    fn chunk(&mut self) -> Result<MemoryObj> {
        self.chunk()
    }
}

/// The caller's memory, and the length of the chunk in it. `SizeMismatch` if the chunk does not fit.
impl Destination for MemoryObjMut {
    type Chunk = usize;

    fn capacity(&self) -> usize {
        self.capacity()
    }

    async fn memory(&mut self, layout: ChunkLayout) -> Result<&mut MemoryObjMut> {
        self.set_layout(layout).map(|()| self)
    }

    fn chunk(&mut self) -> Result<usize> {
        Ok(self.len())
    }
}

/// How often a read starts again because the object was replaced meanwhile.
const RESTARTS: usize = 3;

/// One attempt to read an object.
enum Attempt<T> {
    Done(T),
    /// The object was replaced between two of its parts.
    Replaced,
    /// The server does not give the object in parts.
    Undivided,
}

/// The version of an object that all its parts have.
struct Version {
    etag: String,
    /// Asks for no other version.
    condition: ReaderOptions,
}

impl Version {
    /// The version of an object's first part. `None` if the server names none, or names it by a weak ETag, which meets no
    /// condition.
    fn of(metadata: &Metadata, operator: &Operator) -> Option<Self> {
        let etag = metadata.etag().filter(|etag| !etag.starts_with("W/"))?.to_owned();
        // Google's condition for objects is the generation.
        let by_generation = operator.info().capability().read_with_if_version_match;
        let condition = match metadata.version() {
            Some(generation) if by_generation => {
                ReaderOptions { if_version_match: Some(generation.to_owned()), ..ReaderOptions::default() }
            }
            _ => ReaderOptions { if_match: Some(etag.clone()), ..ReaderOptions::default() },
        };
        Some(Self { etag, condition })
    }
}

impl Store {
    pub(crate) async fn get(self: &Arc<Self>, key: &CacheKey) -> Result<Option<MemoryObj>> {
        match self.memory.at_once() {
            Some(place) => self.read(key.clone(), Ok(place)).await,
            None => self.batched_get(std::slice::from_ref(key)).await.pop().unwrap_or(Ok(None)),
        }
    }

    pub(crate) async fn batched_get(self: &Arc<Self>, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let read = match self.memory.reserve_full(keys).await {
            Ok(Some(places)) => self.read_all(keys, places.into_iter().map(Ok)).await,
            Ok(None) => return self.read_by_length(keys).await,
            Err(e) => return keys.iter().map(|_| Err(e.clone())).collect(),
        };
        if !read.iter().any(Memory::is_short) {
            return read;
        }
        drop(read);
        self.read_by_length(keys).await
    }

    /// Asks for the lengths, reserves memory for all chunks, and reads them.
    async fn read_by_length(self: &Arc<Self>, keys: &[CacheKey]) -> Vec<Result<Option<MemoryObj>>> {
        let layouts = self.stats(keys).map(|found| found?.map(|metadata| self.layout_of(&metadata)).transpose());
        let places = self.memory.reserve(layouts.collect().await).await;
        self.read_all(keys, places.into_iter()).await
    }

    async fn read_all(
        self: &Arc<Self>,
        keys: &[CacheKey],
        places: impl Iterator<Item = Result<Place>> + Send,
    ) -> Vec<Result<Option<MemoryObj>>> {
        let reads: Vec<_> = keys.iter().cloned().zip(places).collect();
        let reads = stream::iter(reads).map(|(key, place)| self.read(key, place));
        reads.buffered(self.settings.connections).boxed().collect().await
    }

    pub(crate) async fn get_into(self: &Arc<Self>, key: &CacheKey, dst: &mut MemoryObjMut) -> Result<Option<usize>> {
        let (store, key, name, mut memory) = (self.clone(), key.clone(), self.name(key)?.into_owned(), dst.take());
        let (answer, memory) = self
            .run(async move {
                let answer = store.object(&name, &key, &mut memory).await;
                Ok((answer, memory))
            })
            .await?;
        *dst = memory;
        answer
    }

    async fn read(self: &Arc<Self>, key: CacheKey, place: Result<Place>) -> Result<Option<MemoryObj>> {
        let (store, name, mut place) = (self.clone(), self.name(&key)?.into_owned(), place?);
        self.run(async move { store.object(&name, &key, &mut place).await }).await
    }

    /// Reads an object. A large one is read in parts, all of one version.
    async fn object<D: Destination>(&self, name: &str, key: &CacheKey, to: &mut D) -> Result<Option<D::Chunk>> {
        let expected = to.capacity().max(self.largest_read.load(Relaxed));
        let mut service = self.services.current();
        let mut in_parts = expected as u64 >= self.settings.parallel_from_bytes
            && service.operator.info().capability().read_with_if_match;
        for _ in 0..RESTARTS {
            match self.attempt(&service.operator, name, key, in_parts, to).await {
                Ok(Attempt::Done(chunk)) => return Ok(chunk),
                Ok(Attempt::Replaced) => {}
                Ok(Attempt::Undivided) => in_parts = false,
                Err(e) if self.services.renew(&mut service, &e).await => {}
                Err(e) => return Err(e),
            }
        }
        let why = format!("the object was replaced {RESTARTS} times while kvconn read its parts");
        Err(Error::new(ErrorKind::Conflict, why).temporary(true))
    }

    async fn attempt<D: Destination>(
        &self,
        operator: &Operator,
        name: &str,
        key: &CacheKey,
        in_parts: bool,
        to: &mut D,
    ) -> Result<Attempt<Option<D::Chunk>>> {
        let part = self.settings.part_bytes;
        let first = operator.reader(name).await.map_err(|e| self.error(e))?;
        let first = if in_parts { first.into_stream(0..part).await } else { first.into_stream(..).await };
        let mut first = first.map_err(|e| self.error(e))?;
        let metadata = match first.metadata().await {
            Ok(metadata) => metadata,
            Err(e) if is_missing(&e) => return Ok(Attempt::Done(None)),
            // A range of an empty object.
            Err(e) if in_parts && e.kind() == opendal::ErrorKind::RangeNotSatisfied => return Ok(Attempt::Undivided),
            Err(e) => return Err(self.error(e)),
        };
        if !self.names.is_of(key, &metadata) {
            return Ok(Attempt::Done(None));
        }
        let layout = self.layout_of(&metadata)?;
        let len = layout.len;
        self.largest_read.fetch_max(len, Relaxed);
        if !in_parts || len as u64 <= part {
            let memory = to.memory(layout).await?;
            self.fill(first, memory).await?;
            checksum::check(&metadata, memory)?;
            return Ok(Attempt::Done(Some(to.chunk()?)));
        }
        let Some(version) = Version::of(&metadata, operator) else { return Ok(Attempt::Undivided) };
        let memory = to.memory(layout).await?;
        if !self.parts(operator, name, &version, first, memory).await? {
            return Ok(Attempt::Replaced);
        }
        checksum::check(&metadata, memory)?;
        Ok(Attempt::Done(Some(to.chunk()?)))
    }

    /// Reads an object of several parts. `first` gives the first one. `false` if the object has another version meanwhile.
    async fn parts(
        &self,
        operator: &Operator,
        name: &str,
        version: &Version,
        first: BufferStream,
        to: &mut [u8],
    ) -> Result<bool> {
        let part = self.settings.part_bytes as usize;
        let (start, rest) = to.split_at_mut(part);
        let later = rest.chunks_mut(part).enumerate().map(|(number, room)| {
            let begin = ((number + 1) * part) as u64;
            self.later_part(operator, name, version, begin..begin + room.len() as u64, room)
        });
        let mut later: FuturesUnordered<_> = later.collect();
        let later = async {
            while let Some(read) = later.next().await {
                if !read? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        // An object that was replaced ends the other parts at once.
        let first = async { self.fill(first, start).await.map(|()| true) };
        try_both(first, later).await
    }

    /// Reads a part of this version. `false` if the object has another version.
    async fn later_part(
        &self,
        operator: &Operator,
        name: &str,
        version: &Version,
        range: Range<u64>,
        room: &mut [u8],
    ) -> Result<bool> {
        let reader = operator.reader_options(name, version.condition.clone()).await.map_err(|e| self.error(e))?;
        let mut part = reader.into_stream(range).await.map_err(|e| self.error(e))?;
        match part.metadata().await {
            // A server may not know the condition.
            Ok(metadata) if metadata.etag() != Some(&version.etag) => return Ok(false),
            Ok(_) => {}
            Err(e) if is_missing(&e) || is_replaced(&e) => return Ok(false),
            Err(e) => return Err(self.error(e)),
        }
        self.fill(part, room).await.map(|()| true)
    }

    /// Copies a response into memory of its length.
    async fn fill(&self, mut from: BufferStream, to: &mut [u8]) -> Result<()> {
        let (mut at, len) = (0, to.len());
        loop {
            let part = match from.try_next().await {
                Ok(Some(part)) => part,
                Ok(None) => break,
                // OpenDAL counts the bytes of the whole range, and the object may be shorter. Such an error has no source,
                // unlike those of the connection.
                Err(e) if e.source().is_none() => break,
                Err(e) => return Err(self.error(e)),
            };
            for bytes in part {
                let Some(room) = to.get_mut(at..at + bytes.len()) else {
                    let why = format!("the server sends more than the {len} bytes that kvconn asked for");
                    return Err(Error::new(ErrorKind::Corrupt, why));
                };
                room.copy_from_slice(&bytes);
                at += bytes.len();
            }
        }
        if at < len {
            let why = format!("the server sends {at} of the {len} bytes that it announced");
            return Err(Error::new(ErrorKind::Unavailable, why).temporary(true));
        }
        Ok(())
    }

    /// The layout of the object's chunk: recorded beside it, or that of a raw value.
    pub(super) fn layout_of(&self, metadata: &Metadata) -> Result<ChunkLayout> {
        let (len, most) = (metadata.content_length(), self.settings.max_value_bytes);
        if len > most {
            let why = format!("the object of {len} bytes is over the limit of {most}");
            return Err(Error::new(ErrorKind::TooLarge, why).with_hint("`max_value_bytes` is the limit"));
        }
        match entry(metadata, LAYOUT_ENTRY) {
            Some(recorded) => recorded_layout(recorded, len),
            None => raw_layout(self.memory.metadata(), len as usize),
        }
    }
}

/// Waits for both, and ends early if one is `false`.
async fn try_both(one: impl Future<Output = Result<bool>>, other: impl Future<Output = Result<bool>>) -> Result<bool> {
    let ended_early = |read: Result<bool>| match read {
        Ok(true) => Ok(()),
        other => Err(other),
    };
    let both = futures::future::try_join(one.map(ended_early), other.map(ended_early)).await;
    both.map_or_else(|early| early, |_| Ok(true))
}

fn is_missing(e: &opendal::Error) -> bool {
    e.kind() == opendal::ErrorKind::NotFound
}

/// Whether the object has another version than the request asks for. A shorter object does not have the range.
fn is_replaced(e: &opendal::Error) -> bool {
    matches!(e.kind(), opendal::ErrorKind::ConditionNotMatch | opendal::ErrorKind::RangeNotSatisfied)
}
