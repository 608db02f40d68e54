//! Many exchanges at once: each server's over several connections, with several requests in flight on each. Several threads
//! move the chunks if the server is faster than one.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use connector_core::runtime::Spread;
use connector_core::{Error, ErrorKind, Result};
use futures::FutureExt;
use futures::future::join_all;

use super::connection::Connection;
use super::errors::Elsewhere;
use super::exchange::{Exchange, Wire, add, can_move, lost, read};
use super::request::Request;
use super::server::{IN_FLIGHT, Lease, Server};
use super::topology::Route;

/// About how many bytes one connection asks for ahead over a short wire. A server keeps unread answers in its memory, where
/// they leave the processor's cache. Other connections keep the server busy meanwhile. (With chunks of 64 KiB and more on
/// loopback, 1 MiB ahead is a third slower than nothing ahead.)
const AHEAD: usize = 64 << 10;
/// Bytes that all connections together ask for ahead, for each microsecond of a round trip: twice the rate of a fast wire,
/// because a connection asks for more when half of its answers are there.
const AHEAD_PER_MICROSECOND: usize = 8 << 10;
/// The most chunks in flight on one connection.
const CHUNKS_AHEAD: usize = 64;
/// New connections that one connection's part of a batch may take after failures. Without this limit, a server with
/// useless answers would cost a connection for each key.
const RENEWALS: u32 = 8;
/// The most exchanges without a chunk in flight on one connection. Their bytes are few, so most batches take one round trip.
const SMALL_AHEAD: usize = 4096;

/// An exchange of a batch.
struct Item<E> {
    /// Its index in the answers.
    at: usize,
    exchange: E,
    /// The number of replies to its commands, once they were sent.
    replies: usize,
    /// Its way, once a server has sent it elsewhere.
    route: Option<Route>,
    /// How often a server has sent it elsewhere.
    hops: u32,
}

/// Exchanges in order.
type Items<E> = VecDeque<Item<E>>;

/// An exchange that another server may answer, and the answer that stands if none does.
type Left<E> = (Item<E>, Elsewhere, Result<<E as Exchange>::Answer>);

/// A step of a batch of exchanges.
enum Step<'a, E: Exchange> {
    /// One connection takes its part of a server's exchanges.
    Work(Arc<Batch<'a, E>>),
    /// Finds the servers of these exchanges.
    Find(Vec<Item<E>>, &'a Answers<E::Answer>),
}

/// The exchanges of one server. Several connections take them from one queue.
struct Batch<'a, E: Exchange> {
    server: Arc<Server>,
    queue: Mutex<Items<E>>,
    /// About how many bytes each exchange moves; 0 if unknown.
    chunk_len: usize,
    /// The number of connections.
    width: usize,
    /// The number of exchanges of each connection, if all take as many.
    share: usize,
    answers: &'a Answers<E::Answer>,
    elsewhere: Mutex<Vec<Left<E>>>,
    /// Why a connection ended early.
    failure: Mutex<Option<Error>>,
    /// The length of the shortest chunk that the server refused because of its length, and the error.
    too_large: Mutex<Option<(usize, Error)>>,
}

struct Answers<A>(Mutex<Given<A>>);

struct Given<A> {
    answers: Vec<Option<Result<A>>>,
    /// How many have no answer.
    missing: usize,
}

impl Wire {
    /// Runs many exchanges, with several requests in flight on each connection. Chunks go over several connections.
    /// The servers work at the same time, and none waits for another. The answers are in the order of the items.
    pub(crate) async fn exchange_all<E: Exchange>(&self, items: Vec<E>) -> Vec<Result<E::Answer>> {
        let items = match <[E; 1]>::try_from(items) {
            Ok([one]) => return vec![self.exchange(one).await],
            Err(items) => items,
        };
        let answers = Answers::none(items.len());
        let start = |(at, exchange)| Item { at, exchange, replies: 0, route: None, hops: 0 };
        let mut ready: Vec<Item<E>> = items.into_iter().enumerate().map(start).collect();
        let mut working = Spread::new(!E::READS);
        loop {
            let (batches, lost) = self.batches(ready, &answers);
            for batch in batches.into_iter().map(Arc::new) {
                for _ in 0..batch.width {
                    working.push(batch.chunk_len, self.step(Step::Work(batch.clone())));
                }
            }
            if !lost.is_empty() {
                working.push(0, self.step(Step::Find(lost, &answers)));
            }
            match working.next().await {
                // The rest waits for connections that the batch no longer needs.
                Some(again) if again.is_empty() && answers.are_all() => break,
                Some(again) => ready = again,
                None => break,
            }
        }
        drop(working);
        let answers = answers.0.into_inner().unwrap_or_else(PoisonError::into_inner).answers;
        let answer = |answer: Option<Result<E::Answer>>| answer.unwrap_or_else(|| Err(Error::closed()));
        answers.into_iter().map(|one| answer(one).map_err(|e| self.topology.judge(e))).collect()
    }

    /// Runs a step of a batch. Returns the exchanges that have a way to another server now.
    async fn step<E: Exchange>(&self, step: Step<'_, E>) -> Vec<Item<E>> {
        match step {
            Step::Work(batch) => {
                batch.work_or_fail().await;
                let answers = batch.answers;
                // The last connection handles the exchanges that are left.
                let left = Arc::into_inner(batch).map(Batch::left).unwrap_or_default();
                if left.is_empty() {
                    return Vec::new();
                }
                let next = left.into_iter().map(async |(item, elsewhere, answer)| {
                    let next = match &item.route {
                        Some(last) => self.topology.next_route(item.exchange.name(), last, &elsewhere, item.hops).await,
                        None => None,
                    };
                    if next.is_none() {
                        answers.put(item.at, answer);
                    }
                    next.map(|next| Item { route: Some(next), hops: item.hops + 1, ..item })
                });
                join_all(next).await.into_iter().flatten().collect()
            }
            Step::Find(items, answers) => {
                let found = items.into_iter().map(async |item| {
                    match self.topology.route(item.exchange.name(), E::READS).await {
                        Ok(route) => Some(Item { route: Some(route), ..item }),
                        Err(e) => {
                            answers.put(item.at, Err(e));
                            None
                        }
                    }
                });
                join_all(found).await.into_iter().flatten().collect()
            }
        }
    }

    /// The exchanges of each server, and the ones whose server is not known yet.
    fn batches<'a, E: Exchange>(
        &self,
        items: Vec<Item<E>>,
        answers: &'a Answers<E::Answer>,
    ) -> (Vec<Batch<'a, E>>, Vec<Item<E>>) {
        let mut servers: Vec<(Arc<Server>, Items<E>)> = Vec::new();
        // Their places, once there are several.
        let mut places: HashMap<*const Server, usize> = HashMap::new();
        let mut lost = Vec::new();
        for mut item in items {
            if item.route.is_none() {
                item.route = self.topology.route(item.exchange.name(), E::READS).now_or_never().and_then(Result::ok);
            }
            let Some(Route { server, .. }) = &item.route else {
                lost.push(item);
                continue;
            };
            let at = match servers.first() {
                Some((first, _)) if Arc::ptr_eq(first, server) => Some(0),
                _ => places.get(&Arc::as_ptr(server)).copied(),
            };
            match at {
                Some(at) => servers[at].1.push_back(item),
                None => {
                    if !servers.is_empty() {
                        places.insert(Arc::as_ptr(server), servers.len());
                    }
                    servers.push((server.clone(), VecDeque::from([item])));
                }
            }
        }
        (servers.into_iter().map(|(server, items)| Batch::new(server, items, answers)).collect(), lost)
    }
}

impl<'a, E: Exchange> Batch<'a, E> {
    fn new(server: Arc<Server>, queue: Items<E>, answers: &'a Answers<E::Answer>) -> Self {
        let chunk_len = match queue.front() {
            Some(item) if !E::SMALL => server.expected_len(item.exchange.expected_len()),
            _ => 0,
        };
        let width = if E::SMALL { queue.len().min(1) } else { server.width(queue.len(), chunk_len) };
        let share = queue.len().div_ceil(width.max(1));
        let queue = Mutex::new(queue);
        let (elsewhere, failure, too_large) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { server, queue, chunk_len, width, share, answers, elsewhere, failure, too_large }
    }

    /// The number of exchanges that may be in flight on a connection. What all connections ask for ahead covers a round
    /// trip, so that the wire is never empty.
    fn window(&self, connection: &Connection, request_len: usize, reply_len: usize) -> usize {
        if E::SMALL {
            return SMALL_AHEAD;
        }
        let len = request_len.max(reply_len);
        if len == 0 {
            return 1;
        }
        let micros = usize::try_from(self.server.round_trip(connection).as_micros()).unwrap_or(usize::MAX);
        let ahead = micros.saturating_mul(AHEAD_PER_MICROSECOND).min(IN_FLIGHT) / self.width;
        // A chunk that is sent ahead waits in the socket's buffers until the server has answered.
        let at_least = if request_len >= reply_len { 2 } else { 1 };
        (ahead.max(AHEAD) / len).clamp(at_least, CHUNKS_AHEAD)
    }

    async fn lease(&self) -> Result<Lease<'_>> {
        self.server.lease(E::SMALL).await
    }

    /// [`work`](Self::work), whose error waits for the other connections.
    async fn work_or_fail(&self) {
        // The exchanges in flight, in order.
        let mut sent = VecDeque::new();
        if let Err(e) = self.server.while_in_place(self.work(&mut sent)).await {
            if can_move::<E>(&self.server) {
                self.take_back(&mut sent);
            }
            self.fail(sent.into_iter(), &e);
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
        }
    }

    /// The exchanges that another server may answer.
    fn left(self) -> Vec<Left<E>> {
        let failure = self.failure.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(Error::closed);
        let mut left = self.elsewhere.into_inner().unwrap_or_else(PoisonError::into_inner);
        for item in self.queue.into_inner().unwrap_or_else(PoisonError::into_inner) {
            match lost(&failure) {
                Some(lost) => left.push((item, lost, Err(failure.clone()))),
                None => self.answers.put(item.at, Err(failure.clone())),
            }
        }
        left
    }

    /// Processes a part of the queue on one connection.
    async fn work(&self, sent: &mut Items<E>) -> Result<()> {
        let mut lease = self.lease().await?;
        // The number that may be in flight, and the bytes of a request (0 until this lease sent one).
        let (mut window, mut request_len) = (self.window(&lease.connection, 0, self.chunk_len), 0);
        let at_once = |alone, window| if alone > 0 { 1 } else { window };
        let mut renewals = 0..RENEWALS;
        // The number of exchanges to send one at a time, after a connection broke with several in flight.
        let mut alone = 0_usize;
        // Whether an answer came. Before that, the other connections may not be open yet, and their shares stay in the queue.
        let mut has_answer = false;
        loop {
            if lease.is_wanted() && request_len > 0 {
                // Stops sending, so that another call gets the connection after the answers in flight.
                if sent.is_empty() {
                    lease.give_back();
                    lease = self.lease().await?;
                    request_len = 0;
                    continue;
                }
            } else if sent.is_empty() || has_answer && sent.len() <= at_once(alone, window) / 2 {
                let before = sent.len();
                self.take(at_once(alone, window) - before, has_answer, sent);
                if sent.is_empty() {
                    lease.give_back();
                    return Ok(());
                }
                match send(&mut lease.connection, sent.iter_mut().skip(before)).await {
                    Ok(0) => {}
                    Ok(bytes) => request_len = bytes / (sent.len() - before),
                    Err(e) => {
                        lease = self.after_failure(lease, e, sent, (&mut renewals, &mut alone)).await?;
                        continue;
                    }
                }
            }
            let Some(item) = sent.front_mut() else { continue };
            let before = lease.connection.received();
            match item.read(&mut lease.connection).await {
                Ok(answer) => {
                    has_answer = true;
                    let elsewhere = lease.connection.take_elsewhere().filter(|_| answer.is_err());
                    match (sent.pop_front(), elsewhere) {
                        (Some(item), Some(elsewhere)) => self.elsewhere().push((item, elsewhere, answer)),
                        (Some(item), None) => self.answers.put(item.at, answer),
                        (None, _) => {}
                    }
                    alone = alone.saturating_sub(1);
                    if !E::SMALL {
                        let reply_len = lease.connection.received_since(before);
                        self.server.remember_len(request_len.max(reply_len));
                        window = self.window(&lease.connection, request_len, reply_len);
                    }
                }
                Err(e) => lease = self.after_failure(lease, e, sent, (&mut renewals, &mut alone)).await?,
            }
        }
    }

    /// Takes up to `n` from the queue, and no more than this connection's share of all or of the rest. Fails chunks that the
    /// server would refuse. Asks for no more bytes ahead than this connection's share of [`IN_FLIGHT`], since the chunks of a
    /// batch may differ in length.
    fn take(&self, n: usize, has_answer: bool, to: &mut Items<E>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((len, e)) = &*self.too_large.lock().unwrap_or_else(PoisonError::into_inner) {
            let is_refused = |item: &Item<E>| item.exchange.expected_len() >= *len;
            let (refused, rest) = std::mem::take(&mut *queue).into_iter().partition::<Items<E>, _>(is_refused);
            self.fail(refused.into_iter(), e);
            *queue = rest;
        }
        let share = if has_answer { queue.len().div_ceil(self.width) } else { self.share };
        let mut bytes: usize = to.iter().map(|item| item.exchange.expected_len()).sum();
        for _ in 0..n.min(share) {
            let Some(item) = queue.front() else { break };
            bytes += item.exchange.expected_len();
            if E::READS && !to.is_empty() && bytes > IN_FLIGHT / self.width {
                break;
            }
            to.extend(queue.pop_front());
        }
    }

    /// Fails the exchange that the connection's error concerns, and puts the others back into the queue, for a new
    /// connection.
    ///
    /// # Errors
    /// If the others failed, too.
    async fn after_failure<'l>(
        &self,
        lease: Lease<'l>,
        e: Error,
        sent: &mut Items<E>,
        (renewals, alone): (&mut Range<u32>, &mut usize),
    ) -> Result<Lease<'l>> {
        lease.failed(&e);
        let was_stale = E::REPEATABLE && lease.was_stale(&e);
        let failed = match e.kind() {
            _ if was_stale => 0,
            // After a timeout, each of the others would wait as long again.
            _ if !E::REPEATABLE || e.kind() == ErrorKind::Timeout => sent.len(),
            // Any of them may be the reason. Sent one at a time, only that one fails.
            ErrorKind::Unavailable if sent.len() > 1 => {
                *alone = sent.len().min(CHUNKS_AHEAD);
                0
            }
            // The server closes the connection because of the first one, or kvconn cannot read its answer.
            _ => 1,
        };
        if e.kind() == ErrorKind::TooLarge
            && let Some(item) = sent.front()
        {
            let len = item.exchange.expected_len();
            let mut too_large = self.too_large.lock().unwrap_or_else(PoisonError::into_inner);
            if too_large.as_ref().is_none_or(|(least, _)| len < *least) {
                *too_large = Some((len, e.clone()));
            }
        }
        for item in sent.drain(..failed.min(sent.len())) {
            // As a single exchange, it may go to another server.
            if can_move::<E>(&self.server) && e.kind() == ErrorKind::Unavailable {
                self.elsewhere().push((item, Elsewhere::Lost, Err(e.clone())));
            } else {
                self.answers.put(item.at, Err(e.clone()));
            }
        }
        *alone = alone.saturating_sub(failed);
        if renewals.next().is_none() || e.kind() == ErrorKind::Timeout {
            self.fail(sent.drain(..), &e);
            return Err(e);
        }
        let lease = lease.renew().await?;
        self.take_back(sent);
        Ok(lease)
    }

    /// Puts exchanges back into the queue.
    fn take_back(&self, sent: &mut Items<E>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        sent.drain(..).rev().for_each(|item| queue.push_front(item));
    }

    fn elsewhere(&self) -> MutexGuard<'_, Vec<Left<E>>> {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, items: impl Iterator<Item = Item<E>>, e: &Error) {
        items.for_each(|item| self.answers.put(item.at, Err(e.clone())));
    }
}

impl<A> Answers<A> {
    fn none(len: usize) -> Self {
        Self(Mutex::new(Given { answers: (0..len).map(|_| None).collect(), missing: len }))
    }

    fn put(&self, at: usize, answer: Result<A>) {
        let mut given = self.given();
        given.missing -= usize::from(given.answers[at].is_none());
        given.answers[at] = Some(answer);
    }

    fn are_all(&self) -> bool {
        self.given().missing == 0
    }

    fn given(&self) -> MutexGuard<'_, Given<A>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Exchange> Item<E> {
    fn is_asking(&self) -> bool {
        self.route.as_ref().is_some_and(|route| route.asking)
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<E::Answer>> {
        read(self.is_asking(), self.replies, &mut self.exchange, connection).await
    }
}

/// Sends the requests of all items together. Returns their bytes.
async fn send<'a, E: Exchange + 'a>(
    connection: &mut Connection,
    items: impl Iterator<Item = &'a mut Item<E>>,
) -> Result<usize> {
    let mut request = Request::new();
    items.for_each(|item| item.replies = add(item.is_asking(), &item.exchange, &mut request));
    connection.send(&request).await?;
    Ok(request.len())
}
