//! Requests for chunks and their answers: one, or many over all connections.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Mutex, PoisonError};

use connector_core::{Error, ErrorKind, Result};
use futures::stream::{FuturesUnordered, StreamExt};

use super::connection::Connection;
use super::errors::{server_error, unexpected};
use super::pool::{Lease, Wire};
use super::reply::Reply;
use super::request::{Arg, Request};

/// One thing to ask of the server, and how its answer is read. It may be asked again on another connection if the first
/// turned out to be dead before any answer.
pub(crate) trait Exchange: Send {
    /// What comes of it.
    type Answer: Send;

    /// Adds the commands: one or more.
    fn request<'a>(&'a self, request: &mut Request<'a>);

    /// Bytes of the chunk, if that is known before: how much will be on its way.
    fn expected_len(&self) -> usize {
        0
    }

    /// Reads the reply to each of the commands.
    ///
    /// # Errors
    /// The outer error is the connection's, which is closed. The inner one is this exchange's alone: all its replies were
    /// read.
    fn read(&mut self, connection: &mut Connection) -> impl Future<Output = Result<Result<Self::Answer>>> + Send;
}

/// So many bytes are asked for ahead on one connection, about. Little: a server keeps what is not read yet in its memory,
/// where it leaves the processor's cache, and the other connections keep it busy meanwhile. (Measured: 1 MiB ahead is
/// slower by a third than nothing ahead, for chunks of 64 KiB and more.)
const AHEAD: usize = 64 << 10;
/// Requests that are sent ahead on one connection at most.
const WINDOW: usize = 64;
/// Small commands that are sent in one go.
const COMMANDS: usize = 512;

type Queue<E> = Mutex<std::iter::Enumerate<std::vec::IntoIter<E>>>;
type Answers<E> = Mutex<Vec<Option<Result<<E as Exchange>::Answer>>>>;

impl Wire {
    /// Asks one thing, on a connection for chunks.
    ///
    /// # Errors
    /// The exchange's own, and `Unavailable`, `Timeout`, `Corrupt` if the connection fails.
    pub(crate) async fn exchange<E: Exchange>(&self, mut one: E) -> Result<E::Answer> {
        let _share = self.share(one.expected_len()).await?;
        let mut lease = self.lease(&self.bulk).await?;
        loop {
            let before = lease.connection.arrived();
            match ask(&mut lease.connection, &mut one).await {
                Ok((sent, answer)) => {
                    self.moved(sent.max(lease.connection.arrived_since(before)));
                    lease.done();
                    return answer;
                }
                Err(e) if lease.was_dead(&e) => lease = self.renew(lease).await?,
                Err(e) => {
                    self.failed(&self.bulk, &e);
                    return Err(e);
                }
            }
        }
    }

    /// Asks several things, over all connections for chunks and several ahead on each. Answers in the order asked.
    pub(crate) async fn exchange_all<E: Exchange>(&self, items: Vec<E>) -> Vec<Result<E::Answer>> {
        let lanes = self.lanes(items.len(), items.first().map_or(0, Exchange::expected_len));
        let answers: Answers<E> = Mutex::new(items.iter().map(|_| None).collect());
        let queue: Queue<E> = Mutex::new(items.into_iter().enumerate());
        // Not `join_all`: it looks at all of a few when one is woken.
        let mut working: FuturesUnordered<_> = (0..lanes).map(|_| self.work(&queue, &answers, lanes)).collect();
        let mut failure = None;
        while let Some(ended) = working.next().await {
            failure = failure.or(ended.err());
        }
        drop(working);
        // Only what no connection could be had for is left.
        let left = || failure.as_ref().map_or_else(Error::closed, Error::clone);
        let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(left()))).collect()
    }

    /// Does a part of the queue on one connection.
    async fn work<E: Exchange>(&self, queue: &Queue<E>, answers: &Answers<E>, lanes: usize) -> Result<()> {
        let mut lease = self.lease(&self.bulk).await?;
        let mut sent: VecDeque<(usize, E)> = VecDeque::new();
        let (mut window, mut each_sent) = (1, 0);
        loop {
            if self.bulk.is_wanted() && each_sent > 0 {
                // Other calls go on between two chunks of this batch.
                if sent.is_empty() {
                    lease.done();
                    lease = self.lease(&self.bulk).await?;
                    each_sent = 0;
                    continue;
                }
            } else if sent.len() <= window / 2 {
                let known = sent.len();
                take(queue, window - known, lanes, &mut sent);
                if sent.is_empty() {
                    lease.done();
                    return Ok(());
                }
                match send(&mut lease.connection, sent.iter().skip(known)).await {
                    Ok(0) => {}
                    Ok(bytes) => each_sent = bytes / (sent.len() - known),
                    Err(e) => {
                        lease = self.after_failure(lease, e, &mut sent, answers).await?;
                        continue;
                    }
                }
            }
            let Some((at, item)) = sent.front_mut() else { continue };
            let before = lease.connection.arrived();
            match item.read(&mut lease.connection).await {
                Ok(answer) => {
                    put(answers, *at, answer);
                    sent.pop_front();
                    let each = each_sent.max(lease.connection.arrived_since(before));
                    self.moved(each);
                    // A chunk that is sent ahead waits in the sockets, where the server finds it as soon as it has answered.
                    let at_least = if each_sent == each { 2 } else { 1 };
                    window = (AHEAD / each.max(1)).clamp(at_least, WINDOW);
                }
                Err(e) => lease = self.after_failure(lease, e, &mut sent, answers).await?,
            }
        }
    }

    /// Answers what cannot be answered any more, and goes on with another connection if that makes sense.
    async fn after_failure<'a, E: Exchange>(
        &self,
        lease: Lease<'a>,
        e: Error,
        sent: &mut VecDeque<(usize, E)>,
        answers: &Answers<E>,
    ) -> Result<Lease<'a>> {
        self.failed(&self.bulk, &e);
        if !lease.was_dead(&e) {
            // An answer that cannot be understood is no fault of those that wait behind it.
            let failed = if e.kind() == ErrorKind::Corrupt { 1 } else { sent.len() };
            sent.drain(..failed.min(sent.len())).for_each(|(at, _)| put(answers, at, Err(e.clone())));
            if e.kind() == ErrorKind::Timeout {
                // The others of the queue would each wait as long.
                return Err(e);
            }
        }
        let again = async {
            let mut lease = self.renew(lease).await?;
            send(&mut lease.connection, sent.iter()).await?;
            Ok(lease)
        };
        let again: Result<Lease<'a>> = again.await;
        if let Err(e) = &again {
            sent.drain(..).for_each(|(at, _)| put(answers, at, Err(e.clone())));
        }
        again
    }

    /// One small command, on a connection that no chunk uses.
    ///
    /// # Errors
    /// What the server answers as an error; `Unavailable`, `Timeout`, `Corrupt` if the connection fails.
    pub(crate) async fn command(&self, args: &[Arg<'_>]) -> Result<Reply> {
        let mut answers = self.commands(1, |_, request| request.command(args)).await;
        answers.pop().unwrap_or_else(|| Err(Error::closed()))
    }

    /// Asks whether it is there.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub(crate) async fn ping(&self) -> Result<()> {
        match self.command(&["PING".into()]).await? {
            Reply::Simple(said) if said == b"PONG" => Ok(()),
            other => Err(unexpected(&other, "`PONG`")),
        }
    }

    /// As [`commands`](Self::commands), for what must not be done twice because its answer would be another one.
    pub(crate) async fn commands_once<'a>(
        &self,
        n: usize,
        add: impl Fn(usize, &mut Request<'a>) + Send + Sync,
    ) -> Vec<Result<Reply>> {
        self.all_commands(n, add, false).await
    }

    /// `n` small commands, hundreds in one go; `add` adds the command of that number. Answers in their order, a server's
    /// error as an error.
    pub(crate) async fn commands<'a>(
        &self,
        n: usize,
        add: impl Fn(usize, &mut Request<'a>) + Send + Sync,
    ) -> Vec<Result<Reply>> {
        self.all_commands(n, add, true).await
    }

    async fn all_commands<'a>(
        &self,
        n: usize,
        add: impl Fn(usize, &mut Request<'a>) + Send + Sync,
        may_repeat: bool,
    ) -> Vec<Result<Reply>> {
        let mut answers = Vec::with_capacity(n);
        if let Err(e) = self.run_commands(n, add, may_repeat, &mut answers).await {
            answers.resize_with(n, || Err(e.clone()));
        }
        answers
    }

    async fn run_commands<'a>(
        &self,
        n: usize,
        add: impl Fn(usize, &mut Request<'a>) + Send + Sync,
        may_repeat: bool,
        answers: &mut Vec<Result<Reply>>,
    ) -> Result<()> {
        let mut lease = self.lease(&self.small).await?;
        while answers.len() < n {
            let some = answers.len()..(answers.len() + COMMANDS).min(n);
            let mut request = Request::new();
            some.clone().for_each(|i| add(i, &mut request));
            match run(&mut lease.connection, &request, answers).await {
                Ok(()) => {}
                Err(e) if may_repeat && lease.was_dead(&e) => lease = self.renew(lease).await?,
                Err(e) => {
                    self.failed(&self.small, &e);
                    return Err(e);
                }
            }
        }
        lease.done();
        Ok(())
    }
}

/// Sends it all and reads one reply to each of its commands.
async fn run(connection: &mut Connection, request: &Request<'_>, answers: &mut Vec<Result<Reply>>) -> Result<()> {
    connection.send(request).await?;
    for _ in 0..request.commands() {
        answers.push(match connection.reply().await? {
            Reply::Error(said) => Err(server_error(&said)),
            other => Ok(other),
        });
    }
    Ok(())
}

/// Also says how many bytes were sent.
async fn ask<E: Exchange>(connection: &mut Connection, one: &mut E) -> Result<(usize, Result<E::Answer>)> {
    let mut request = Request::new();
    one.request(&mut request);
    connection.send(&request).await?;
    let sent = request.len();
    drop(request);
    Ok((sent, one.read(connection).await?))
}

/// Sends them in one go; says how many bytes that were.
async fn send<'a, E: Exchange + 'a>(
    connection: &mut Connection,
    items: impl Iterator<Item = &'a (usize, E)>,
) -> Result<usize> {
    let mut request = Request::new();
    items.for_each(|(_, item)| item.request(&mut request));
    connection.send(&request).await?;
    Ok(request.len())
}

/// Takes at most `n` from the queue, and no more than this connection's share of what is left.
fn take<E>(queue: &Queue<E>, n: usize, lanes: usize, to: &mut VecDeque<(usize, E)>) {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    let share = queue.len().div_ceil(lanes);
    to.extend(queue.by_ref().take(n.min(share)));
}

fn put<A>(answers: &Mutex<Vec<Option<Result<A>>>>, at: usize, answer: Result<A>) {
    answers.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(answer);
}
