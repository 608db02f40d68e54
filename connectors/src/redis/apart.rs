//! Chunks in a cluster: the header and the bytes of a chunk lie on two nodes, so each has its own exchange.

use std::collections::HashMap;

use connector_core::{ChunkHeader, ChunkLayout, Error, ErrorKind, MemoryObj, MemoryObjMut, Result};
use futures::future::join;

use super::exchanges::{Found, Half, Header, Length, Put, set};
use super::layout::KV_BYTES;
use crate::places::Place;
use crate::resp_wire::{
    Arg, Connection, Destination, Exchange, Name, Remover, Reply, ReplyStart, Request, Wire, expect_word, server_error,
    unexpected,
};

/// Memory that takes a chunk's bytes before their layout is known.
pub(super) trait Relabel: Destination {
    /// The layout of memory that exists before the answer.
    fn layout(&self) -> Option<&ChunkLayout>;

    /// The chunk that was read, with a layout of the same length that came later.
    ///
    /// # Errors
    /// `PoolFull` if the memory keeps its layout.
    fn relabel(&mut self, chunk: Self::Chunk, layout: ChunkLayout) -> Result<Self::Chunk>;
}

impl Relabel for Place {
    fn layout(&self) -> Option<&ChunkLayout> {
        self.layout()
    }

    fn relabel(&mut self, chunk: MemoryObj, layout: ChunkLayout) -> Result<MemoryObj> {
        self.with_layout(chunk, layout)
    }
}

impl Relabel for MemoryObjMut {
    fn layout(&self) -> Option<&ChunkLayout> {
        Some(self.layout())
    }

    fn relabel(&mut self, len: usize, layout: ChunkLayout) -> Result<usize> {
        self.set_layout(layout).map(|()| len)
    }
}

impl<D: Relabel> Relabel for &mut D {
    fn layout(&self) -> Option<&ChunkLayout> {
        (**self).layout()
    }

    fn relabel(&mut self, chunk: D::Chunk, layout: ChunkLayout) -> Result<D::Chunk> {
        (**self).relabel(chunk, layout)
    }
}

/// Reads header and bytes at the same time. So the bytes come into memory before their layout is known.
pub(super) async fn read<D: Relabel>(wire: &Wire, mut items: Vec<(Name<'_>, D)>) -> Vec<Result<Found<D::Chunk>>> {
    let headers = items.iter().map(|&(name, _)| Header::<true>(name)).collect();
    let bytes = items.iter_mut().map(|(name, to)| Bytes { name: *name, to }).collect();
    let (headers, bytes) = join(wire.exchange_all(headers), wire.exchange_all(bytes)).await;
    items
        .into_iter()
        .zip(headers.into_iter().zip(bytes))
        .map(|((_, to), (header, bytes))| found(to, header, bytes))
        .collect()
}

fn found<D: Relabel>(
    mut to: D,
    header: Result<Option<ChunkLayout>>,
    bytes: Result<Option<(usize, D::Chunk)>>,
) -> Result<Found<D::Chunk>> {
    // The bytes exist, even if no memory was free for them.
    let is_there = |e: &Error| matches!(e.kind(), ErrorKind::PoolFull | ErrorKind::SizeMismatch);
    match (header?, bytes) {
        (None, Ok(None)) => Ok(Found::Nothing),
        (None, Ok(Some(_))) => Ok(Found::Half(Half::KvBytes)),
        (None, Err(e)) if is_there(&e) => Ok(Found::Half(Half::KvBytes)),
        (_, Err(e)) => Err(e),
        (Some(_), Ok(None)) => Ok(Found::Half(Half::Metadata)),
        (Some(layout), Ok(Some((len, _)))) if layout.len != len => Ok(Found::torn(&layout, len)),
        (Some(layout), Ok(Some((_, chunk)))) => to.relabel(chunk, layout).map(Found::Chunk),
    }
}

/// `GET` of the bytes.
struct Bytes<'a, D> {
    name: Name<'a>,
    to: D,
}

impl<D: Relabel> Exchange for Bytes<'_, D> {
    /// The length, and the chunk with a layout of that length. An empty value counts as missing.
    type Answer = Option<(usize, D::Chunk)>;
    const READS: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.name.parts(KV_BYTES))
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["GET".into(), self.name.with(KV_BYTES)]);
    }

    fn expected_len(&self) -> usize {
        self.to.capacity()
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        let answer = match connection.reply_start().await? {
            ReplyStart::Bulk(0) => {
                connection.skip_payload().await?;
                Ok(None)
            }
            ReplyStart::Bulk(len) => {
                let expected = self.to.layout().filter(|layout| layout.len == len).cloned();
                let layout = Ok(expected.unwrap_or_else(|| ChunkLayout::binary(len)));
                connection.chunk(len, layout, &mut self.to).await?.map(|chunk| Some((len, chunk)))
            }
            ReplyStart::Whole(Reply::Null) => Ok(None),
            // Keeps its memory, because another server may have the chunk.
            ReplyStart::Whole(Reply::Error(text)) => return Ok(Err(server_error(&text))),
            other => return Err(unexpected(&other, "the bytes of a chunk")),
        };
        self.to.unused();
        Ok(answer)
    }
}

/// The bytes of the header and the chunk. `None` unless `get` can read the chunk.
pub(super) async fn sizes(wire: &Wire, names: &[Name<'_>]) -> Vec<Result<Option<u64>>> {
    let headers = names.iter().map(|&name| Header::<true>(name)).collect();
    let lengths = names.iter().map(|&name| Length { name, half: Half::KvBytes }).collect();
    let (headers, lengths) = join(wire.exchange_all(headers), wire.exchange_all(lengths)).await;
    let size = |both: (Result<Option<ChunkLayout>>, Result<usize>)| match both {
        (Ok(Some(layout)), Ok(len)) if len > 0 && len == layout.len => {
            Ok(Some((ChunkHeader::len_for(layout.groups.len()) + len) as u64))
        }
        (Err(e), _) | (_, Err(e)) if e.kind() != ErrorKind::Corrupt => Err(e),
        _ => Ok(None),
    };
    headers.into_iter().zip(lengths).map(size).collect()
}

/// Writes the bytes, and then the headers of the bytes that the servers took. So a header never waits for its bytes.
///
/// No put that ends half-way leaves a header beside bytes of another layout: a stored header of another layout goes
/// first.
pub(super) async fn write<'p>(wire: &Wire, remover: &Remover, puts: Vec<Put<'p>>) -> Vec<Result<()>> {
    // Two puts of one key at the same time could leave a half of each, so only the first one counts.
    let (mut places, mut firsts) = (HashMap::new(), Vec::new());
    let place = |put: Put<'p>| {
        *places.entry(put.name.key).or_insert_with(|| {
            firsts.push(put);
            firsts.len() - 1
        })
    };
    let places: Vec<usize> = puts.into_iter().map(place).collect();
    let cleared = clear(wire, remover, &firsts).await;
    let bytes = firsts.iter().zip(cleared).map(|(put, cleared)| cleared.map(|()| Set::<false>::of(put, Half::KvBytes)));
    let written = wire.exchange_valid(bytes).await;
    let headers =
        firsts.iter().zip(written).map(|(put, written)| written.map(|()| Set::<true>::of(put, Half::Metadata)));
    let answers = wire.exchange_valid(headers).await;
    places.into_iter().map(|at| answers[at].clone()).collect()
}

/// Removes the headers of another layout than the put's.
async fn clear(wire: &Wire, remover: &Remover, puts: &[Put<'_>]) -> Vec<Result<()>> {
    let stored = wire.exchange_all(puts.iter().map(|put| Header::<false>(put.name)).collect()).await;
    let is_stale = |(put, stored): &(&Put<'_>, &Result<Option<ChunkLayout>>)| match stored {
        Ok(stored) => stored.as_ref().is_some_and(|layout| layout != put.chunk.layout()),
        Err(e) => e.kind() == ErrorKind::Corrupt,
    };
    let stale: Vec<_> = puts.iter().zip(&stored).map(|both| is_stale(&both)).collect();
    let headers: Vec<_> = puts
        .iter()
        .zip(&stale)
        .filter(|(_, stale)| **stale)
        .map(|(put, _)| (put.name, Half::Metadata.suffixes()))
        .collect();
    let mut removed = remover.remove(wire, &headers).await.into_iter();
    stored
        .into_iter()
        .zip(stale)
        .map(|(stored, stale)| match stale {
            true => removed.next().unwrap_or_else(|| Err(Error::closed())).map(drop),
            false => stored.map(drop),
        })
        .collect()
}

/// `SET` of one value.
struct Set<'a, const SMALL: bool> {
    name: Name<'a>,
    half: Half,
    value: &'a [u8],
    ttl_sec: Option<u64>,
}

impl<'a, const SMALL: bool> Set<'a, SMALL> {
    fn of(put: &'a Put<'_>, half: Half) -> Self {
        let value = match half {
            Half::Metadata => put.header.as_bytes(),
            Half::KvBytes => put.chunk,
        };
        Self { name: put.name, half, value, ttl_sec: put.ttl_sec }
    }
}

impl<const SMALL: bool> Exchange for Set<'_, SMALL> {
    type Answer = ();
    const SMALL: bool = SMALL;

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.name.parts(self.half.suffix()))
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        set(request, self.name.with(self.half.suffix()), Arg::Payload(self.value), self.ttl_sec);
    }

    fn expected_len(&self) -> usize {
        self.value.len()
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<()>> {
        Ok(expect_word(connection.reply().await?, "OK"))
    }
}
