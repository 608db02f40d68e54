//! Reads a chunk: both values in one atomic step, the header first, which says what memory the bytes need.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

use connector_core::chunk::MAX_HEADER_GROUPS;
use connector_core::{ChunkHeader, ChunkLayout, Error, ErrorKind, LocalCpuBackend, MemoryObj, MemoryObjMut, Result};

use super::layout::{KV_BYTES, METADATA};
use crate::resp_wire::{
    Arg, Connection, Exchange, Head, Reply, Request, read_payload, read_payload_into, server_error,
};

/// Where a chunk is read to.
pub(super) trait Destination: Send {
    /// What its reader gets.
    type Answer: Send;

    /// Bytes that it has room for, if it is there already.
    fn room(&self) -> usize {
        0
    }

    /// Reads the announced payload of `len` bytes, or drops it and gives the inner error.
    fn fill(
        &mut self,
        connection: &mut Connection,
        len: usize,
        layout: ChunkLayout,
    ) -> impl Future<Output = Result<Result<Self::Answer>>> + Send;
}

impl Destination for &LocalCpuBackend {
    type Answer = MemoryObj;

    async fn fill(
        &mut self,
        connection: &mut Connection,
        len: usize,
        layout: ChunkLayout,
    ) -> Result<Result<MemoryObj>> {
        read_payload(connection, len, Ok(layout), self).await
    }
}

impl Destination for &mut MemoryObjMut {
    type Answer = usize;

    fn room(&self) -> usize {
        self.len()
    }

    async fn fill(&mut self, connection: &mut Connection, len: usize, layout: ChunkLayout) -> Result<Result<usize>> {
        read_payload_into(connection, len, Ok(layout), self).await
    }
}

/// What there is under a key.
pub(super) enum Found<A> {
    /// A chunk.
    Chunk(A),
    /// Neither value, or none that is a string.
    Nothing,
    /// One value alone.
    Half(Half),
    /// A header and bytes that do not belong together: LMCache may be between its two steps.
    Torn(Error),
}

/// The value that is there without the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Metadata,
    KvBytes,
}

/// `MGET` of header and bytes.
pub(super) struct Get<'a, D> {
    pub(super) key: &'a [u8],
    pub(super) to: D,
    /// Seconds that both values live on from now.
    pub(super) refresh_sec: Option<u64>,
    /// Whether it was said already that the server refuses that.
    pub(super) warned: &'a AtomicBool,
}

impl<D: Destination> Exchange for Get<'_, D> {
    type Answer = Found<D::Answer>;

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let names = [METADATA, KV_BYTES].map(|suffix| Arg::Joined(self.key, suffix.as_bytes()));
        request.command(&["MGET".into(), names[0], names[1]]);
        if let Some(secs) = self.refresh_sec {
            names.into_iter().for_each(|name| request.command(&["EXPIRE".into(), name, secs.into()]));
        }
    }

    fn expected_len(&self) -> usize {
        self.to.room()
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        let found = match connection.head().await? {
            Head::Array(2) => self.values(connection).await?,
            Head::Reply(Reply::Error(said)) => Err(server_error(&said)),
            other => return Err(no_values(&other)),
        };
        if self.refresh_sec.is_some() {
            for _ in 0..2 {
                // The chunk is there all the same.
                if let Reply::Error(said) = connection.reply().await?
                    && !self.warned.swap(true, Ordering::Relaxed)
                {
                    tracing::warn!("`refresh_ttl` renews nothing: {}", server_error(&said));
                }
            }
        }
        Ok(found)
    }
}

impl<D: Destination> Get<'_, D> {
    async fn values(&mut self, connection: &mut Connection) -> Result<Result<Found<D::Answer>>> {
        let header = match connection.element_head().await? {
            Head::Bulk(len) => Some(read_header(connection, len).await?),
            Head::Reply(Reply::Null) => None,
            other => return Err(no_values(&other)),
        };
        let len = match connection.element_head().await? {
            Head::Bulk(len) => Some(len),
            Head::Reply(Reply::Null) => None,
            other => return Err(no_values(&other)),
        };
        let (layout, len) = match (header, len) {
            (None, None) => return Ok(Ok(Found::Nothing)),
            (Some(_), None) => return Ok(Ok(Found::Half(Half::Metadata))),
            (None, Some(_)) => {
                connection.skip().await?;
                return Ok(Ok(Found::Half(Half::KvBytes)));
            }
            (Some(Err(e)), Some(_)) => {
                connection.skip().await?;
                return Ok(Err(e));
            }
            (Some(Ok(layout)), Some(len)) => (layout, len),
        };
        if layout.len != len {
            connection.skip().await?;
            let why = format!("the header speaks of {} bytes, and {len} are stored", layout.len);
            return Ok(Ok(Found::Torn(Error::new(ErrorKind::Corrupt, why))));
        }
        Ok(self.to.fill(connection, len, layout).await?.map(Found::Chunk))
    }
}

async fn read_header(connection: &mut Connection, len: usize) -> Result<Result<ChunkLayout>> {
    const ONE_GROUP: usize = ChunkHeader::len_for(1);
    if len == ONE_GROUP {
        let mut bytes = [0; ONE_GROUP];
        connection.payload(&mut bytes).await?;
        return Ok(ChunkHeader::read(&bytes));
    }
    if len > ChunkHeader::len_for(MAX_HEADER_GROUPS) {
        connection.skip().await?;
        return Ok(Err(Error::new(ErrorKind::Corrupt, format!("{len} bytes are too many for a chunk header"))));
    }
    let mut bytes = vec![0; len];
    connection.payload(&mut bytes).await?;
    Ok(ChunkHeader::read(&bytes))
}

fn no_values(head: &Head) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the server answers {head:?} where two values belong"))
}
