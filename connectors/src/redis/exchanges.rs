//! The store's exchanges with a server, each about one key.

use std::sync::atomic::{AtomicBool, Ordering};

use connector_core::chunk::MAX_HEADER_GROUPS;
use connector_core::{CacheKey, ChunkHeader, ChunkLayout, Error, ErrorKind, Result};

use super::layout::{KV_BYTES, METADATA};
use crate::resp_wire::{
    Arg, Connection, Destination, Exchange, Reply, ReplyStart, Request, expect_int, expect_word, server_error,
    unexpected,
};

/// The names of the header and of the bytes.
fn names(key: &CacheKey) -> [Arg<'_>; 2] {
    [METADATA, KV_BYTES].map(|suffix| Arg::Joined(key.as_str().as_bytes(), suffix.as_bytes()))
}

/// The state of a key.
pub(super) enum Found<A> {
    /// A chunk.
    Chunk(A),
    /// Neither value is there, or a value is not a string.
    Nothing,
    /// Only one value is there.
    Half(Half),
    /// A header and bytes of different lengths. LMCache may be between its two steps.
    Torn(Error),
}

/// The value that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Metadata,
    KvBytes,
}

/// `MGET` of header and bytes in one atomic step. The header comes first and says which memory the bytes need.
pub(super) struct Get<'a, D> {
    pub(super) key: &'a CacheKey,
    pub(super) to: D,
    /// If set, the new time to live of both values, in seconds.
    pub(super) refresh_sec: Option<u64>,
    /// Whether kvconn already logged that the server refuses to renew it.
    pub(super) warned: &'a AtomicBool,
}

impl<D: Destination> Exchange for Get<'_, D> {
    type Answer = Found<D::Chunk>;

    fn key(&self) -> Option<&[u8]> {
        Some(self.key.as_str().as_bytes())
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let names = names(self.key);
        request.command(&["MGET".into(), names[0], names[1]]);
        if let Some(secs) = self.refresh_sec {
            names.into_iter().for_each(|name| request.command(&["EXPIRE".into(), name, secs.into()]));
        }
    }

    fn expected_len(&self) -> usize {
        self.to.capacity()
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        let found = match connection.reply_start().await? {
            ReplyStart::Array(2) => self.values(connection).await?,
            ReplyStart::Whole(Reply::Error(text)) => Err(server_error(&text)),
            other => return Err(unexpected(&other, "two values")),
        };
        self.to.unused();
        if self.refresh_sec.is_some() {
            for _ in 0..2 {
                // The chunk is valid even so.
                if let Err(e) = connection.answer().await?
                    && !self.warned.swap(true, Ordering::Relaxed)
                {
                    tracing::warn!("`refresh_ttl` renews nothing: {e}");
                }
            }
        }
        Ok(found)
    }
}

impl<D: Destination> Get<'_, D> {
    async fn values(&mut self, connection: &mut Connection) -> Result<Result<Found<D::Chunk>>> {
        let header = match value_len(connection).await? {
            Some(len) => Some(read_header(connection, len).await?),
            None => None,
        };
        let (header, len) = match (header, value_len(connection).await?) {
            (None, None) => return Ok(Ok(Found::Nothing)),
            (Some(_), None) => return Ok(Ok(Found::Half(Half::Metadata))),
            (None, Some(_)) => {
                connection.skip_payload().await?;
                return Ok(Ok(Found::Half(Half::KvBytes)));
            }
            (Some(header), Some(len)) => (header, len),
        };
        if let Ok(layout) = &header
            && layout.len != len
        {
            let why = format!("the header says {} bytes, but {len} are stored", layout.len);
            connection.skip_payload().await?;
            return Ok(Ok(Found::Torn(Error::new(ErrorKind::Corrupt, why))));
        }
        Ok(connection.chunk(len, header, &mut self.to).await?.map(Found::Chunk))
    }
}

/// The length of the next value; `None` if there is none.
async fn value_len(connection: &mut Connection) -> Result<Option<usize>> {
    match connection.element_start().await? {
        ReplyStart::Bulk(len) => Ok(Some(len)),
        ReplyStart::Whole(Reply::Null) => Ok(None),
        other => Err(unexpected(&other, "two values")),
    }
}

async fn read_header(connection: &mut Connection, len: usize) -> Result<Result<ChunkLayout>> {
    const ONE_GROUP: usize = ChunkHeader::len_for(1);
    if len > ChunkHeader::len_for(MAX_HEADER_GROUPS) {
        let why = format!("{len} bytes are too many for a chunk header");
        return connection.refuse(Error::new(ErrorKind::Corrupt, why)).await;
    }
    // Nearly every header has one group, and needs no allocation.
    let (mut one_group, mut longer) = ([0; ONE_GROUP], Vec::new());
    let bytes = if len == ONE_GROUP {
        &mut one_group[..]
    } else {
        longer.resize(len, 0);
        &mut longer
    };
    connection.payload(bytes).await?;
    Ok(ChunkHeader::read(bytes))
}

/// `MSET` of header and bytes, or a transaction of two `SET .. EX`: one atomic step.
pub(super) struct Put<'a> {
    pub(super) key: &'a CacheKey,
    pub(super) header: ChunkHeader,
    pub(super) chunk: &'a [u8],
    /// Seconds until the server drops the chunk.
    pub(super) ttl_sec: Option<u64>,
}

impl Exchange for Put<'_> {
    type Answer = ();

    fn key(&self) -> Option<&[u8]> {
        Some(self.key.as_str().as_bytes())
    }

    /// The chunk comes last. The server would have to wait for the socket again for an argument behind a large one,
    /// which costs a sixth of the throughput.
    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let [metadata, kv_bytes] = names(self.key);
        let (header, chunk) = (self.header.as_bytes().into(), Arg::Payload(self.chunk));
        let Some(secs) = self.ttl_sec else {
            request.command(&["MSET".into(), metadata, header, kv_bytes, chunk]);
            return;
        };
        request.command(&["MULTI".into()]);
        for (name, value) in [(metadata, header), (kv_bytes, chunk)] {
            request.command(&["SET".into(), name, value, "EX".into(), secs.into()]);
        }
        request.command(&["EXEC".into()]);
    }

    fn expected_len(&self) -> usize {
        self.chunk.len()
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<()>> {
        if self.ttl_sec.is_none() {
            return Ok(expect_word(connection.reply().await?, "OK"));
        }
        // The first error has the reason. `EXEC` then only reports that there was an error.
        let mut queued = Ok(());
        for word in ["OK", "QUEUED", "QUEUED"] {
            queued = queued.and(expect_word(connection.reply().await?, word));
        }
        let executed = connection.answer().await?.and_then(|reply| match reply {
            Reply::Array(answers) => answers.into_iter().try_for_each(|answer| expect_word(answer, "OK")),
            other => Err(unexpected(&other, "the answers of a transaction")),
        });
        Ok(queued.and(executed))
    }
}

/// `MGET` of the header: the layout of a chunk, or `None`.
pub(super) struct Header<'a>(pub(super) &'a CacheKey);

impl Exchange for Header<'_> {
    type Answer = Option<ChunkLayout>;
    const SMALL: bool = true;

    fn key(&self) -> Option<&[u8]> {
        Some(self.0.as_str().as_bytes())
    }

    /// `MGET` gives null for a value that is not a string, where `GET` gives an error.
    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let [metadata, _] = names(self.0);
        request.command(&["MGET".into(), metadata]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        Ok(connection.answer().await?.and_then(|reply| match one_value(reply)? {
            Reply::Bulk(header) => ChunkHeader::read(&header).map(Some),
            Reply::Null => Ok(None),
            other => Err(unexpected(&other, "a header")),
        }))
    }
}

fn one_value(reply: Reply) -> Result<Reply> {
    match reply {
        Reply::Array(mut values) if values.len() == 1 => Ok(values.remove(0)),
        other => Err(unexpected(&other, "a header")),
    }
}

/// Whether there is a chunk that `get` can read: a header and the number of bytes that it says.
pub(super) struct Exists<'a>(pub(super) &'a CacheKey);

impl Exchange for Exists<'_> {
    type Answer = bool;
    const SMALL: bool = true;

    fn key(&self) -> Option<&[u8]> {
        Some(self.0.as_str().as_bytes())
    }

    /// `MGET` gives null for a value that is not a string, where `GET` gives an error.
    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let [metadata, kv_bytes] = names(self.0);
        request.command(&["MGET".into(), metadata]);
        request.command(&["STRLEN".into(), kv_bytes]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<bool>> {
        let header = connection.answer().await?.and_then(one_value);
        let len = connection.answer().await?.and_then(expect_int);
        Ok(header.and_then(|header| is_chunk(header, len)))
    }
}

fn is_chunk(header: Reply, len: Result<i64>) -> Result<bool> {
    let len = match len {
        Ok(len) => usize::try_from(len).unwrap_or(0),
        // The value is not a string.
        Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(false),
        Err(e) => return Err(e),
    };
    match header {
        Reply::Bulk(header) => Ok(len > 0 && ChunkHeader::read(&header).is_ok_and(|layout| layout.len == len)),
        Reply::Null => Ok(false),
        other => Err(unexpected(&other, "a header")),
    }
}

/// Removes both values in one command. A whole chunk counts as removed.
pub(super) struct Remove<'a> {
    pub(super) key: &'a CacheKey,
    /// `UNLINK`, or `DEL` for a server that does not know it.
    pub(super) command: &'static str,
}

impl Exchange for Remove<'_> {
    type Answer = bool;
    const SMALL: bool = true;
    const REPEATABLE: bool = false;

    fn key(&self) -> Option<&[u8]> {
        Some(self.key.as_str().as_bytes())
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let [metadata, kv_bytes] = names(self.key);
        request.command(&[self.command.into(), metadata, kv_bytes]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<bool>> {
        Ok(connection.answer().await?.and_then(expect_int).map(|removed| removed == 2))
    }
}
