//! One connection: sends requests, reads replies and chunks, and times out.

mod waiting;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use connector_core::{ChunkLayout, Error, ErrorKind, Result};
use tokio::time::{Instant, Sleep};

use super::errors::{Elsewhere, bad_reply, ends_connection, server_error};
use super::memory::Destination;
use super::meters::NodeMeters;
use super::reply::{BadReply, Reply, ReplyReader, ReplyStart};
use super::request::Request;
use super::transport::{Address, Ready, Transport};

/// A connection to a server. After a connection error or a dropped future, [`is_reusable`](Self::is_reusable) is
/// false.
pub(crate) struct Connection {
    transport: Transport,
    reader: ReplyReader,
    address: Address,
    /// Longest time without a byte.
    io_timeout: Duration,
    /// One timer for all waits. A wait resets it only when it fires too early, because most waits end long before.
    timer: Pin<Box<Sleep>>,
    /// The number of replies that are due and not read.
    unanswered: usize,
    /// The elements of the current reply, an array, that are not read.
    elements: usize,
    received: u64,
    /// When kvconn began to send the request whose answer comes next. Set only if no earlier request was unanswered.
    asked: Option<Instant>,
    /// The shortest time between such a request and the first byte of its answer.
    round_trip: Duration,
    /// The time that the current call waited, and the bytes that it moved.
    spent: Spent,
    /// Shared with the pool, once the connection is in one.
    progress: Arc<Progress>,
    /// The pool's reads when this connection last sent a first request or got bytes.
    reads_before: usize,
    /// Whether a wait ended at its deadline although other connections have got bytes since.
    is_stalled_alone: bool,
    failed: bool,
    /// The server hung up while a request was sent. The replies before that are still to be read.
    write_failure: Option<Error>,
    /// What the last error said about the way of its request.
    elsewhere: Option<Elsewhere>,
    /// Whether the server said in this call that it may not be the right one any more.
    doubtful: bool,
    /// Whether the answer to `ASKING` comes before each reply.
    is_asking: bool,
    /// The counters of the server. They leave out the greeting.
    meters: Option<Arc<NodeMeters>>,
}

/// The numbers of reads and writes on the connections of a pool.
#[derive(Debug, Default)]
pub(super) struct Progress {
    reads: AtomicUsize,
    writes: AtomicUsize,
}

impl Progress {
    /// A number that grows with every read and write.
    pub(super) fn moves(&self) -> usize {
        self.reads.load(Ordering::Relaxed).wrapping_add(self.writes.load(Ordering::Relaxed))
    }
}

/// The time that a call waited for a socket, and the bytes that it moved. Bounds a call whose server sends a byte now
/// and then. Time in which the caller does not poll the call does not count.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    waited: Duration,
    moved: u64,
}

/// A call may wait `io_timeout`, and a second more for this number of bytes that it moved.
const LEAST_RATE: u64 = 64 << 10;

impl Spent {
    /// The time that the call may still wait.
    pub(super) fn left(self, io_timeout: Duration) -> Duration {
        (io_timeout + Duration::from_millis(self.moved * 1000 / LEAST_RATE)).saturating_sub(self.waited)
    }
}

impl Connection {
    /// A connection over `transport`. The current runtime has the timer.
    pub(super) fn new(transport: Transport, reader: ReplyReader, address: &Address, io_timeout: Duration) -> Self {
        Self {
            transport,
            reader,
            address: address.clone(),
            io_timeout,
            timer: Box::pin(tokio::time::sleep(io_timeout)),
            unanswered: 0,
            elements: 0,
            received: 0,
            asked: None,
            round_trip: Duration::MAX,
            spent: Spent::default(),
            progress: Arc::default(),
            reads_before: 0,
            is_stalled_alone: false,
            failed: false,
            write_failure: None,
            elsewhere: None,
            doubtful: false,
            is_asking: false,
            meters: None,
        }
    }

    /// Whether every reply was read and nothing failed, so that another call can use it.
    pub(super) fn is_reusable(&self) -> bool {
        !self.failed && self.unanswered == 0 && self.reader.is_idle()
    }

    /// Whether the server said that it may not be the right one any more.
    pub(super) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// What the errors since the last call of this said about the way of their request.
    pub(super) fn take_elsewhere(&mut self) -> Option<Elsewhere> {
        self.elsewhere.take()
    }

    /// Whether the connection still works after an idle time. Its runtime must run, and the server must not have hung
    /// up or sent anything.
    pub(super) fn is_alive(&mut self) -> bool {
        self.is_reusable() && self.transport.has_runtime() && self.transport.is_quiet()
    }

    /// Counts the requests and the server's errors from now on.
    pub(super) fn count_by(&mut self, meters: &Arc<NodeMeters>) {
        self.meters = Some(meters.clone());
    }

    /// Counts the reads and writes as those of a pool from now on.
    pub(super) fn counts_in(&mut self, progress: &Arc<Progress>) {
        self.progress = progress.clone();
    }

    /// Starts a call that already spent this on other connections.
    pub(super) fn start_call(&mut self, spent: Spent) {
        self.spent = spent;
        // An error during the greeting does not count, because the greeting then tries another way.
        self.elsewhere = None;
        self.doubtful = false;
    }

    /// The version of TLS, if the connection uses it.
    pub(crate) fn tls_version(&self) -> Option<&'static str> {
        self.transport.tls_version()
    }

    /// The cipher of TLS, if the connection uses it.
    pub(crate) fn tls_cipher(&self) -> Option<&'static str> {
        self.transport.session()?.cipher()
    }

    /// The time and bytes of the current call.
    pub(super) fn spent(&self) -> Spent {
        self.spent
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Bytes received since [`received`](Self::received) was `before`.
    pub(super) fn received_since(&self, before: u64) -> usize {
        usize::try_from(self.received - before).unwrap_or(usize::MAX)
    }

    /// Whether the connection timed out while the server answered on others.
    pub(super) fn is_stalled_alone(&self) -> bool {
        self.is_stalled_alone
    }

    /// About the time of a round trip to the server: the shortest one so far. A longer one includes a wait for the server's
    /// other work.
    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Received bytes that are not read.
    pub(super) fn unread(&self) -> &[u8] {
        self.reader.unread()
    }

    /// The number of replies that are due and not read.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Drops the replies that come next, until only `later` ones are due.
    ///
    /// # Errors
    /// As [`reply`](Self::reply). `Corrupt` if the last reply was not read whole, or one of the later ones was read.
    pub(super) async fn drop_replies(&mut self, later: usize) -> Result<()> {
        while self.unanswered > later {
            self.reply().await?;
        }
        if self.unanswered == later && self.elements == 0 && self.reader.is_between_replies() {
            return Ok(());
        }
        self.failed = true;
        let why = format!("kvconn lost its place among the replies of {}", self.address);
        Err(Error::new(ErrorKind::Corrupt, why))
    }

    /// Sends the whole request. Replies may arrive before it returns.
    ///
    /// A server that refuses a request sends an error and hangs up, maybe before it has read everything. So after a
    /// hang-up, the next read gives the replies that came, and then the error.
    ///
    /// # Errors
    /// `Timeout`.
    pub(crate) async fn send(&mut self, request: &Request<'_>) -> Result<()> {
        // The first answer may come before the last byte is sent.
        self.asked = (self.unanswered == 0).then(Instant::now);
        if self.asked.is_some() {
            self.reads_before = self.progress.reads.load(Ordering::Relaxed);
        }
        self.unanswered += request.commands();
        if let Some(meters) = &self.meters {
            meters.requested(request.commands());
        }
        let len = request.len();
        let (mut sent, mut deadline) = (0, None);
        while sent < len || self.transport.has_pending() {
            match request.with_slices(sent, |slices| self.transport.try_write(slices)) {
                Ok(n) => {
                    sent += n;
                    self.spent.moved += n as u64;
                    deadline = None;
                    self.progress.writes.fetch_add(1, Ordering::Relaxed);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(Ready::Write, &mut deadline).await?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    self.write_failure = Some(self.io_failed(e, "write to"));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The next reply, whole. A server's error is a [`Reply::Error`].
    ///
    /// # Errors
    /// `Corrupt`, `Unavailable`, `Timeout`. The server's error if it closes the connection after it, such as
    /// `TooLarge`.
    pub(crate) async fn reply(&mut self) -> Result<Reply> {
        self.skip_asking().await?;
        let reply = self.parse(ReplyReader::reply).await?;
        self.answered(&reply)?;
        Ok(reply)
    }

    /// Whether the commands whose replies come next were sent with `ASKING`.
    pub(super) fn set_asking(&mut self, asking: bool) {
        self.is_asking = asking;
    }

    /// Drops the answer to `ASKING`. If it is a refusal, the next answer shows it, too.
    async fn skip_asking(&mut self) -> Result<()> {
        if self.is_asking {
            let reply = self.parse(ReplyReader::reply).await?;
            self.answered(&reply)?;
        }
        Ok(())
    }

    /// Counts the answer.
    fn answered(&mut self, reply: &Reply) -> Result<()> {
        self.unanswered = self.unanswered.saturating_sub(1);
        let Reply::Error(text) = reply else { return Ok(()) };
        let elsewhere = Elsewhere::of(text, &self.address);
        let is_redirected = matches!(elsewhere, Some(Elsewhere::Moved { .. } | Elsewhere::Ask { .. }));
        if let Some(elsewhere) = elsewhere {
            self.doubtful |= elsewhere == Elsewhere::Changing;
            self.elsewhere = Some(elsewhere);
        }
        if ends_connection(text) {
            self.failed = true;
            return Err(server_error(text));
        }
        if let Some(meters) = &self.meters
            && !is_redirected
        {
            meters.failed(server_error(text).kind());
        }
        Ok(())
    }

    /// As [`reply`](Self::reply), but a server's error is the inner error.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub(crate) async fn answer(&mut self) -> Result<Result<Reply>> {
        Ok(match self.reply().await? {
            Reply::Error(text) => Err(server_error(&text)),
            reply => Ok(reply),
        })
    }

    /// The start of the next reply. Read the payload after [`ReplyStart::Bulk`], and each element after
    /// [`ReplyStart::Array`] by [`element_start`](Self::element_start).
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub(crate) async fn reply_start(&mut self) -> Result<ReplyStart> {
        self.skip_asking().await?;
        let start = self.element_start().await?;
        if let ReplyStart::Array(n) = start {
            self.elements = n;
        }
        self.answered(if let ReplyStart::Whole(reply) = &start { reply } else { &Reply::Null })?;
        Ok(start)
    }

    /// The start of an array's next element.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub(crate) async fn element_start(&mut self) -> Result<ReplyStart> {
        self.elements = self.elements.saturating_sub(1);
        self.parse(ReplyReader::start).await
    }

    /// Waits for the first byte of the payload that [`ReplyStart::Bulk`] announced. The payload must not be empty.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub(crate) async fn payload_starts(&mut self) -> Result<()> {
        while self.unread().is_empty() {
            self.fill(&mut []).await?;
        }
        Ok(())
    }

    /// Reads the payload that [`ReplyStart::Bulk`] announced. `to` has exactly its length.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub(crate) async fn payload(&mut self, to: &mut [u8]) -> Result<()> {
        let mut done = self.reader.take_payload(to);
        while done < to.len() {
            let n = self.fill(&mut to[done..]).await?;
            self.reader.payload_arrived(n);
            done += n;
        }
        self.parse(ReplyReader::end_payload).await
    }

    /// Reads the announced payload and drops it.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub(crate) async fn skip_payload(&mut self) -> Result<()> {
        while self.reader.drop_payload() > 0 {
            self.fill(&mut []).await?;
        }
        self.parse(ReplyReader::end_payload).await
    }

    /// Reads the announced payload of `len` bytes as a chunk. If the layout or the memory is an error, drops the payload.
    ///
    /// # Errors
    /// As [`reply`](Self::reply). The inner error comes from the layout or the memory. It is `Corrupt` for a layout
    /// of another length.
    pub(crate) async fn chunk<D: Destination>(
        &mut self,
        len: usize,
        layout: Result<ChunkLayout>,
        to: &mut D,
    ) -> Result<Result<D::Chunk>> {
        match layout {
            Ok(layout) if layout.len == len => to.read(self, layout).await,
            // Another length would leave a part of the value on the wire.
            Ok(layout) => {
                let why = format!("a value of {len} bytes where the chunk has {}", layout.len);
                self.refuse(Error::new(ErrorKind::Corrupt, why)).await
            }
            Err(e) => self.refuse(e).await,
        }
    }

    /// Drops the announced payload because of `e`, which becomes the inner error.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub(crate) async fn refuse<T>(&mut self, e: Error) -> Result<Result<T>> {
        self.skip_payload().await.map(|()| Err(e))
    }

    /// Fills the buffer until `parse` gives a value.
    async fn parse<T>(
        &mut self,
        parse: impl Fn(&mut ReplyReader) -> std::result::Result<Option<T>, BadReply>,
    ) -> Result<T> {
        loop {
            match parse(&mut self.reader) {
                Ok(Some(parsed)) => return Ok(parsed),
                Ok(None) => self.fill(&mut []).await.map(drop)?,
                Err(why) => {
                    self.failed = true;
                    return Err(bad_reply(&self.address, &why));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
