//! An archive of chunks: a tar file with an entry for each chunk, and a last entry with their number.
//!
//! An entry's name is the key, percent-encoded, so that `tar` can list and unpack any archive. PAX records keep the key
//! and the chunk's layout. Without the last entry, an archive is cut short.

mod entry;

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use connectors::{CacheKey, Error, ErrorKind, MemoryObj};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::batches::{Batch, BatchSize, Item};
use crate::file;
use crate::output::progress::Steps;
use crate::output::{print_note, users};
use entry::{Contents, Found};

/// The file of an archive.
pub(super) enum Archive {
    Stdio,
    File(PathBuf),
}

const BUFFER: usize = 1 << 20;
/// The first bytes of a file of gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];

impl Archive {
    /// The archive of `-` or `FILE.tar`. `None` for any other name.
    pub(super) fn named(text: &str) -> Result<Option<Self>, Error> {
        let is = |end: &str| text.ends_with(end);
        if text == "-" {
            return Ok(Some(Self::Stdio));
        }
        if [".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2"].into_iter().any(is) {
            let why = "kvconn does not compress archives: the bytes of a KV cache hardly shrink";
            return Err(Error::new(ErrorKind::InvalidInput, why).with_hint("write FILE.tar, or `-` and a pipe"));
        }
        Ok(is(".tar").then(|| Self::File(text.into())))
    }

    pub(super) fn is_stdio(&self) -> bool {
        matches!(self, Self::Stdio)
    }

    /// The length of a plain file, in bytes.
    pub(super) fn len(&self) -> Option<u64> {
        let Self::File(path) = self else { return None };
        std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|file| file.len())
    }

    /// Reads the chunks whose keys are `wanted`, on a blocking thread. A chunk has at most `most` bytes.
    pub(super) fn batches(
        self,
        wanted: impl Fn(&CacheKey) -> bool + Send + 'static,
        size: Arc<BatchSize>,
        most: usize,
        steps: Steps,
    ) -> Result<BoxStream<'static, Result<Batch, Error>>, Error> {
        let from: Box<dyn Read + Send> = match &self {
            Self::Stdio => Box::new(io::stdin()),
            Self::File(path) => Box::new(File::open(path).map_err(|e| failed(e, "open", path))?),
        };
        let (send, receive) = mpsc::channel(1);
        let steps = (!self.is_stdio()).then_some(steps);
        tokio::task::spawn_blocking(move || {
            let mut batches = Batches { send: send.clone(), size, batch: Vec::new(), bytes: 0 };
            let ended = unpack(BufReader::with_capacity(BUFFER, from), wanted, most, &mut batches, steps.as_ref());
            if batches.flush()
                && let Err(e) = ended
            {
                let _ = send.blocking_send(Err(e));
            }
        });
        Ok(stream::unfold(receive, |mut receive| async { Some((receive.recv().await?, receive)) }).boxed())
    }
}

fn failed(e: io::Error, action: &str, path: &Path) -> Error {
    Error::io(e, format_args!("{action} the archive `{}`", users(&path.to_string_lossy())))
}

/// The chunks that were read and not yet sent.
struct Batches {
    send: mpsc::Sender<Result<Batch, Error>>,
    size: Arc<BatchSize>,
    batch: Batch,
    bytes: usize,
}

impl Batches {
    /// `false` if the copy has ended.
    fn push(&mut self, key: CacheKey, chunk: Result<MemoryObj, Error>) -> bool {
        let item = match chunk {
            Ok(chunk) => {
                self.size.learn(chunk.len());
                self.bytes += chunk.len();
                Ok(Item { key, chunk: Some(chunk) })
            }
            Err(e) => Err((key, e)),
        };
        self.batch.push(item);
        self.batch.len() < self.size.chunks() && self.bytes < self.size.bytes() || self.flush()
    }

    fn flush(&mut self) -> bool {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        batch.is_empty() || self.send.blocking_send(Ok(batch)).is_ok()
    }
}

fn unpack(
    mut from: impl BufRead,
    wanted: impl Fn(&CacheKey) -> bool,
    most: usize,
    batches: &mut Batches,
    steps: Option<&Steps>,
) -> Result<(), Error> {
    let is_read = Cell::new(false);
    let wrong = |e: io::Error| {
        if is_read.get() {
            return cut_short();
        }
        Error::new(ErrorKind::Corrupt, format!("the archive cannot be read: {e}"))
            .with_hint("is it a tar file that `kvconn cp` wrote?")
    };
    if from.fill_buf().map_err(wrong)?.starts_with(&GZIP) {
        return Err(Error::new(ErrorKind::Corrupt, "the archive is compressed by gzip")
            .with_hint("write `gunzip -c FILE | kvconn cp - STORE`"));
    }
    let mut tar = tar::Archive::new(ToEnd { from, is_read: &is_read });
    // A file or a pipe may hold several archives, one after another.
    tar.set_ignore_zeros(true);
    let (mut chunks, mut is_whole) = (0, false);
    let mut before = Vec::new();
    // Raw, because `tar` would read records of any size into memory.
    for entry in tar.entries().map_err(wrong)?.raw(true) {
        let mut entry = entry.map_err(wrong)?;
        if let Some(steps) = steps {
            steps.advance(entry.size());
        }
        if let Some(records) = entry::records(&mut entry).map_err(wrong)? {
            (before, is_whole) = (records, false);
            continue;
        }
        let records = std::mem::take(&mut before);
        match entry::read(&mut entry, &records, most, &wanted).map_err(wrong)? {
            Found::Chunk(key, chunk) => {
                (chunks, is_whole) = (chunks + 1, false);
                if !batches.push(key, chunk) {
                    return Ok(());
                }
            }
            Found::Other => (chunks, is_whole) = (chunks + 1, false),
            Found::Contents(contents) => {
                if contents.failed > 0 {
                    let failed = contents.failed;
                    print_note(format_args!("the archive lacks chunks of its store: {failed} could not be read"));
                }
                is_whole = contents.chunks == chunks;
                if !is_whole {
                    break;
                }
                chunks = 0;
            }
        }
    }
    if is_whole {
        return Ok(());
    }
    Err(cut_short())
}

fn cut_short() -> Error {
    Error::new(ErrorKind::Corrupt, "the archive is cut short: chunks at its end are missing")
        .with_hint("kvconn copied the chunks before the cut; write the archive again for the others")
}

/// Notes the end of an archive: an error behind it is a cut, whatever the reader of entries calls it.
struct ToEnd<'a, R> {
    from: R,
    is_read: &'a Cell<bool>,
}

impl<R: Read> Read for ToEnd<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(to)?;
        self.is_read.set(n == 0 && !to.is_empty());
        Ok(n)
    }
}

/// Where a copy sends the chunks of an archive. Cheap to clone.
#[derive(Clone)]
pub(super) struct Chunks(mpsc::Sender<Message>);

enum Message {
    Chunks(Vec<(CacheKey, MemoryObj)>),
    /// All chunks were sent, except this many that could not be read.
    End {
        failed: u64,
    },
}

impl Chunks {
    /// `false` if the archive can no longer be written.
    pub(super) async fn send(&self, chunks: Vec<(CacheKey, MemoryObj)>) -> bool {
        self.0.send(Message::Chunks(chunks)).await.is_ok()
    }
}

/// Writes an archive on a blocking thread.
pub(super) struct Writer {
    thread: JoinHandle<Result<(), Error>>,
    chunks: Chunks,
}

impl Writer {
    pub(super) fn start(archive: Archive) -> Result<Self, Error> {
        if archive.is_stdio() && io::stdout().is_terminal() {
            let why = "an archive is not text for a terminal";
            return Err(Error::new(ErrorKind::InvalidInput, why).with_hint("write FILE.tar, or `-` and a pipe"));
        }
        let (send, receive) = mpsc::channel(1);
        let thread = tokio::task::spawn_blocking(move || write(&archive, receive));
        Ok(Self { thread, chunks: Chunks(send) })
    }

    pub(super) fn split(self) -> (Option<Self>, Option<Chunks>) {
        let chunks = self.chunks.clone();
        (Some(self), Some(chunks))
    }

    /// Completes an archive that lacks the chunks that failed. `None` removes it.
    pub(super) async fn end(self, failed: Option<u64>) -> Result<(), Error> {
        if let Some(failed) = failed {
            // Without a receiver, the thread has ended with an error.
            let _ = self.chunks.0.send(Message::End { failed }).await;
        }
        drop(self.chunks);
        self.thread
            .await
            .unwrap_or_else(|e| Err(Error::new(ErrorKind::Other, format!("the archive's thread ended: {e}"))))
    }
}

fn write(archive: &Archive, messages: mpsc::Receiver<Message>) -> Result<(), Error> {
    let path = match archive {
        Archive::Stdio => {
            return pack(io::stdout().lock(), messages).map(drop).map_err(|e| Error::io(e, "write to stdout"));
        }
        Archive::File(path) => path,
    };
    let failed = |e| failed(e, "write", path);
    let path = &file::behind_link(path);
    match file::whole(path).map_err(failed)? {
        Some(file) => {
            if pack(file.as_file(), messages).map_err(failed)? {
                file.as_file().sync_all().map_err(failed)?;
                file.persist(path).map_err(|e| failed(e.error))?;
            }
            Ok(())
        }
        None if std::fs::metadata(path).is_ok_and(|old| old.is_file() && old.len() > 0) => {
            let why = "it has several names or another owner, or its directory takes no new files";
            let path = users(&path.to_string_lossy()).into_owned();
            let why = format!("cannot replace the archive `{path}` at the end of the copy: {why}");
            Err(Error::new(ErrorKind::InvalidInput, why).with_hint("remove it first, or write another file"))
        }
        None => file::through(path).and_then(|file| pack(file, messages)).map(drop).map_err(failed),
    }
}

/// Writes the chunks as they come. `true` if all came.
fn pack(to: impl Write, mut messages: mpsc::Receiver<Message>) -> io::Result<bool> {
    let mut tar = tar::Builder::new(BufWriter::with_capacity(BUFFER, to));
    let mut contents = Contents::default();
    while let Some(message) = messages.blocking_recv() {
        match message {
            Message::Chunks(chunks) => {
                for (key, chunk) in chunks {
                    entry::append(&mut tar, &key, &chunk)?;
                    contents.chunks += 1;
                    contents.bytes += chunk.len() as u64;
                }
            }
            Message::End { failed } => {
                contents.failed = failed;
                entry::append_contents(&mut tar, &contents)?;
                tar.into_inner()?.flush()?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}
