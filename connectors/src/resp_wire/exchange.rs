//! One request to a server and its answer: [`Exchange`]. [`Wire`] finds the server and follows redirections.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use connector_core::{CacheKey, Connect, ConnectorContext, Diagnosis, Error, ErrorKind, Result, ServerInfo};
use futures::future::join_all;

use super::connection::Connection;
use super::describe::describe;
use super::diagnose::diagnose;
use super::errors::{Elsewhere, expect_word};
use super::meters::StoreMeters;
use super::name::Name;
use super::options::WireOptions;
use super::request::Request;
use super::server::Server;
use super::topology::{Route, Topology};

/// One request to a server, and its answer.
pub(crate) trait Exchange: Send + Sync {
    /// The answer.
    type Answer: Send;

    /// Whether it moves no chunk. Such exchanges have separate connections, so that they never wait behind a chunk.
    const SMALL: bool = false;

    /// Whether the wire may send it once more if the connection broke before a byte of the answer came. `false` for a
    /// removal: the first one may still run after a later put.
    const REPEATABLE: bool = true;

    /// Whether it changes nothing, so that a replica may answer.
    const READS: bool = false;

    /// The parts of the name that selects the server; the first name of several. `None` if any server can answer.
    fn name(&self) -> Option<[&str; 3]>;

    /// Adds the commands: one or more.
    fn request<'a>(&'a self, request: &mut Request<'a>);

    /// Bytes of the chunk; 0 if only the answer gives it.
    fn expected_len(&self) -> usize {
        0
    }

    /// Reads the replies to the commands, in order. It must read whole each reply that it starts. The wire drops the replies
    /// that it leaves, such as those after an error.
    ///
    /// # Errors
    /// The outer error is the connection's, which the wire then closes. The inner error concerns only this exchange.
    fn read(&mut self, connection: &mut Connection) -> impl Future<Output = Result<Result<Self::Answer>>> + Send;
}

/// The longest time that a lazy open waits for the server.
const LAZY_OPEN: Duration = Duration::from_secs(1);
/// The servers of one store. A call does its I/O in its own future, on a connection that no other call uses
/// meanwhile. A dropped call closes its connection, so no other task ever touches its memory.
pub(crate) struct Wire {
    options: Arc<WireOptions>,
    pub(super) topology: Topology,
}

impl Wire {
    /// Connects once, to check that the server answers. A [lazy](Connect::Lazy) open succeeds without an answer.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Denied`. For a server of another protocol, `Unavailable` and permanent.
    pub(crate) async fn open(options: WireOptions, ctx: &ConnectorContext) -> Result<Self> {
        let options = Arc::new(WireOptions { meters: StoreMeters::of(ctx), ..options });
        let is_lazy = ctx.connect() == Connect::Lazy;
        let limit = if is_lazy { options.connect_timeout.min(LAZY_OPEN) } else { options.connect_timeout };
        if let Some(tls) = &options.tls {
            // A wrong file is an error of a lazy open, too.
            tls.load().await?;
        }
        let topology = Topology::new(&options, ctx)?;
        match topology.connect(limit).await {
            Ok(()) => {}
            Err(e) if is_lazy && e.is_temporary() => {
                tracing::warn!(
                    connector = ctx.connector_name(),
                    instance = ctx.instance(),
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
        self.topology.close();
    }

    /// Runs one exchange.
    ///
    /// # Errors
    /// The exchange's own, and `Unavailable`, `Timeout`, `Corrupt` if the connection fails.
    pub(crate) async fn exchange<E: Exchange>(&self, mut item: E) -> Result<E::Answer> {
        let (mut route, mut hops) = (self.topology.route(item.name(), E::READS).await?, 0);
        loop {
            let (answer, elsewhere) = exchange_at(&route, &mut item).await;
            let next = match &elsewhere {
                Some(elsewhere) => self.topology.next_route(item.name(), &route, elsewhere, hops).await,
                None => None,
            };
            match next {
                Some(next) => (route, hops) = (next, hops + 1),
                None => return answer.map_err(|e| self.topology.judge(e)),
            }
        }
    }

    /// Runs one exchange with this server, which [`servers`](Self::servers) gave.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange).
    pub(crate) async fn exchange_with<E: Exchange>(&self, server: &Arc<Server>, mut item: E) -> Result<E::Answer> {
        let (answer, elsewhere) = exchange_at(&Route::to(server), &mut item).await;
        if elsewhere.is_some() {
            self.topology.doubt();
        }
        answer.map_err(|e| self.topology.judge(e))
    }

    /// Whether the names lie on several nodes, so that one command must not contain two of them.
    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.topology, Topology::Cluster(_))
    }

    /// The servers that have the names of the store, each name on one of them.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange), if they are not known yet.
    pub(crate) async fn servers(&self) -> Result<Vec<Arc<Server>>> {
        self.topology.servers().await
    }

    /// As [`exchange_all`](Self::exchange_all), for the items that are not errors.
    pub(crate) async fn exchange_valid<E: Exchange>(
        &self,
        items: impl Iterator<Item = Result<E>>,
    ) -> Vec<Result<E::Answer>> {
        of_valid(items, |valid| self.exchange_all(valid)).await
    }

    /// The servers that are known, and what each says about itself.
    pub(crate) async fn describe_servers(&self) -> Vec<ServerInfo> {
        join_all(self.topology.nodes().await.iter().map(describe)).await
    }

    /// The settings and the state of the servers. `ttl_sec` is the time that a chunk lives.
    pub(crate) async fn diagnose(&self, ttl_sec: Option<u64>) -> Vec<Diagnosis> {
        diagnose(&self.topology.nodes().await, self.is_cluster(), ttl_sec).await
    }

    /// Checks that every server answers.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange).
    pub(crate) async fn ping(&self) -> Result<()> {
        for server in self.servers().await? {
            self.exchange_with(&server, Ping).await?;
        }
        Ok(())
    }
}

/// The answers of `ask` for the items that are not errors, and these errors, in the order of the items.
pub(crate) async fn of_valid<T, A, F: Future<Output = Vec<Result<A>>>>(
    items: impl Iterator<Item = Result<T>>,
    ask: impl FnOnce(Vec<T>) -> F,
) -> Vec<Result<A>> {
    let mut valid = Vec::new();
    let refused: Vec<Option<Error>> = items.map(|item| item.map(|item| valid.push(item)).err()).collect();
    let mut asked = ask(valid).await.into_iter();
    let answer = |e: Option<Error>| e.map_or_else(|| asked.next().unwrap_or_else(|| Err(Error::closed())), Err);
    refused.into_iter().map(answer).collect()
}

struct Ping;

impl Exchange for Ping {
    type Answer = ();
    const SMALL: bool = true;

    fn name(&self) -> Option<[&str; 3]> {
        None
    }

    fn request<'a>(&'a self, request: &mut Request<'a>) {
        request.command(&["PING".into()]);
    }

    async fn read(&mut self, connection: &mut Connection) -> Result<Result<()>> {
        Ok(expect_word(connection.reply().await?, "PONG"))
    }
}

/// The answer of the route's server, and its error's meaning for the way.
pub(super) async fn exchange_at<E: Exchange>(route: &Route, item: &mut E) -> (Result<E::Answer>, Option<Elsewhere>) {
    let server = &route.server;
    let leased = async {
        let share = if E::SMALL { None } else { server.share(item.expected_len()).await? };
        Ok((share, server.lease(E::SMALL).await?))
    };
    let (_share, mut lease) = match server.while_in_place(leased).await {
        Ok(leased) => leased,
        Err(e) => {
            let lost = lost(&e);
            return (Err(e), lost);
        }
    };
    loop {
        let before = lease.connection.received();
        match server.while_in_place(ask(route.asking, &mut lease.connection, item)).await {
            Ok((sent, answer)) => {
                server.remember_len(sent.max(lease.connection.received_since(before)));
                let elsewhere = lease.connection.take_elsewhere().filter(|_| answer.is_err());
                lease.give_back();
                return (answer, elsewhere);
            }
            Err(e) if E::REPEATABLE && lease.was_stale(&e) => match server.while_in_place(lease.renew()).await {
                Ok(renewed) => lease = renewed,
                Err(e) => {
                    let lost = lost(&e);
                    return (Err(e), lost);
                }
            },
            Err(e) => {
                lease.failed(&e);
                let again = can_move::<E>(server) && e.kind() == ErrorKind::Unavailable;
                return (Err(e), again.then_some(Elsewhere::Lost));
            }
        }
    }
}

/// Whether another server may answer an exchange whose connection broke. A read changes nothing. A server that another one
/// replaced loses its changes.
pub(super) fn can_move<E: Exchange>(server: &Server) -> bool {
    E::READS || E::REPEATABLE && server.is_retired()
}

/// The meaning of an error that came before a connection was ready.
pub(super) fn lost(e: &Error) -> Option<Elsewhere> {
    let is_lost = matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) && !e.is_unsent();
    is_lost.then_some(Elsewhere::Lost)
}

/// The bytes sent, and the answer.
async fn ask<E: Exchange>(
    asking: bool,
    connection: &mut Connection,
    item: &mut E,
) -> Result<(usize, Result<E::Answer>)> {
    let mut request = Request::new();
    let replies = add(asking, item, &mut request);
    connection.send(&request).await?;
    let sent = request.len();
    drop(request);
    Ok((sent, read(asking, replies, item, connection).await?))
}

/// Adds the commands of the exchange. Returns the number of their replies.
pub(super) fn add<'a, E: Exchange>(asking: bool, item: &'a E, request: &mut Request<'a>) -> usize {
    let before = request.commands();
    request.set_asking(asking);
    item.request(request);
    request.commands() - before
}

/// Reads the answer of the exchange, whose `replies` come next.
pub(super) async fn read<E: Exchange>(
    asking: bool,
    replies: usize,
    item: &mut E,
    connection: &mut Connection,
) -> Result<Result<E::Answer>> {
    let later = connection.unanswered().saturating_sub(replies);
    connection.set_asking(asking);
    let answer = item.read(connection).await?;
    // The next exchange would take a reply that is left for its own.
    connection.drop_replies(later).await?;
    connection.set_asking(false);
    Ok(answer)
}
