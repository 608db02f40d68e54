//! The nodes of a cluster, and the slots of each.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result, runtime};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::errors::Elsewhere;
use super::exchange::exchange_at;
use super::options::WireOptions;
use super::server::{Server, timeout};
use super::slots::{ClusterSlots, Range, SLOTS, slot_of};
use super::topology::{Node, Route};
use super::transport::Address;

/// A cluster. The slots are fetched by a task on the process's own runtime, one at a time.
pub(super) struct Cluster(Arc<Shared>);

struct Shared {
    options: Arc<WireOptions>,
    sockets: Handle,
    seeds: Vec<Arc<Server>>,
    map: RwLock<Map>,
    wishes: Mutex<Wishes>,
    /// The last refresh that ended.
    ended: watch::Sender<Ended>,
    is_closed: AtomicBool,
    /// Spreads reads over the replicas.
    turn: AtomicUsize,
}

/// The shard of each slot.
struct Map {
    shards: Vec<Shard>,
    /// The index of each slot's shard, or [`NO_SHARD`].
    slots: Vec<u16>,
}

/// A master and its replicas. A node that left its cluster closes its connections with the last call that uses it.
#[derive(Clone)]
struct Shard {
    master: Arc<Server>,
    replicas: Vec<Arc<Server>>,
}

/// The refreshes that calls want.
#[derive(Default)]
struct Wishes {
    /// The number of the last refresh that a call wants.
    wanted: u64,
    /// The number of the last refresh that started.
    started: u64,
    /// Whether the task runs.
    is_running: bool,
    /// The node to ask first.
    ask_first: Option<Arc<Server>>,
}

/// A refresh that ended.
#[derive(Clone)]
struct Ended {
    number: u64,
    at: Option<Instant>,
    result: Result<()>,
}

const NO_SHARD: u16 = u16::MAX;
/// The shortest time between two refreshes.
const REFRESH_PAUSE: Duration = Duration::from_millis(200);
/// A refresh asks a further node if the last one did not answer within this time.
const NEXT_NODE_AFTER: Duration = Duration::from_millis(250);
/// The most redirections of one request.
const REDIRECTIONS: u32 = 16;
/// The pause before a request is sent again to a cluster that is changing. Each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

impl Cluster {
    pub(super) fn new(seeds: &[Address], options: &Arc<WireOptions>, sockets: &Handle) -> Self {
        let seeds = seeds.iter().map(|seed| Server::new(seed.clone(), options, sockets)).collect();
        Self(Arc::new(Shared {
            options: options.clone(),
            sockets: sockets.clone(),
            seeds,
            map: RwLock::new(Map { shards: Vec::new(), slots: vec![NO_SHARD; usize::from(SLOTS)] }),
            wishes: Mutex::default(),
            ended: watch::Sender::new(Ended { number: 0, at: None, result: Ok(()) }),
            is_closed: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
        }))
    }

    /// Fetches the slots.
    pub(super) async fn connect(&self, limit: Duration) -> Result<()> {
        self.0.refreshed(limit).await
    }

    pub(super) async fn route(&self, name: Option<[&str; 3]>, reads: bool) -> Result<Route> {
        if let Some(server) = self.0.find(name, reads) {
            return Ok(Route::to(&server));
        }
        self.0.refreshed(self.0.options.connect_timeout).await?;
        self.0.find(name, reads).map(|server| Route::to(&server)).ok_or_else(|| {
            let why = match name {
                Some(name) => format!("no node of the cluster has slot {}", slot_of(name)),
                None => "the cluster has no node with slots".to_owned(),
            };
            Error::new(ErrorKind::Unavailable, why)
                .temporary(true)
                .with_hint("`CLUSTER INFO` on a node says whether all slots have one")
        })
    }

    pub(super) async fn next_route(
        &self,
        name: Option<[&str; 3]>,
        last: &Route,
        elsewhere: &Elsewhere,
        hops: u32,
    ) -> Option<Route> {
        let shared = &self.0;
        if hops >= REDIRECTIONS || shared.is_closed.load(Ordering::Acquire) {
            return None;
        }
        let now = || shared.find(name, false).filter(|server| !Arc::ptr_eq(server, &last.server));
        match elsewhere {
            Elsewhere::Moved { slot, to } => {
                let server = shared.moved(*slot, to);
                // The owner of the slot knows the change.
                shared.want_refresh(Some(server.clone())).ok()?;
                Some(Route::to(&server))
            }
            Elsewhere::Ask { to } => Some(Route { server: shared.server(to), asking: true }),
            Elsewhere::Later => {
                pause(hops, shared.options.connect_timeout).await?;
                shared.want_refresh(None).ok()?;
                // The node that asked to come later has the request's part of the slot.
                if last.asking { Some(last.clone()) } else { shared.find(name, false).map(|to| Route::to(&to)) }
            }
            Elsewhere::Changing | Elsewhere::Lost => {
                if let Some(server) = now() {
                    return Some(Route::to(&server));
                }
                // The refresh that fails has no better node.
                shared.refreshed(shared.options.connect_timeout).await.ok()?;
                now().map(|server| Route::to(&server))
            }
        }
    }

    /// The nodes that have slots.
    pub(super) async fn masters(&self) -> Result<Vec<Arc<Server>>> {
        let masters = || self.0.map().shards_in_use().map(|(shard, _)| shard.master.clone()).collect::<Vec<_>>();
        let known = masters();
        if !known.is_empty() {
            return Ok(known);
        }
        self.0.refreshed(self.0.options.connect_timeout).await?;
        Ok(masters())
    }

    /// The masters with the number of their slots, and the replicas. The startup nodes if no node answers.
    pub(super) async fn nodes(&self) -> Vec<Node> {
        if self.masters().await.is_err() {
            return self.0.seeds.iter().map(|server| Node::of(server, None)).collect();
        }
        let map = self.0.map();
        let nodes = map.shards_in_use().flat_map(|(shard, slots)| {
            let master = Node { slots: Some(slots), ..Node::of(&shard.master, Some("master")) };
            std::iter::once(master).chain(shard.replicas.iter().map(|server| Node::of(server, Some("replica"))))
        });
        nodes.collect()
    }

    /// The slots may have changed.
    pub(super) fn doubt(&self) {
        // Without a runtime, the process exits.
        let _ = self.0.want_refresh(None);
    }

    /// Whether a node answers, as far as kvconn knows.
    pub(super) fn is_partly_reachable(&self) -> bool {
        self.0.map().shards.iter().any(|shard| !shard.master.is_away())
    }

    pub(super) fn close(&self) {
        self.0.is_closed.store(true, Ordering::Release);
        self.0.seeds.iter().for_each(|server| server.close());
        let map = self.0.map();
        map.shards.iter().flat_map(Shard::nodes).for_each(|server| server.close());
    }
}

impl Shard {
    fn nodes(&self) -> impl Iterator<Item = &Arc<Server>> {
        std::iter::once(&self.master).chain(&self.replicas)
    }
}

impl Map {
    /// The shards that have slots, each with the number of its slots.
    fn shards_in_use(&self) -> impl Iterator<Item = (&Shard, usize)> {
        let mut slots = vec![0; self.shards.len()];
        for at in &self.slots {
            if let Some(count) = slots.get_mut(usize::from(*at)) {
                *count += 1;
            }
        }
        self.shards.iter().zip(slots).filter(|(_, slots)| *slots > 0)
    }

    /// The shard of the name; without one, a shard whose master answers.
    fn shard(&self, name: Option<[&str; 3]>) -> Option<&Shard> {
        match name {
            Some(name) => self.shards.get(usize::from(self.slots[usize::from(slot_of(name))])),
            None => self.shards.iter().find(|shard| !shard.master.is_away()).or(self.shards.first()),
        }
    }
}

impl Shared {
    fn map(&self) -> std::sync::RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node for the name: for `reads` a replica that answers, if the options allow it, or else the master.
    fn find(&self, name: Option<[&str; 3]>, reads: bool) -> Option<Arc<Server>> {
        let map = self.map();
        let shard = map.shard(name)?;
        let replica = (reads && self.options.replica_reads).then(|| {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % shard.replicas.len().max(1);
            let (before, from) = shard.replicas.split_at(turn.min(shard.replicas.len()));
            from.iter().chain(before).find(|replica| !replica.is_away())
        });
        Some(replica.flatten().unwrap_or(&shard.master).clone())
    }

    /// The node with this announced address, known or new.
    fn server(&self, announced: &Address) -> Arc<Server> {
        self.server_in(&self.map().shards, announced)
    }

    fn server_in(&self, shards: &[Shard], announced: &Address) -> Arc<Server> {
        let mut known = shards.iter().flat_map(Shard::nodes).chain(&self.seeds);
        match known.find(|server| server.address() == announced) {
            Some(server) => server.clone(),
            None => {
                let server = Server::new(announced.clone(), &self.options, &self.sockets);
                if self.is_closed.load(Ordering::Acquire) {
                    server.close();
                }
                server
            }
        }
    }

    /// Remembers that the slot is at this node now.
    fn moved(&self, slot: u16, to: &Address) -> Arc<Server> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let at = map.shards.iter().position(|shard| shard.master.address() == to).unwrap_or_else(|| {
            let master = self.server_in(&map.shards, to);
            map.shards.push(Shard { master, replicas: Vec::new() });
            map.shards.len() - 1
        });
        let master = map.shards[at].master.clone();
        if let (Some(slot), Ok(at)) = (map.slots.get_mut(usize::from(slot)), u16::try_from(at)) {
            *slot = at;
        }
        master
    }

    /// Waits for a refresh that starts from now on, unless one ended a short time ago.
    ///
    /// # Errors
    /// The refresh's. `Timeout` after `limit`.
    async fn refreshed(self: &Arc<Self>, limit: Duration) -> Result<()> {
        let number = self.want_refresh(None)?;
        let mut ended = self.ended.subscribe();
        let last = ended.borrow().clone();
        if last.at.is_some_and(|at| at.elapsed() < REFRESH_PAUSE) {
            return last.result;
        }
        let waiting = timeout(limit, ended.wait_for(|ended| ended.number >= number))?;
        match waiting.await {
            Ok(Ok(ended)) => ended.result.clone(),
            // The task panicked.
            Ok(Err(_)) => Err(Error::closed()),
            Err(_) => {
                let why = format!("no node of the cluster gave its slots within {} ms", limit.as_millis());
                Err(Error::new(ErrorKind::Timeout, why)
                    .temporary(true)
                    .with_hint("check hosts, ports and the firewall; `connect_timeout_ms` says how long to wait"))
            }
        }
    }

    /// Wants the slots fetched anew, in the background. Gives the number of that refresh.
    fn want_refresh(self: &Arc<Self>, ask_first: Option<Arc<Server>>) -> Result<u64> {
        let runtime = runtime::handle()?;
        let mut wishes = self.wishes();
        wishes.wanted = wishes.started + 1;
        if ask_first.is_some() {
            wishes.ask_first = ask_first;
        }
        if !std::mem::replace(&mut wishes.is_running, true) {
            runtime.spawn(self.clone().refresh());
        }
        Ok(wishes.wanted)
    }

    /// Refreshes the slots until no call wants another refresh.
    async fn refresh(self: Arc<Self>) {
        loop {
            let ask_first = {
                let mut wishes = self.wishes();
                if wishes.started == wishes.wanted || self.is_closed.load(Ordering::Acquire) {
                    wishes.is_running = false;
                    return;
                }
                wishes.started += 1;
                wishes.ask_first.take()
            };
            let result = self.fetch(ask_first).await.map(|ranges| self.learn(ranges));
            self.options.meters.refreshed(result.is_ok());
            if let Err(e) = &result {
                tracing::debug!("the slots of the cluster cannot be refreshed: {e}");
            }
            self.ended
                .send_modify(|ended| *ended = Ended { number: ended.number + 1, at: Some(Instant::now()), result });
            tokio::time::sleep(REFRESH_PAUSE).await;
        }
    }

    /// The slots, as the first node that answers knows them.
    async fn fetch(&self, ask_first: Option<Arc<Server>>) -> Result<Vec<Range>> {
        let mut nodes = self.nodes_to_ask(ask_first).into_iter();
        let count = nodes.len();
        let mut asked = FuturesUnordered::new();
        let mut failures = Vec::new();
        loop {
            match nodes.next() {
                Some(node) => asked.push(async move { slots_of(&node).await.map_err(|e| e.at(node.address())) }),
                None if asked.is_empty() => return Err(none_answers(failures, count)),
                None => {}
            }
            match tokio::time::timeout(NEXT_NODE_AFTER, asked.next()).await {
                Ok(Some(Ok(ranges))) => return Ok(ranges),
                Ok(Some(Err(e))) => failures.push(e),
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// The nodes that may know the slots, the best ones first.
    fn nodes_to_ask(&self, ask_first: Option<Arc<Server>>) -> Vec<Arc<Server>> {
        let map = self.map();
        let masters = map.shards.iter().map(|shard| &shard.master);
        // Another one each time, because a node may have lost the others.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % map.shards.len().max(1);
        let masters = masters.clone().skip(turn).chain(masters.take(turn));
        let replicas = map.shards.iter().flat_map(|shard| &shard.replicas);
        let mut nodes: Vec<Arc<Server>> = Vec::new();
        for node in ask_first.iter().chain(masters).chain(&self.seeds).chain(replicas) {
            if !nodes.iter().any(|known| Arc::ptr_eq(known, node)) {
                nodes.push(node.clone());
            }
        }
        nodes.sort_by_key(|node| node.is_away());
        nodes
    }

    /// Keeps the nodes that stay, with their connections.
    fn learn(&self, ranges: Vec<Range>) {
        let old = self.map().shards.clone();
        let (mut shards, mut slots) = (Vec::<Shard>::new(), vec![NO_SHARD; usize::from(SLOTS)]);
        for range in ranges {
            let at = shards.iter().position(|shard| *shard.master.address() == range.master).unwrap_or_else(|| {
                let node = |address| self.server_in(&old, address);
                let (master, replicas) = (node(&range.master), range.replicas.iter().map(node).collect());
                shards.push(Shard { master, replicas });
                shards.len() - 1
            });
            slots[usize::from(*range.slots.start())..=usize::from(*range.slots.end())].fill(at as u16);
        }
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Map { shards, slots };
    }
}

/// The slots that the node knows.
async fn slots_of(node: &Arc<Server>) -> Result<Vec<Range>> {
    let host = match node.address() {
        Address::Tcp { host, .. } => host,
        Address::Unix(_) => "localhost",
    };
    let ranges = exchange_at(&Route::to(node), &mut ClusterSlots { host }).await.0?;
    if ranges.is_empty() {
        return Err(Error::new(ErrorKind::Unavailable, "this node's cluster has no slots")
            .temporary(true)
            .with_hint("make the cluster by `redis-cli --cluster create`, or name a node that belongs to it"));
    }
    Ok(ranges)
}

/// The error of nodes that all failed. An error that stays says more than one that may pass.
fn none_answers(failures: Vec<Error>, nodes: usize) -> Error {
    let permanent = failures.iter().position(|e| !e.is_temporary());
    let e = failures.into_iter().nth(permanent.unwrap_or(0)).unwrap_or_else(Error::closed);
    if nodes > 1 { e.at(format_args!("none of {nodes} nodes gives the slots of the cluster")) } else { e }
}

/// Waits before the next try of a request that a changing cluster refused. `None` once `hops` pauses took `limit`.
async fn pause(hops: u32, limit: Duration) -> Option<()> {
    let pause_of = |hop: u32| (FIRST_PAUSE * 2_u32.pow(hop.min(10))).min(LONGEST_PAUSE);
    if (0..=hops).map(pause_of).sum::<Duration>() > limit {
        return None;
    }
    let _ = timeout(pause_of(hops), std::future::pending::<()>()).ok()?.await;
    Some(())
}
