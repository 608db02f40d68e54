//! The store's exchanges about one key with a server that has both values of the chunk, and the ones about one value.

use connector_core::chunk::MAX_HEADER_GROUPS;
use connector_core::{ChunkHeader, ChunkLayout, Error, ErrorKind, MemoryObj, Result};

use super::layout::{KV_BYTES, METADATA};
use crate::resp_wire::{
    Arg, Connection, Destination, Exchange, Name, Reply, ReplyStart, Request, Suffixes, expect_int, expect_word,
    refusal, unexpected,
};

/// The suffixes of the header and of the bytes.
pub(super) const SUFFIXES: Suffixes = &[METADATA, KV_BYTES];

/// The state of a key.
pub(super) enum Found<A> {
    /// A chunk.
    Chunk(A),
    /// Neither value is there, or a value is not a string.
    Nothing,
    /// Only one value is there.
    Half(Half),
    /// The header and the bytes have different lengths, because a writer may be between its two steps. The store reads
    /// once more.
    Torn(Error),
}

impl<A> Found<A> {
    /// The state of a key whose header says `layout`, and whose bytes are `len`.
    pub(super) fn torn(layout: &ChunkLayout, len: usize) -> Self {
        let why = format!("the header says {} bytes, but {len} are stored", layout.len);
        Self::Torn(Error::new(ErrorKind::Corrupt, why))
    }
}

/// One of a chunk's two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Metadata,
    KvBytes,
}

impl Half {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Metadata => Self::KvBytes,
            Self::KvBytes => Self::Metadata,
        }
    }

    pub(super) fn suffix(self) -> &'static str {
        self.suffixes()[0]
    }

    pub(super) fn suffixes(self) -> Suffixes {
        match self {
            Self::Metadata => &[METADATA],
            Self::KvBytes => &[KV_BYTES],
        }
    }
}

/// `MGET` of header and bytes in one atomic step. The header comes first and says which memory the bytes need.
pub(super) struct Get<'a, D> {
    pub(super) name: Name<'a>,
    pub(super) to: D,
}

impl<D: Destination> Exchange for Get<'_, D> {
    type Answer = Found<D::Chunk>;
    const READS: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.name.parts(METADATA))
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["MGET".into(), self.name.with(METADATA), self.name.with(KV_BYTES)]);
    }

    fn expected_len(&self) -> usize {
        self.to.capacity()
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        match connection.reply_start().await? {
            ReplyStart::Array(2) => {}
            // Keeps its memory, because another server may have the chunk.
            ReplyStart::Whole(reply @ Reply::Error(_)) => return Ok(Err(refusal(reply, "values"))),
            other => return Err(unexpected(&other, "values")),
        }
        let found = self.values(connection).await?;
        self.to.unused();
        Ok(found)
    }
}

impl<D: Destination> Get<'_, D> {
    async fn values(&mut self, connection: &mut Connection) -> Result<Result<Found<D::Chunk>>> {
        let header = match value(connection).await? {
            Some(len) => Some(read_header(connection, len).await?),
            None => None,
        };
        let (header, len) = match (header, value(connection).await?) {
            (None, None) => return Ok(Ok(Found::Nothing)),
            (Some(Ok(_)), None) => return Ok(Ok(Found::Half(Half::Metadata))),
            (Some(Err(e)), None) => return Ok(Err(e)),
            (None, Some(_)) => {
                connection.skip_payload().await?;
                return Ok(Ok(Found::Half(Half::KvBytes)));
            }
            (Some(header), Some(len)) => (header, len),
        };
        if let Ok(layout) = &header
            && layout.len != len
        {
            connection.skip_payload().await?;
            return Ok(Ok(Found::torn(layout, len)));
        }
        if header.is_ok() && len == 0 {
            // Not a chunk, as `exists` says.
            connection.skip_payload().await?;
            return Ok(Ok(Found::Nothing));
        }
        Ok(connection.chunk(len, header, &mut self.to).await?.map(Found::Chunk))
    }
}

/// The length of the next value of an array; `None` if it is missing.
async fn value(connection: &mut Connection) -> Result<Option<usize>> {
    match connection.element_start().await? {
        ReplyStart::Bulk(len) => Ok(Some(len)),
        ReplyStart::Whole(Reply::Null) => Ok(None),
        other => Err(unexpected(&other, "values")),
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
    pub(super) header: ChunkHeader,
    pub(super) chunk: &'a MemoryObj,
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
        let [metadata, kv_bytes] = [METADATA, KV_BYTES].map(|suffix| self.name.with(suffix));
        let (header, chunk) = (self.header.as_bytes().into(), Arg::Payload(self.chunk));
        if self.ttl_sec.is_none() {
            request.command(&["MSET".into(), metadata, header, kv_bytes, chunk]);
        } else {
            request.command(&["MULTI".into()]);
            set(request, metadata, header, self.ttl_sec);
            set(request, kv_bytes, chunk, self.ttl_sec);
            request.command(&["EXEC".into()]);
        }
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
        let executed = match connection.reply().await? {
            Reply::Array(answers) => answers.into_iter().try_for_each(|answer| expect_word(answer, "OK")),
            other => Err(refusal(other, "the answers of a transaction")),
        };
        Ok(queued.and(executed))
    }
}

/// Adds the command that writes one value.
pub(super) fn set<'a>(request: &mut Request<'a>, name: Arg<'a>, value: Arg<'a>, ttl_sec: Option<u64>) {
    match ttl_sec {
        Some(secs) => request.command(&["SET".into(), name, value, "EX".into(), secs.into()]),
        None => request.command(&["SET".into(), name, value]),
    }
}

/// `MGET` of the header: the layout of a chunk, or `None`. With `READS` a replica may answer, whose header may be an older
/// one.
pub(super) struct Header<'a, const READS: bool>(pub(super) Name<'a>);

impl<const READS: bool> Exchange for Header<'_, READS> {
    type Answer = Option<ChunkLayout>;
    const SMALL: bool = true;
    const READS: bool = READS;

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

/// `STRLEN`: the length of one value, 0 if it is missing. `Corrupt` for a value that is not a string.
pub(super) struct Length<'a> {
    pub(super) name: Name<'a>,
    pub(super) half: Half,
}

impl Exchange for Length<'_> {
    type Answer = usize;
    const SMALL: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.name.parts(self.half.suffix()))
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["STRLEN".into(), self.name.with(self.half.suffix())]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<usize>> {
        let len = connection.answer().await?.and_then(expect_int);
        Ok(len.map(|len| usize::try_from(len).unwrap_or(0)))
    }
}

/// `EXPIRE`: a new time to live of one value.
pub(super) struct Renew<'a> {
    pub(super) name: Name<'a>,
    pub(super) half: Half,
    pub(super) ttl_sec: u64,
}

impl Exchange for Renew<'_> {
    type Answer = ();
    const SMALL: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.name.parts(self.half.suffix()))
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["EXPIRE".into(), self.name.with(self.half.suffix()), self.ttl_sec.into()]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<()>> {
        Ok(connection.answer().await?.map(drop))
    }
}
