//! Chunks over the wire: the payload of a reply to memory, and memory as the payload of a request.

use connector_core::{ChunkLayout, Error, ErrorKind, LocalCpuBackend, MemoryObj, MemoryObjMut, Result};

use super::connection::Connection;
use super::errors::{server_error, unexpected};
use super::exchange::Exchange;
use super::reply::{Head, Reply};
use super::request::{Arg, Request};

/// Where memory for a value comes from: its length says the layout, the backend gives the memory.
#[cfg_attr(not(feature = "resp"), expect(dead_code, reason = "what `resp` needs"))]
pub(crate) struct Memory<'a, L> {
    /// Gives the memory.
    pub(crate) backend: &'a LocalCpuBackend,
    /// What a value of so many bytes is.
    pub(crate) layout: L,
}

/// `GET key` into fresh memory.
#[cfg_attr(not(feature = "resp"), expect(dead_code, reason = "what `resp` needs"))]
pub(crate) struct Get<'a, L> {
    /// The key, as the server knows it.
    pub(crate) key: &'a [u8],
    /// For the value.
    pub(crate) memory: &'a Memory<'a, L>,
}

impl<L: Fn(usize) -> Result<ChunkLayout> + Send + Sync> Exchange for Get<'_, L> {
    type Answer = Option<MemoryObj>;

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["GET".into(), self.key.into()]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        match connection.head().await? {
            Head::Bulk(len) => {
                let layout = (self.memory.layout)(len);
                Ok(read_payload(connection, len, layout, self.memory.backend).await?.map(Some))
            }
            head => miss_or_error(head),
        }
    }
}

/// `GET key` into the caller's memory.
#[cfg_attr(not(feature = "resp"), expect(dead_code, reason = "what `resp` needs"))]
pub(crate) struct GetInto<'a, L> {
    /// The key, as the server knows it.
    pub(crate) key: &'a [u8],
    /// Takes the value.
    pub(crate) dst: &'a mut MemoryObjMut,
    /// What a value of so many bytes is.
    pub(crate) layout: &'a L,
}

impl<L: Fn(usize) -> Result<ChunkLayout> + Send + Sync> Exchange for GetInto<'_, L> {
    type Answer = Option<usize>;

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["GET".into(), self.key.into()]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<Self::Answer>> {
        match connection.head().await? {
            Head::Bulk(len) => {
                let layout = (self.layout)(len);
                Ok(read_payload_into(connection, len, layout, self.dst).await?.map(Some))
            }
            head => miss_or_error(head),
        }
    }

    fn expected_len(&self) -> usize {
        self.dst.len()
    }
}

/// `SET key chunk`.
#[cfg_attr(not(feature = "resp"), expect(dead_code, reason = "what `resp` needs"))]
pub(crate) struct Set<'a> {
    /// The key, as the server knows it.
    pub(crate) key: &'a [u8],
    /// The value.
    pub(crate) chunk: &'a [u8],
    /// Seconds until the server drops it.
    pub(crate) ttl_secs: Option<u64>,
}

impl Exchange for Set<'_> {
    type Answer = ();

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        let set: [Arg<'_>; 3] = ["SET".into(), self.key.into(), Arg::Payload(self.chunk)];
        match self.ttl_secs {
            None => request.command(&set),
            Some(secs) => request.command(&[set[0], set[1], set[2], "EX".into(), secs.into()]),
        };
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<()>> {
        Ok(ok(connection.reply().await?))
    }

    fn expected_len(&self) -> usize {
        self.chunk.len()
    }
}

/// Reads the payload that [`Head::Bulk`] announced to memory of the backend, or drops it and gives the inner error: of the
/// layout, or of the backend.
///
/// # Errors
/// The outer error is the connection's.
pub(crate) async fn read_payload(
    connection: &mut Connection,
    len: usize,
    layout: Result<ChunkLayout>,
    backend: &LocalCpuBackend,
) -> Result<Result<MemoryObj>> {
    let memory = match layout.and_then(|layout| fits(len, layout)) {
        Ok(layout) => backend.allocate(&layout).await,
        Err(e) => Err(e),
    };
    match memory {
        Ok(mut memory) => {
            connection.payload(&mut memory).await?;
            Ok(Ok(memory.freeze()))
        }
        Err(e) => {
            connection.skip().await?;
            Ok(Err(e))
        }
    }
}

/// As [`read_payload`], to the caller's memory; gives its length.
///
/// # Errors
/// As there; the inner one is `SizeMismatch` if it does not fit.
pub(crate) async fn read_payload_into(
    connection: &mut Connection,
    len: usize,
    layout: Result<ChunkLayout>,
    dst: &mut MemoryObjMut,
) -> Result<Result<usize>> {
    match layout.and_then(|layout| fits(len, layout)).and_then(|layout| dst.set_layout(layout)) {
        Ok(()) => {
            connection.payload(dst).await?;
            Ok(Ok(len))
        }
        Err(e) => {
            connection.skip().await?;
            Ok(Err(e))
        }
    }
}

/// `OK`, or the server's error.
///
/// # Errors
/// That one; `Corrupt` for anything else, which is no word that something is stored.
pub(crate) fn ok(reply: Reply) -> Result<()> {
    said(reply, "OK")
}

/// This word, or the server's error.
///
/// # Errors
/// As [`ok`].
pub(crate) fn said(reply: Reply, word: &str) -> Result<()> {
    match reply {
        Reply::Simple(said) if said == word.as_bytes() => Ok(()),
        Reply::Error(said) => Err(server_error(&said)),
        other => Err(unexpected(&other, &format!("`{word}`"))),
    }
}

#[cfg_attr(not(feature = "resp"), expect(dead_code, reason = "what `resp` needs"))]
fn miss_or_error<T>(head: Head) -> Result<Result<Option<T>>> {
    match head {
        Head::Reply(Reply::Null) => Ok(Ok(None)),
        Head::Reply(Reply::Error(said)) => Ok(Err(server_error(&said))),
        // An error of the connection: what follows may be taken for the next answer.
        _ => Err(Error::new(ErrorKind::Corrupt, "the server answers a GET with something that is no string")),
    }
}

/// A layout of another length would leave a part of the value on the wire.
fn fits(len: usize, layout: ChunkLayout) -> Result<ChunkLayout> {
    if layout.len == len {
        return Ok(layout);
    }
    Err(Error::new(ErrorKind::Corrupt, format!("a value of {len} bytes where the chunk has {}", layout.len)))
}
