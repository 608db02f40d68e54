//! Puts.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use connector_core::{CacheKey, ChunkHeader, ChunkLayout, Error, ErrorKind, MemoryObj, Result, raw_layout};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use opendal::options::WriteOptions;
use opendal::{Execute, Executor, Operator, Writer};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::checksum;
use super::lend::lend;
use super::store::Store;

/// The entry of an object's metadata with the chunk's header, in hexadecimal digits. Azure takes only letters and digits.
pub(super) const LAYOUT_ENTRY: &str = "kvconnlayout";
/// Parts of one multipart upload at once.
const PARTS_AT_ONCE: usize = 8;

impl Store {
    pub(crate) async fn put(self: &Arc<Self>, key: &CacheKey, chunk: MemoryObj) -> Result<()> {
        let name = self.name(key)?.into_owned();
        let identity = self.names.identity(key);
        let layout = self.layout_entry(&chunk)?.map(|value| (LAYOUT_ENTRY, value));
        let mut entries: Vec<_> = identity.into_iter().chain(layout).collect();
        let store = self.clone();
        self.run(async move {
            if store.settings.checksum {
                entries.push((checksum::ENTRY, checksum::checksum(&chunk)));
            }
            let mut service = store.services.current();
            loop {
                let (bytes, released) = lend(chunk.clone());
                let mut options = WriteOptions::default();
                store.entries.write(entries.clone(), &mut options);
                let written = if bytes.len() as u64 >= store.settings.parallel_from_bytes {
                    store.write_parts(&service.operator, &name, bytes, options).await
                } else {
                    service.operator.write_options(&name, bytes, options).await.map(drop)
                };
                released.wait().await;
                match written {
                    Err(e) if store.services.renew(&mut service, &e).await => {}
                    written => return written.map_err(|e| store.error(e)),
                }
            }
        })
        .await
    }

    /// The layout as an entry of the metadata, if the store keeps layouts. Refuses a chunk that a get could not give back.
    fn layout_entry(&self, chunk: &MemoryObj) -> Result<Option<String>> {
        let (len, most) = (chunk.len(), self.settings.max_value_bytes);
        if len as u64 > most {
            let why = format!("a chunk of {len} bytes is over the limit of {most}");
            return Err(Error::new(ErrorKind::TooLarge, why).with_hint("`max_value_bytes` is the limit"));
        }
        if self.settings.save_chunk_meta {
            let header = ChunkHeader::faithful(chunk.layout())?;
            return Ok(Some(header.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()));
        }
        raw_layout(self.memory.metadata(), len).map_err(|e| {
            Error::new(ErrorKind::InvalidInput, format!("a raw value could not give it back: {}", e.message()))
        })?;
        Ok(None)
    }

    /// Writes a multipart upload, and aborts it after an error.
    async fn write_parts(
        &self,
        operator: &Operator,
        name: &str,
        chunk: Bytes,
        options: WriteOptions,
    ) -> opendal::Result<()> {
        let (sender, mut parts) = unbounded_channel();
        let context = operator.context().with_executor(Executor::with(InCall(sender)));
        let operator = operator.clone().with_context(context);
        let options = WriteOptions { concurrent: PARTS_AT_ONCE, ..options };
        let writer = operator.writer_options(name, options).await?;
        let mut upload = Upload { writer: Some(writer), handle: self.handle.clone() };
        let mut write = pin!(upload.write(chunk, self.settings.part_bytes as usize));
        let mut running = FuturesUnordered::new();
        poll_fn(|cx| {
            loop {
                let written = write.as_mut().poll(cx);
                while let Poll::Ready(Some(part)) = parts.poll_recv(cx) {
                    running.push(part);
                }
                // The writer goes on when a part has ended.
                let has_ended = matches!(running.poll_next_unpin(cx), Poll::Ready(Some(())));
                if written.is_ready() || !has_ended {
                    return written;
                }
            }
        })
        .await
    }
}

/// Runs the parts of an upload inside the call that writes them, so that they end with it.
struct InCall(UnboundedSender<BoxFuture<'static, ()>>);

impl Execute for InCall {
    fn execute(&self, part: BoxFuture<'static, ()>) {
        // The receiver lives as long as the upload.
        let _ = self.0.send(part);
    }
}

/// A multipart upload. One that is dropped before its end is aborted in the background.
struct Upload {
    writer: Option<Writer>,
    handle: Handle,
}

impl Upload {
    async fn write(&mut self, mut chunk: Bytes, part_len: usize) -> opendal::Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        while !chunk.is_empty() {
            writer.write(chunk.split_to(part_len.min(chunk.len()))).await?;
        }
        writer.close().await?;
        self.writer = None;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(mut writer) = self.writer.take() {
            self.handle.spawn(async move {
                if let Err(e) = writer.abort().await {
                    tracing::debug!("a multipart upload was not aborted: {}", e.kind());
                }
            });
        }
    }
}

/// The layout that a put recorded beside an object of `len` bytes.
///
/// # Errors
/// `Corrupt`.
pub(super) fn recorded_layout(recorded: &str, len: u64) -> Result<ChunkLayout> {
    let pairs = recorded.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let header = pairs.map(byte).collect::<Option<Vec<u8>>>().filter(|_| recorded.len().is_multiple_of(2));
    let header = header.ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("the object's metadata entry `{LAYOUT_ENTRY}` is not hexadecimal"))
    })?;
    let layout = ChunkHeader::read(&header)?;
    if layout.len as u64 == len {
        return Ok(layout);
    }
    let why = format!("the object has {len} bytes, and its metadata entry `{LAYOUT_ENTRY}` says {}", layout.len);
    Err(Error::new(ErrorKind::Corrupt, why))
}
