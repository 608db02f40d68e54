//! The store's exchanges with a server, each about one key.

use std::sync::atomic::{AtomicBool, Ordering};

use connector_core::raw_layout;
use connector_core::{ChunkLayout, Error, ErrorKind, LMCacheMetadata, Result};

use crate::resp_wire::{
    Arg, Connection, Destination, Exchange, Name, Reply, ReplyStart, Request, expect_int, expect_word, server_error,
};

/// `GET` of a chunk.
pub(super) struct Get<'a, D> {
    pub(super) name: Name<'a>,
    pub(super) to: D,
    /// Gives the layout of a value.
    pub(super) metadata: Option<&'a LMCacheMetadata>,
    /// If set, the new time to live of the value, in seconds.
    pub(super) refresh_sec: Option<u64>,
    /// Whether kvconn already logged that the server refuses to renew it.
    pub(super) warned: &'a AtomicBool,
}

impl<D: Destination> Exchange for Get<'_, D> {
    /// `None` is a miss.
    type Answer = Option<D::Chunk>;
    const READS: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.name.parts(""))
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["GET".into(), self.name.with("")]);
        if let Some(secs) = self.refresh_sec {
            request.command(&["EXPIRE".into(), self.name.with(""), secs.into()]);
        }
    }

    fn expected_len(&self) -> usize {
        self.to.capacity()
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        let answer = match connection.reply_start().await? {
            ReplyStart::Bulk(len) => {
                let layout = layout_of(self.metadata, len);
                connection.chunk(len, layout, &mut self.to).await?.map(Some)
            }
            ReplyStart::Whole(Reply::Null) => Ok(None),
            // Keeps its memory, because another server may have the chunk. The wire drops the answer to `EXPIRE`.
            ReplyStart::Whole(Reply::Error(text)) => return Ok(Err(server_error(&text))),
            // Fails the connection, because the elements of an array would count as the next answers.
            _ => return Err(Error::new(ErrorKind::Corrupt, "the server's answer to GET is not a string")),
        };
        self.to.unused();
        if self.refresh_sec.is_some() {
            read_expire(connection, self.warned).await?;
        }
        Ok(answer)
    }
}

/// Reads the answer to an `EXPIRE`. Logs the first refusal: the chunk is valid even so.
///
/// # Errors
/// The connection's.
async fn read_expire(connection: &mut Connection, warned: &AtomicBool) -> Result<()> {
    if let Err(e) = connection.answer().await?
        && !warned.swap(true, Ordering::Relaxed)
    {
        tracing::warn!("`refresh_ttl` renews nothing: {e}");
    }
    Ok(())
}

fn layout_of(metadata: Option<&LMCacheMetadata>, len: usize) -> Result<ChunkLayout> {
    match len {
        0 => Err(Error::new(ErrorKind::Corrupt, "an empty value is not a chunk")),
        len => raw_layout(metadata, len),
    }
}

/// `SET` of a chunk, or `SETEX` with a time to live.
pub(super) struct Put<'a> {
    pub(super) name: Name<'a>,
    pub(super) chunk: &'a [u8],
    /// The time to live, in seconds.
    pub(super) ttl_sec: Option<u64>,
}

impl Exchange for Put<'_> {
    type Answer = ();

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.name.parts(""))
    }

    /// The chunk comes last. (In `SET .. EX` it does not, and the server waits for the socket once more.)
    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let (name, chunk) = (self.name.with(""), Arg::Payload(self.chunk));
        match self.ttl_sec {
            None => request.command(&["SET".into(), name, chunk]),
            Some(secs) => request.command(&["SETEX".into(), name, secs.into(), chunk]),
        }
    }

    fn expected_len(&self) -> usize {
        self.chunk.len()
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<()>> {
        Ok(expect_word(connection.reply().await?, "OK"))
    }
}

/// `STRLEN`: the layout of a chunk, or `None`.
pub(super) struct Length<'a> {
    pub(super) name: Name<'a>,
    pub(super) metadata: Option<&'a LMCacheMetadata>,
}

impl Exchange for Length<'_> {
    type Answer = Option<ChunkLayout>;
    const SMALL: bool = true;
    const READS: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.name.parts(""))
    }

    /// A missing key has the length 0.
    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["STRLEN".into(), self.name.with("")]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        Ok(connection.answer().await?.and_then(expect_int).and_then(|len| match usize::try_from(len).unwrap_or(0) {
            0 => Ok(None),
            len => raw_layout(self.metadata, len).map(Some),
        }))
    }
}

/// `STRLEN`: the bytes of a value, 0 if it is missing. `None` for a value that is not a string.
pub(super) struct Size<'a>(pub(super) Name<'a>);

impl Exchange for Size<'_> {
    type Answer = Option<usize>;
    const SMALL: bool = true;
    const READS: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        Some(self.0.parts(""))
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["STRLEN".into(), self.0.with("")]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Option<usize>>> {
        Ok(match connection.answer().await? {
            Ok(reply) => expect_int(reply).map(|len| Some(usize::try_from(len).unwrap_or(0))),
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok(None),
            Err(e) => Err(e),
        })
    }
}
