//! The master that sentinels name, and its replicas.
//!
//! kvconn asks the sentinels when a store opens, after a call that found the master away or not the master, and when a
//! sentinel announces another master. Each connection to the master checks by `ROLE` that it is one.

mod ask;
mod replicas;
mod watch;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result, runtime};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};

use self::ask::{Found, ask};
use self::replicas::Replicas;
use super::errors::Elsewhere;
use super::options::{Protocol, Role, Sentinels, WireOptions};
use super::server::Server;
use super::task::AbortOnDrop;
use super::topology::{Node, Route};
use super::transport::Address;

/// The servers of one service.
pub(super) struct Sentinel(Arc<Service>);

struct Service {
    name: String,
    options: Options,
    /// The runtime that waits for the sockets.
    sockets: Handle,
    /// One task at a time asks the sentinels.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

/// The options of connections.
struct Options {
    sentinel: Arc<WireOptions>,
    master: Arc<WireOptions>,
    replica: Arc<WireOptions>,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    /// The first one answered last.
    sentinels: Vec<Peer>,
    master: Option<Arc<Server>>,
    /// Grows with each failover. A sentinel that missed one has a lower number.
    epoch: u64,
    replicas: Replicas,
    /// The end of the last round of questions, and its error.
    asked: Option<Instant>,
    failure: Option<Error>,
}

/// A sentinel.
struct Peer {
    server: Arc<Server>,
    /// Whether the URL names it. The other sentinels are those that a sentinel named last.
    is_in_url: bool,
    /// The subscription to its announcements.
    watch: Option<AbortOnDrop>,
}

/// If a sentinel does not answer in this time, kvconn asks the next one, too.
const NEXT_SENTINEL: Duration = Duration::from_millis(100);
/// An answer of this age is new enough for another call.
const PAUSE: Duration = Duration::from_millis(20);
/// After a failure, the longest time that a call waits for the questions of another call.
const PATIENCE: Duration = PAUSE;
/// The most servers that one call asks after the first one.
const HOPS: u32 = 2;

impl Sentinel {
    pub(super) fn new(sentinels: &Sentinels, options: &Arc<WireOptions>, sockets: &Handle) -> Self {
        let with_role = |role| Arc::new(WireOptions { role, ..WireOptions::clone(options) });
        let options = Options {
            sentinel: Arc::new(WireOptions {
                role: Role::Sentinel,
                login: sentinels.login.clone(),
                database: 0,
                // In RESP3 a connection drops announcements.
                protocol: Protocol::Resp2,
                transactions: false,
                min_idle: 0,
                ..WireOptions::clone(options)
            }),
            master: with_role(Role::Master),
            replica: with_role(Role::Replica),
        };
        let peer = |address: &Address| Peer {
            server: Server::new(address.clone(), &options.sentinel, sockets),
            is_in_url: true,
            watch: None,
        };
        let state = State { sentinels: sentinels.addresses.iter().map(peer).collect(), ..State::default() };
        Self(Arc::new(Service {
            name: sentinels.service.clone(),
            options,
            sockets: sockets.clone(),
            turn: tokio::sync::Mutex::default(),
            state: Mutex::new(state),
        }))
    }

    /// Finds the master and connects to it, each within `limit`.
    pub(super) async fn connect(&self, limit: Duration) -> Result<()> {
        let master = self.0.refresh(limit).await?;
        master.lease_within(true, limit).await.map(|lease| lease.give_back())
    }

    /// The way to a replica for `reads`, if the options allow it and one is there. Otherwise the way to the master.
    pub(super) async fn route(&self, reads: bool) -> Result<Route> {
        let service = &self.0;
        if reads
            && service.options.master.replica_reads
            && let Some(replica) = service.replica()
        {
            return Ok(Route::to(&replica));
        }
        let Some(master) = service.state().master.clone() else {
            return service.refresh(service.limit()).await.map(|master| Route::to(&master));
        };
        if !master.is_suspect() {
            return Ok(Route::to(&master));
        }
        let now = service.refresh(service.limit()).await;
        master.trust();
        // Without sentinels, the last master is the best guess.
        Ok(Route::to(&now.unwrap_or(master)))
    }

    /// The way to the master, if it is not the server of the way `last`.
    pub(super) async fn next_route(&self, last: &Route, elsewhere: &Elsewhere, hops: u32) -> Option<Route> {
        if hops >= HOPS || !matches!(elsewhere, Elsewhere::Changing | Elsewhere::Lost) {
            return None;
        }
        let service = &self.0;
        let was_replica = service.state().replicas.leave_out(&last.server);
        let known = service.state().master.clone();
        let master = match known.filter(|master| !Arc::ptr_eq(master, &last.server)) {
            Some(master) => master,
            None if was_replica => return self.route(false).await.ok(),
            None => service.refresh(service.limit()).await.ok()?,
        };
        (!Arc::ptr_eq(&master, &last.server)).then(|| Route::to(&master))
    }

    /// The master, its replicas and the sentinels.
    pub(super) async fn nodes(&self) -> Vec<Node> {
        let state = self.0.state();
        let master = state.master.iter().map(|server| Node::of(server, Some("master")));
        let replicas = state.replicas.servers().map(|server| Node::of(server, Some("replica")));
        let sentinels = state.sentinels.iter().map(|peer| Node::of(&peer.server, Some("sentinel")));
        master.chain(replicas).chain(sentinels).collect()
    }

    pub(super) fn close(&self) {
        let mut state = self.0.state();
        state.is_closed = true;
        state.sentinels.drain(..).for_each(|peer| peer.server.close());
        state.replicas.close();
        if let Some(master) = &state.master {
            master.close();
        }
    }
}

impl Service {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The longest time to find the master.
    fn limit(&self) -> Duration {
        self.options.sentinel.connect_timeout
    }

    /// A replica that answers.
    fn replica(self: &Arc<Self>) -> Option<Arc<Server>> {
        let (replica, to_check) = self.state().replicas.pick();
        to_check.into_iter().for_each(|replica| self.probe(replica));
        replica
    }

    /// The master by the sentinels. One task asks, and other calls wait for it. The process's own runtime asks, because
    /// the caller's runtime may have no timer.
    async fn refresh(self: &Arc<Self>, limit: Duration) -> Result<Arc<Server>> {
        let since = Instant::now();
        if let Some(answer) = self.state().answer_since(since) {
            return answer;
        }
        let service = self.clone();
        let asking = runtime::handle()?.spawn(async move { service.ask_in_turn(since, limit).await });
        let _abort = AbortOnDrop(asking.abort_handle());
        asking.await.map_err(|_| Error::new(ErrorKind::Other, "the task that asks the sentinels panicked"))?
    }

    async fn ask_in_turn(self: &Arc<Self>, since: Instant, limit: Duration) -> Result<Arc<Server>> {
        let failure = self.state().failure.clone();
        let patience = if failure.is_some() { PATIENCE } else { limit };
        let Ok(_turn) = timeout(patience, self.turn.lock()).await else {
            return Err(failure.unwrap_or_else(|| self.timed_out(limit)));
        };
        if let Some(answer) = self.state().answer_since(since) {
            return answer;
        }
        let epoch = self.state().epoch;
        let found = self.find(epoch, since + limit).await;
        self.options.master.meters.refreshed(found.is_ok());
        let mut state = self.state();
        state.failure = match found {
            Ok((found, from)) => {
                self.learn(&mut state, found, &from, Some(epoch));
                None
            }
            Err(e) => Some(e),
        };
        // The answer to this call, and to the calls that waited for it.
        let now = Instant::now();
        state.asked = Some(now);
        state.answer_since(now).unwrap_or_else(|| Err(Error::closed()))
    }

    /// Asks the sentinels in order until one answers that knows of the failover `epoch`. If none does, takes the newest
    /// answer, because an operator may have reset the sentinels.
    async fn find(&self, epoch: u64, deadline: Instant) -> Result<(Found, Arc<Server>)> {
        let sentinels: Vec<Arc<Server>> = self.state().sentinels.iter().map(|peer| peer.server.clone()).collect();
        let mut next = sentinels.iter();
        let mut asking = FuturesUnordered::new();
        let mut behind: Option<(Found, Arc<Server>)> = None;
        let mut failures = Vec::new();
        while Instant::now() < deadline {
            let until = match next.next() {
                Some(sentinel) => {
                    asking.push(async move { (ask(sentinel, &self.name).await, sentinel) });
                    deadline.min(Instant::now() + NEXT_SENTINEL)
                }
                None => deadline,
            };
            match timeout_at(until, asking.next()).await {
                Ok(Some((Ok(found), sentinel))) if found.epoch >= epoch => return Ok((found, sentinel.clone())),
                Ok(Some((Ok(found), sentinel))) => {
                    if behind.as_ref().is_none_or(|(newest, _)| newest.epoch < found.epoch) {
                        behind = Some((found, sentinel.clone()));
                    }
                }
                Ok(Some((Err(e), _))) => failures.push(e),
                // The time for one sentinel is over.
                Err(_) => {}
                Ok(None) => break,
            }
        }
        behind.ok_or_else(|| self.not_found(failures, sentinels.len()))
    }

    /// The failures of all sentinels as one error. A permanent one says the most.
    fn not_found(&self, mut failures: Vec<Error>, sentinels: usize) -> Error {
        let is_temporary = failures.iter().any(Error::is_temporary) || failures.len() < sentinels;
        failures.sort_by_key(Error::is_temporary);
        let Some(first) = failures.into_iter().next() else { return self.timed_out(self.limit()) };
        let first = first.temporary(is_temporary);
        match sentinels {
            1 => first,
            n => first.at(format_args!("none of {n} sentinels names the master of `{}`", self.name)),
        }
    }

    fn timed_out(&self, limit: Duration) -> Error {
        let why = format!("no sentinel named the master of `{}` within {} ms", self.name, limit.as_millis());
        let tls = self.options.sentinel.tls_hint();
        Error::new(ErrorKind::Timeout, why)
            .temporary(true)
            .with_hint(format!("check the hosts and the firewall; {tls}; `connect_timeout_ms` says how long to wait"))
    }

    /// Takes the answer of the sentinel `from`, unless the state is newer. `older` is an epoch that it may replace.
    fn learn(self: &Arc<Self>, state: &mut State, found: Found, from: &Arc<Server>, older: Option<u64>) {
        if state.is_closed || found.epoch < state.epoch && older != Some(state.epoch) {
            return;
        }
        state.epoch = found.epoch;
        if state.master.as_ref().is_none_or(|master| *master.address() != found.master) {
            let (service, address) = (&self.name, &found.master);
            tracing::info!(service, %address, "the sentinels name the master");
            let master = Server::new(found.master.clone(), &self.options.master, &self.sockets);
            master.open_ahead();
            if let Some(old) = state.master.replace(master) {
                old.retire();
            }
        }
        let replica = |address| Server::new(address, &self.options.replica, &self.sockets);
        let new = state.replicas.set(found.replicas, replica);
        if self.options.master.replica_reads {
            new.into_iter().for_each(|replica| self.probe(replica));
        }
        self.learn_sentinels(state, found.sentinels, from);
    }

    fn learn_sentinels(self: &Arc<Self>, state: &mut State, others: Vec<Address>, from: &Arc<Server>) {
        let sentinels = &mut state.sentinels;
        sentinels.retain(|peer| {
            let address = peer.server.address();
            peer.is_in_url || others.contains(address) || Arc::ptr_eq(&peer.server, from)
        });
        for address in others {
            if sentinels.iter().all(|peer| *peer.server.address() != address) {
                let server = Server::new(address, &self.options.sentinel, &self.sockets);
                sentinels.push(Peer { server, is_in_url: false, watch: None });
            }
        }
        sentinels.sort_by_key(|peer| !Arc::ptr_eq(&peer.server, from));
        for peer in sentinels.iter_mut().filter(|peer| peer.watch.is_none()) {
            // Without a runtime, the process exits.
            let Ok(runtime) = runtime::handle() else { return };
            let watching = runtime.spawn(watch::watch(Arc::downgrade(self), peer.server.clone()));
            peer.watch = Some(AbortOnDrop(watching.abort_handle()));
        }
    }

    /// Takes the answer of this one sentinel, which announced something.
    async fn ask_one(self: &Arc<Self>, sentinel: &Arc<Server>) {
        if let Ok(found) = ask(sentinel, &self.name).await {
            self.learn(&mut self.state(), found, sentinel, None);
        }
    }

    /// Checks in the background whether a replica answers and has a link to its master.
    fn probe(self: &Arc<Self>, replica: Arc<Server>) {
        let Ok(runtime) = runtime::handle() else { return };
        let (service, limit) = (Arc::downgrade(self), self.limit());
        runtime.spawn(async move {
            let is_up = timeout(limit, replicas::is_up(&replica)).await.unwrap_or(false);
            if let Some(service) = service.upgrade() {
                service.state().replicas.checked(&replica, is_up);
            }
        });
    }
}

impl State {
    /// The answer to a call that came at `since`, if it is new enough.
    fn answer_since(&self, since: Instant) -> Option<Result<Arc<Server>>> {
        if self.is_closed {
            return Some(Err(Error::closed()));
        }
        self.asked.filter(|asked| *asked >= since || asked.elapsed() < PAUSE)?;
        match (&self.failure, &self.master) {
            (Some(e), _) => Some(Err(e.clone())),
            (None, master) => master.clone().map(Ok),
        }
    }
}
