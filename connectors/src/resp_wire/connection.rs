//! One connection: sends requests, reads replies, and gives up on a server that stands still.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};

use super::errors::{bad_reply, hung_up, server_error};
use super::reply::{BadReply, Head, Limits, Reply, ReplyReader};
use super::request::Request;
use super::transport::{Address, Ready, Transport};

/// A connection to a server. Whoever gets an error of the outer kind from one of its methods must not use it again; and
/// a future that is dropped in the middle leaves it in the middle. [`is_at_rest`](Self::is_at_rest) tells.
pub(crate) struct Connection {
    transport: Transport,
    reader: ReplyReader,
    address: Address,
    /// Longest time without a byte.
    patience: Duration,
    /// Kept from wait to wait, and set anew only when it went off: most waits end long before.
    alarm: Pin<Box<Sleep>>,
    /// Replies that were asked for and not read.
    owed: usize,
    /// Bytes that ever arrived.
    arrived: u64,
    /// Grows with everything that passes, for whoever waits for a connection.
    turns: Arc<AtomicUsize>,
    failed: bool,
}

impl Connection {
    /// Connects. `sockets` waits for the socket, the current runtime for the clock.
    pub(super) async fn connect(
        address: &Address,
        sockets: &Handle,
        limits: Limits,
        room: usize,
        patience: Duration,
    ) -> Result<Self> {
        let transport = Transport::connect(address, sockets).await.map_err(|e| {
            let e = Error::io(e, format_args!("connect to {address}"));
            // Whatever it was (no such host, no such socket): it is the server that is not there.
            if e.kind() == ErrorKind::Io { unavailable(e) } else { e }
        })?;
        Ok(Self {
            transport,
            reader: ReplyReader::new(limits, room),
            address: address.clone(),
            patience,
            alarm: Box::pin(tokio::time::sleep(patience)),
            owed: 0,
            arrived: 0,
            turns: Arc::default(),
            failed: false,
        })
    }

    /// The same connection, which counts in `turns` whenever something passes.
    pub(super) fn counted_in(mut self, turns: &Arc<AtomicUsize>) -> Self {
        self.turns = turns.clone();
        self
    }

    /// Whether every reply was read, and nothing went wrong: the next request may follow.
    pub(super) fn is_at_rest(&self) -> bool {
        !self.failed && self.owed == 0 && self.reader.is_at_rest()
    }

    /// Whether it can be used after a rest: the server neither hung up nor sent anything.
    pub(super) fn is_alive(&self) -> bool {
        self.is_at_rest() && self.transport.is_quiet()
    }

    /// Bytes that ever arrived on it.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Bytes that arrived since it was `before`.
    pub(super) fn arrived_since(&self, before: u64) -> usize {
        usize::try_from(self.arrived - before).unwrap_or(usize::MAX)
    }

    /// What was received and not understood, or not read yet.
    pub(super) fn unread(&self) -> &[u8] {
        self.reader.unread()
    }

    /// Sends all of the request. Replies may be on their way before it returns.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`. If the server said why it hung up, that.
    pub(crate) async fn send(&mut self, request: &Request<'_>) -> Result<()> {
        self.owed += request.commands();
        let len = request.len();
        let (mut sent, mut until) = (0, None);
        while sent < len {
            match request.with_slices(sent, |slices| self.transport.try_write(slices)) {
                Ok(n) => {
                    sent += n;
                    until = None;
                    self.turns.fetch_add(1, Ordering::Relaxed);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(Ready::Write, &mut until).await?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.write_failed(e)),
            }
        }
        Ok(())
    }

    /// The next reply, whole. A server's error is a [`Reply::Error`].
    ///
    /// # Errors
    /// `Corrupt`, `Unavailable`, `Timeout`.
    pub(crate) async fn reply(&mut self) -> Result<Reply> {
        let reply = self.element().await?;
        self.owed = self.owed.saturating_sub(1);
        Ok(reply)
    }

    /// As [`reply`](Self::reply), for an element of an array whose [`Head`] was read.
    pub(crate) async fn element(&mut self) -> Result<Reply> {
        loop {
            match self.reader.reply() {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => self.fill(&mut []).await.map(drop)?,
                Err(e) => return Err(self.not_understood(&e)),
            }
        }
    }

    /// The beginning of the next reply. [`Head::Bulk`] must be followed by [`payload`](Self::payload) or
    /// [`skip`](Self::skip), [`Head::Array`] by its elements.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub(crate) async fn head(&mut self) -> Result<Head> {
        let head = self.element_head().await?;
        self.owed = self.owed.saturating_sub(1);
        Ok(head)
    }

    /// As [`head`](Self::head), for an element of an array.
    pub(crate) async fn element_head(&mut self) -> Result<Head> {
        loop {
            match self.reader.head() {
                Ok(Some(head)) => return Ok(head),
                Ok(None) => self.fill(&mut []).await.map(drop)?,
                Err(e) => return Err(self.not_understood(&e)),
            }
        }
    }

    /// Reads the payload that was announced by [`Head::Bulk`] to where it belongs. `to` has exactly its length.
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
        self.end_of_payload().await
    }

    /// Reads the announced payload, and drops it.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub(crate) async fn skip(&mut self) -> Result<()> {
        while self.reader.drop_payload() > 0 {
            self.fill(&mut []).await?;
        }
        self.end_of_payload().await
    }

    /// Counts as an answer that was read: for an array whose elements were.
    async fn end_of_payload(&mut self) -> Result<()> {
        loop {
            match self.reader.end_payload() {
                Ok(true) => return Ok(()),
                Ok(false) => self.fill(&mut []).await.map(drop)?,
                Err(e) => return Err(self.not_understood(&e)),
            }
        }
    }

    /// Waits for bytes. The first go to `to`, and those behind to the reader; says how many `to` got.
    async fn fill(&mut self, to: &mut [u8]) -> Result<usize> {
        let mut until = None;
        loop {
            let room = self.reader.room();
            let wanted = to.len();
            let tried = if to.is_empty() {
                self.transport.try_read(&mut [IoSliceMut::new(room)])
            } else {
                self.transport.try_read(&mut [IoSliceMut::new(to), IoSliceMut::new(room)])
            };
            match tried {
                Ok(0) => {
                    self.failed = true;
                    return Err(hung_up(&self.address));
                }
                Ok(n) => {
                    self.arrived += n as u64;
                    self.turns.fetch_add(1, Ordering::Relaxed);
                    self.reader.arrived(n.saturating_sub(wanted));
                    return Ok(n.min(wanted));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(Ready::Read { at_least: wanted.max(1) }, &mut until).await?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.io_failed(e, "read from")),
            }
        }
    }

    /// Waits until the socket may get on, but not for ever: `until` a time that begins with the first wait, and not anew after a
    /// try in vain.
    async fn wait(&mut self, mut ready: Ready, until: &mut Option<Instant>) -> Result<()> {
        let until = until.get_or_insert_with(|| Instant::now() + self.patience);
        loop {
            match poll_fn(|cx| self.poll_wait(ready, *until, cx)).await {
                Ok(true) => return Ok(()),
                // Bytes are there, but fewer than it waited for.
                Ok(false) if matches!(ready, Ready::Read { at_least: 2.. }) && !self.transport.is_quiet() => {
                    ready = Ready::Read { at_least: 1 };
                    *until = Instant::now() + self.patience;
                }
                Ok(false) => {
                    self.failed = true;
                    let (address, ms) = (&self.address, self.patience.as_millis());
                    let what = if ready == Ready::Write { "took no byte" } else { "sent no byte" };
                    return Err(Error::new(ErrorKind::Timeout, format!("the server at {address} {what} for {ms} ms"))
                        .temporary(true)
                        .with_hint("is it overloaded or stopped? `io_timeout_ms` says how long to wait"));
                }
                Err(e) => return Err(self.io_failed(e, "wait for")),
            }
        }
    }

    /// Ready with `false` when time is up.
    fn poll_wait(&mut self, ready: Ready, until: Instant, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if let Poll::Ready(answer) = self.transport.poll_ready(ready, cx) {
            return Poll::Ready(answer.map(|()| true));
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(Ok(false));
            }
            self.alarm.as_mut().reset(until);
        }
        Poll::Pending
    }

    fn not_understood(&mut self, why: &BadReply) -> Error {
        self.failed = true;
        bad_reply(&self.address, why)
    }

    fn io_failed(&mut self, e: io::Error, what: &str) -> Error {
        self.failed = true;
        let gone = tokio::runtime::is_rt_shutdown_err(&e);
        let e = Error::io(e, format_args!("{what} the server at {}", self.address));
        if gone { unavailable(e) } else { e }
    }

    /// A server that refuses a connection or a request says why and hangs up, maybe before it has read all of it.
    fn write_failed(&mut self, e: io::Error) -> Error {
        let room = self.reader.room();
        if let Ok(n) = self.transport.try_read(&mut [IoSliceMut::new(room)]) {
            self.reader.arrived(n);
            if let Ok(Some(Reply::Error(said))) = self.reader.reply() {
                self.failed = true;
                return server_error(&said);
            }
        }
        self.io_failed(e, "write to")
    }
}

/// The same error, as that of a server that is not there.
fn unavailable(e: Error) -> Error {
    let message = e.message().to_owned();
    Error::new(ErrorKind::Unavailable, message).temporary(true).with_source(e)
}
