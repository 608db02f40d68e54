//! The store's exchanges with a server, each about one key.

use std::sync::atomic::AtomicBool;

use connector_core::chunk::MAX_HEADER_GROUPS;
use connector_core::{ChunkHeader, ChunkLayout, Error, ErrorKind, Result};

use super::layout::{KV_BYTES, METADATA};
use crate::resp_wire::{
    Arg, Connection, Destination, Exchange, Name, Reply, ReplyStart, Request, Slots, expect_int, expect_word, read_expire,
    refusal, unexpected,
};

/// The suffixes of the header and of the bytes.
pub(super) const SUFFIXES: [&str; 2] = [METADATA, KV_BYTES];

/// The state of a key.
pub(super) enum Found<A> {
    /// A chunk.
    Chunk(A),
    /// Neither value is there, or a value is not a string.
    Nothing,
    /// Only one value is there.
    Half(Half),
    /// The store must ask again: a header and bytes of different lengths, because LMCache may be between its two steps;
    /// or a server that takes only [one name in a command](Slots).
    Again(Error),
}

/// The value that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Metadata,
    KvBytes,
}

/// `MGET` of header and bytes in one atomic step. The header comes first and says which memory the bytes need.
pub(super) struct Get<'a, D> {
    pub(super) name: Name<'a>,
    pub(super) slots: Slots<'a>,
    pub(super) to: D,
    /// If set, the new time to live of both values, in seconds.
    pub(super) refresh_sec: Option<u64>,
    /// Whether kvconn already logged that the server refuses to renew it.
    pub(super) warned: &'a AtomicBool,
}

impl<D: Destination> Exchange for Get<'_, D> {
    type Answer = Found<D::Chunk>;
    const READS: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.name.parts(METADATA))
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let names = SUFFIXES.map(|suffix| self.name.with(suffix));
        match names {
            [header, bytes] if !self.slots.apart => request.command(&["MGET".into(), header, bytes]),
            names => names.into_iter().for_each(|name| request.command(&["MGET".into(), name])),
        }
        if let Some(secs) = self.refresh_sec {
            names.into_iter().for_each(|name| request.command(&["EXPIRE".into(), name, secs.into()]));
        }
    }

    fn expected_len(&self) -> usize {
        self.to.capacity()
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        let found = self.values(connection).await?;
        self.to.unused();
        if self.refresh_sec.is_some() {
            for _ in 0..2 {
                read_expire(connection, self.warned).await?;
            }
        }
        Ok(found)
    }
}

impl<D: Destination> Get<'_, D> {
    async fn values(&mut self, connection: &mut Connection) -> Result<Result<Found<D::Chunk>>> {
        let header = match self.value(connection, 2).await? {
            Ok(Some(len)) => Ok(Some(read_header(connection, len).await?)),
            Ok(None) => Ok(None),
            // No array follows.
            Err(e) if self.slots.is_outdated() => return Ok(Ok(Found::Again(e))),
            Err(e) if !self.slots.apart => return Ok(Err(e)),
            Err(e) => Err(e),
        };
        let value = self.value(connection, 1).await?;
        let (header, len) = match (header, value) {
            (Err(e), value) => {
                if let Ok(Some(_)) = value {
                    connection.skip_payload().await?;
                }
                return Ok(Err(e));
            }
            (_, Err(e)) => return Ok(Err(e)),
            (Ok(None), Ok(None)) => return Ok(Ok(Found::Nothing)),
            (Ok(Some(_)), Ok(None)) => return Ok(Ok(Found::Half(Half::Metadata))),
            (Ok(None), Ok(Some(_))) => {
                connection.skip_payload().await?;
                return Ok(Ok(Found::Half(Half::KvBytes)));
            }
            (Ok(Some(header)), Ok(Some(len))) => (header, len),
        };
        if let Ok(layout) = &header
            && layout.len != len
        {
            let why = format!("the header says {} bytes, but {len} are stored", layout.len);
            connection.skip_payload().await?;
            return Ok(Ok(Found::Again(Error::new(ErrorKind::Corrupt, why))));
        }
        if header.is_ok() && len == 0 {
            // Not a chunk, as `exists` says.
            connection.skip_payload().await?;
            return Ok(Ok(Found::Nothing));
        }
        Ok(connection.chunk(len, header, &mut self.to).await?.map(Found::Chunk))
    }

    /// The length of the next value; `None` if it is missing. `left` counts the values that are still to come.
    async fn value(&mut self, connection: &mut Connection, left: usize) -> Result<Result<Option<usize>>> {
        let array = if self.slots.apart { 1 } else { 2 };
        if self.slots.apart || left == 2 {
            match connection.reply_start().await? {
                ReplyStart::Array(n) if n == array => {}
                ReplyStart::Whole(reply @ Reply::Error(_)) => {
                    return Ok(Err(refusal(self.slots.learn(reply), "values")));
                }
                other => return Err(unexpected(&other, "values")),
            }
        }
        match connection.element_start().await? {
            ReplyStart::Bulk(len) => Ok(Ok(Some(len))),
            ReplyStart::Whole(Reply::Null) => Ok(Ok(None)),
            other => Err(unexpected(&other, "values")),
        }
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
    pub(super) name: Name<'a>,
    pub(super) slots: Slots<'a>,
    pub(super) header: ChunkHeader,
    pub(super) chunk: &'a [u8],
    /// Seconds until the server drops the chunk.
    pub(super) ttl_sec: Option<u64>,
}

impl Exchange for Put<'_> {
    type Answer = ();

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.name.parts(METADATA))
    }

    /// The chunk comes last. The server would have to wait for the socket again for an argument behind a large one,
    /// which costs a sixth of the throughput.
    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let [metadata, kv_bytes] = SUFFIXES.map(|suffix| self.name.with(suffix));
        let (header, chunk) = (self.header.as_bytes().into(), Arg::Payload(self.chunk));
        let set = |request: &mut Request<'a>, name, value| match self.ttl_sec {
            Some(secs) => request.command(&["SET".into(), name, value, "EX".into(), secs.into()]),
            None => request.command(&["SET".into(), name, value]),
        };
        if self.slots.apart {
            // The header last, as in LMCache.
            set(request, kv_bytes, chunk);
            set(request, metadata, header);
        } else if self.ttl_sec.is_none() {
            request.command(&["MSET".into(), metadata, header, kv_bytes, chunk]);
        } else {
            request.command(&["MULTI".into()]);
            set(request, metadata, header);
            set(request, kv_bytes, chunk);
            request.command(&["EXEC".into()]);
        }
    }

    fn expected_len(&self) -> usize {
        self.chunk.len()
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<()>> {
        if self.slots.apart {
            let bytes = expect_word(connection.reply().await?, "OK");
            return Ok(bytes.and(expect_word(connection.reply().await?, "OK")));
        }
        if self.ttl_sec.is_none() {
            return Ok(expect_word(self.slots.learn(connection.reply().await?), "OK"));
        }
        // The first error has the reason. `EXEC` then only reports that there was an error.
        let mut queued = Ok(());
        for word in ["OK", "QUEUED", "QUEUED"] {
            queued = queued.and(expect_word(connection.reply().await?, word));
        }
        let executed = match self.slots.learn(connection.reply().await?) {
            Reply::Array(answers) => answers.into_iter().try_for_each(|answer| expect_word(answer, "OK")),
            other => Err(refusal(other, "the answers of a transaction")),
        };
        Ok(queued.and(executed))
    }
}

/// `MGET` of the header: the layout of a chunk, or `None`.
pub(super) struct Header<'a>(pub(super) Name<'a>);

impl Exchange for Header<'_> {
    type Answer = Option<ChunkLayout>;
    const SMALL: bool = true;
    const READS: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.0.parts(METADATA))
    }

    /// `MGET` gives null for a value that is not a string, where `GET` gives an error.
    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["MGET".into(), self.0.with(METADATA)]);
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

/// The bytes of the header and the chunk. `None` unless `get` can read the chunk, whose length is that in the header.
pub(super) struct Size<'a>(pub(super) Name<'a>);

impl Exchange for Size<'_> {
    type Answer = Option<u64>;
    const SMALL: bool = true;
    const READS: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.0.parts(METADATA))
    }

    /// `MGET` gives null for a value that is not a string, where `GET` gives an error.
    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["MGET".into(), self.0.with(METADATA)]);
        request.command(&["STRLEN".into(), self.0.with(KV_BYTES)]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Option<u64>>> {
        let header = connection.answer().await?.and_then(one_value);
        let len = match connection.answer().await? {
            Ok(reply) => expect_int(reply),
            // The value is not a string.
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok(0),
            Err(e) => Err(e),
        };
        Ok(header.and_then(|header| size_of_chunk(header, len?)))
    }
}

fn size_of_chunk(header: Reply, len: i64) -> Result<Option<u64>> {
    let len = usize::try_from(len).unwrap_or(0);
    match header {
        Reply::Bulk(header) => {
            let is_chunk = len > 0 && ChunkHeader::read(&header).is_ok_and(|layout| layout.len == len);
            Ok(is_chunk.then_some((header.len() + len) as u64))
        }
        Reply::Null => Ok(None),
        other => Err(unexpected(&other, "a header")),
    }
}
