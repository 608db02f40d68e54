//! Runs [`Exchange`]s with the servers of a store, one or many at once.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use connector_core::{CacheKey, Connect, ConnectorContext, Error, ErrorKind, Result};
use futures::stream::{FuturesUnordered, StreamExt};

use super::connection::Connection;
use super::errors::expect_word;
use super::name::Name;
use super::options::WireOptions;
use super::request::Request;
use super::topology::{Lease, Server, Topology};

/// One request to a server, and its answer.
pub(crate) trait Exchange: Send {
    /// The answer.
    type Answer: Send;

    /// Whether it moves no chunk. Such exchanges have separate connections, so that they never wait behind a chunk.
    const SMALL: bool = false;

    /// Whether the wire may send it once more if the connection broke before a byte of the answer came. `false` for a
    /// removal: the first one may still run after a later put.
    const REPEATABLE: bool = true;

    /// The key, which selects the server. `None` if any server can answer.
    fn key(&self) -> Option<&[u8]>;

    /// Adds the commands: one or more.
    fn request<'a>(&'a self, request: &mut Request<'a>);

    /// Bytes of the chunk; 0 if only the answer gives it.
    fn expected_len(&self) -> usize {
        0
    }

    /// Reads the reply to each of the commands.
    ///
    /// # Errors
    /// The outer error is the connection's, which the wire then closes. The inner error concerns only this exchange:
    /// all its replies were read.
    fn read(&mut self, connection: &mut Connection) -> impl Future<Output = Result<Result<Self::Answer>>> + Send;
}

/// About how many bytes one connection asks for ahead. A server keeps unread answers in its memory, where they leave
/// the processor's cache. Other connections keep the server busy meanwhile. (With chunks of 64 KiB and more, 1 MiB
/// ahead is a third slower than nothing ahead.)
const AHEAD: usize = 64 << 10;
/// The most chunks in flight on one connection.
const CHUNKS_AHEAD: usize = 64;
/// New connections that one connection's part of a batch may take after failures. Without this limit, a server with
/// useless answers would cost a connection for each key.
const RENEWALS: u32 = 8;
/// The longest time that a lazy open waits for the server.
const LAZY_OPEN: Duration = Duration::from_secs(1);
/// The most exchanges without a chunk in flight on one connection.
const SMALL_AHEAD: usize = 512;

/// The servers of one store. A call does its I/O in its own future, on a connection that no other call uses
/// meanwhile. A dropped call closes its connection, so no other task ever touches its memory.
pub(crate) struct Wire {
    options: WireOptions,
    topology: Topology,
}

/// Exchanges with their indexes in the answers.
type Items<E> = VecDeque<(usize, E)>;

/// The exchanges of one server. Several connections take them from one queue.
struct Batch<'a, E: Exchange> {
    server: &'a Server,
    queue: Mutex<Items<E>>,
    /// The number of connections.
    width: usize,
    answers: &'a Answers<E::Answer>,
    /// The length of the shortest chunk that the server refused because of its length, and the error.
    too_large: Mutex<Option<(usize, Error)>>,
}

struct Answers<A>(Mutex<Vec<Option<Result<A>>>>);

impl Wire {
    /// Connects once, to check that the server answers. A [lazy](Connect::Lazy) open succeeds without an answer.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Denied`. For a server of another protocol, `Unavailable` and permanent.
    pub(crate) async fn open(options: WireOptions, ctx: &ConnectorContext) -> Result<Self> {
        let topology = Topology::Single(Server::new(options.clone(), ctx.handle())?);
        let is_lazy = ctx.connect() == Connect::Lazy;
        let limit = if is_lazy { options.connect_timeout.min(LAZY_OPEN) } else { options.connect_timeout };
        match topology.server(None).lease_within(true, limit).await {
            Ok(lease) => lease.give_back(),
            Err(e) if is_lazy && e.is_temporary() => {
                tracing::warn!(
                    connector = ctx.connector_name(),
                    "the store is open, but its server does not answer: {e}"
                );
            }
            Err(e) => return Err(e),
        }
        Ok(Self { options, topology })
    }

    /// The options that it was opened with.
    pub(crate) fn options(&self) -> &WireOptions {
        &self.options
    }

    /// The name of a chunk.
    pub(crate) fn name<'a>(&'a self, key: &'a CacheKey) -> Name<'a> {
        Name { prefix: &self.options.prefix, key }
    }

    /// Refuses a chunk of a length that `get` could not give back.
    ///
    /// # Errors
    /// `InvalidInput` for an empty chunk, `TooLarge`.
    pub(crate) fn check_len(&self, len: usize) -> Result<()> {
        let limit = self.options.limits.payload;
        match len {
            0 => Err(Error::new(
                ErrorKind::InvalidInput,
                "the chunk has 0 bytes, which a get could not tell from a missing chunk",
            )
            .with_hint("store chunks of 1 byte or more")),
            len if len > limit => {
                let why = format!("a chunk of {len} bytes is over the limit of {limit}");
                Err(Error::new(ErrorKind::TooLarge, why)
                    .with_hint("`max_value_bytes` is the limit; redis allows 512 MiB"))
            }
            _ => Ok(()),
        }
    }

    /// Closes idle connections now, and each one in use when its call ends. Later calls fail with `Closed`.
    pub(crate) fn close(&self) {
        self.topology.servers().for_each(Server::close);
    }

    /// Runs one exchange.
    ///
    /// # Errors
    /// The exchange's own, and `Unavailable`, `Timeout`, `Corrupt` if the connection fails.
    pub(crate) async fn exchange<E: Exchange>(&self, mut item: E) -> Result<E::Answer> {
        let server = self.topology.server(item.key());
        let _share = if E::SMALL { None } else { server.share(item.expected_len()).await? };
        let mut lease = server.lease(E::SMALL).await?;
        loop {
            let before = lease.connection.received();
            match ask(&mut lease.connection, &mut item).await {
                Ok((sent, answer)) => {
                    server.remember_len(sent.max(lease.connection.received_since(before)));
                    lease.give_back();
                    return answer;
                }
                Err(e) if E::REPEATABLE && lease.was_stale(&e) => lease = lease.renew().await?,
                Err(e) => {
                    lease.failed(&e);
                    return Err(e);
                }
            }
        }
    }

    /// Runs many exchanges, with several requests in flight on each connection. Chunks go over several connections.
    /// The answers are in the order of the items.
    pub(crate) async fn exchange_all<E: Exchange>(&self, items: Vec<E>) -> Vec<Result<E::Answer>> {
        let answers = Answers(Mutex::new(items.iter().map(|_| None).collect()));
        let batches: Vec<Batch<'_, E>> = self.topology.batches(items).map(|b| Batch::new(b.0, b.1, &answers)).collect();
        // `FuturesUnordered` polls only woken futures; `join_all` polls all of a few.
        let mut working: FuturesUnordered<_> =
            batches.iter().flat_map(|batch| (0..batch.width).map(|_| batch.work())).collect();
        let mut failure = None;
        while let Some(ended) = working.next().await {
            failure = failure.or(ended.err());
        }
        drop(working);
        drop(batches);
        // The items without an answer found no connection.
        let left = || failure.as_ref().map_or_else(Error::closed, Error::clone);
        let answers = answers.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(left()))).collect()
    }

    /// As [`exchange_all`](Self::exchange_all), for the items that are not errors.
    pub(crate) async fn exchange_valid<E: Exchange>(
        &self,
        items: impl Iterator<Item = Result<E>>,
    ) -> Vec<Result<E::Answer>> {
        let mut valid = Vec::new();
        let refused: Vec<Option<Error>> = items.map(|item| item.map(|item| valid.push(item)).err()).collect();
        let mut asked = self.exchange_all(valid).await.into_iter();
        let answer = |e: Option<Error>| e.map_or_else(|| asked.next().unwrap_or_else(|| Err(Error::closed())), Err);
        refused.into_iter().map(answer).collect()
    }

    /// Checks that every server answers.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange).
    pub(crate) async fn ping(&self) -> Result<()> {
        self.exchange(Ping).await
    }
}

struct Ping;

impl Exchange for Ping {
    type Answer = ();
    const SMALL: bool = true;

    fn key(&self) -> Option<&[u8]> {
        None
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["PING".into()]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<()>> {
        Ok(expect_word(connection.reply().await?, "PONG"))
    }
}

impl<'a, E: Exchange> Batch<'a, E> {
    fn new(server: &'a Server, items: Vec<(usize, E)>, answers: &'a Answers<E::Answer>) -> Self {
        let expected = items.first().map_or(0, |(_, item)| item.expected_len());
        let width = if E::SMALL { items.len().min(1) } else { server.width(items.len(), expected) };
        Self { server, queue: Mutex::new(items.into()), width, answers, too_large: Mutex::default() }
    }

    async fn lease(&self) -> Result<Lease<'a>> {
        self.server.lease(E::SMALL).await
    }

    /// Processes a part of the queue on one connection.
    async fn work(&self) -> Result<()> {
        let mut lease = self.lease().await?;
        // The exchanges in flight, in order.
        let mut sent: Items<E> = VecDeque::new();
        // The number that may be in flight, and the bytes of a request (0 until this lease sent one).
        let (mut window, mut request_len) = (if E::SMALL { SMALL_AHEAD } else { 1 }, 0);
        let at_once = |alone, window| if alone > 0 { 1 } else { window };
        let mut renewals = 0..RENEWALS;
        // The number of exchanges to send one at a time, after a connection broke with several in flight.
        let mut alone = 0_usize;
        loop {
            if lease.is_wanted() && request_len > 0 {
                // Stops sending, so that another call gets the connection after the answers in flight.
                if sent.is_empty() {
                    lease.give_back();
                    lease = self.lease().await?;
                    request_len = 0;
                    continue;
                }
            } else if sent.len() <= at_once(alone, window) / 2 {
                let before = sent.len();
                self.take(at_once(alone, window) - before, &mut sent);
                if sent.is_empty() {
                    lease.give_back();
                    return Ok(());
                }
                match send(&mut lease.connection, sent.iter().skip(before)).await {
                    Ok(0) => {}
                    Ok(bytes) => request_len = bytes / (sent.len() - before),
                    Err(e) => {
                        lease = self.after_failure(lease, e, &mut sent, (&mut renewals, &mut alone)).await?;
                        continue;
                    }
                }
            }
            let Some((at, item)) = sent.front_mut() else { continue };
            let before = lease.connection.received();
            match item.read(&mut lease.connection).await {
                Ok(answer) => {
                    self.answers.put(*at, answer);
                    sent.pop_front();
                    alone = alone.saturating_sub(1);
                    if !E::SMALL {
                        let reply_len = lease.connection.received_since(before);
                        let len = request_len.max(reply_len);
                        self.server.remember_len(len);
                        // A chunk that is sent ahead waits in the socket's buffers until the server has answered.
                        let at_least = if request_len >= reply_len { 2 } else { 1 };
                        window = (AHEAD / len.max(1)).clamp(at_least, CHUNKS_AHEAD);
                    }
                }
                Err(e) => lease = self.after_failure(lease, e, &mut sent, (&mut renewals, &mut alone)).await?,
            }
        }
    }

    /// Takes up to `n` from the queue, and no more than this connection's share of the rest. Fails chunks that the
    /// server would refuse.
    fn take(&self, n: usize, to: &mut Items<E>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((len, e)) = &*self.too_large.lock().unwrap_or_else(PoisonError::into_inner) {
            let is_refused = |item: &(usize, E)| item.1.expected_len() >= *len;
            let (refused, rest) = std::mem::take(&mut *queue).into_iter().partition::<Items<E>, _>(is_refused);
            self.fail(refused.into_iter(), e);
            *queue = rest;
        }
        let n = n.min(queue.len().div_ceil(self.width));
        to.extend(queue.drain(..n));
    }

    /// Fails the exchange that the connection's error concerns, and puts the others back into the queue, for a new
    /// connection.
    ///
    /// # Errors
    /// If the others failed, too.
    async fn after_failure(
        &self,
        lease: Lease<'a>,
        e: Error,
        sent: &mut Items<E>,
        (renewals, alone): (&mut Range<u32>, &mut usize),
    ) -> Result<Lease<'a>> {
        lease.failed(&e);
        let was_stale = E::REPEATABLE && lease.was_stale(&e);
        let failed = match e.kind() {
            _ if was_stale => 0,
            // After a timeout, each of the others would wait as long again.
            _ if !E::REPEATABLE || e.kind() == ErrorKind::Timeout => sent.len(),
            // Any of them may be the reason. Sent one at a time, only that one fails.
            ErrorKind::Unavailable if sent.len() > 1 => {
                *alone = sent.len();
                0
            }
            // The server closes the connection because of the first one, or kvconn cannot read its answer.
            _ => 1,
        };
        if e.kind() == ErrorKind::TooLarge
            && let Some((_, item)) = sent.front()
        {
            let len = item.expected_len();
            let mut too_large = self.too_large.lock().unwrap_or_else(PoisonError::into_inner);
            if too_large.as_ref().is_none_or(|(least, _)| len < *least) {
                *too_large = Some((len, e.clone()));
            }
        }
        self.fail(sent.drain(..failed.min(sent.len())), &e);
        *alone = alone.saturating_sub(failed);
        if renewals.next().is_none() || e.kind() == ErrorKind::Timeout {
            self.fail(sent.drain(..), &e);
            return Err(e);
        }
        let lease = lease.renew().await.inspect_err(|e| self.fail(sent.drain(..), e))?;
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        sent.drain(..).rev().for_each(|item| queue.push_front(item));
        Ok(lease)
    }

    fn fail(&self, items: impl Iterator<Item = (usize, E)>, e: &Error) {
        items.for_each(|(at, _)| self.answers.put(at, Err(e.clone())));
    }
}

impl<A> Answers<A> {
    fn put(&self, at: usize, answer: Result<A>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(answer);
    }
}

/// The bytes sent, and the answer.
async fn ask<E: Exchange>(connection: &mut Connection, item: &mut E) -> Result<(usize, Result<E::Answer>)> {
    let mut request = Request::new();
    item.request(&mut request);
    connection.send(&request).await?;
    let sent = request.len();
    drop(request);
    Ok((sent, item.read(connection).await?))
}

/// Sends the requests of all items together. Returns their bytes.
async fn send<'a, E: Exchange + 'a>(
    connection: &mut Connection,
    items: impl Iterator<Item = &'a (usize, E)>,
) -> Result<usize> {
    let mut request = Request::new();
    items.for_each(|(_, item)| item.request(&mut request));
    connection.send(&request).await?;
    Ok(request.len())
}
