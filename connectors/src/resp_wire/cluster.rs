//! The nodes of a cluster, and the slots of each.

mod refresh;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use connector_core::layer::time_left;
use connector_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;

use self::refresh::Refreshes;
use super::errors::Elsewhere;
use super::options::WireOptions;
use super::server::{Server, timeout};
use super::slots::{SLOTS, slot_of};
use super::topology::{Node, Route};
use super::transport::Address;

/// A cluster. The slots are fetched by a task on the process's own runtime, one at a time.
pub(super) struct Cluster(Arc<Shared>);

struct Shared {
    options: Arc<WireOptions>,
    sockets: Handle,
    seeds: Vec<Arc<Server>>,
    map: RwLock<Map>,
    refreshes: Refreshes,
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

const NO_SHARD: u16 = u16::MAX;
/// The most redirections of one request.
const REDIRECTIONS: u32 = 16;
/// The redirections of one request without a pause.
const REDIRECTIONS_AT_ONCE: u32 = 4;
/// The ways of a request after which an attempt to connect in vain ends it: each attempt may take its whole limit.
const WAYS_BEFORE_LOST: u32 = 3;
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
            refreshes: Refreshes::new(),
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
        let is_sent_on = matches!(elsewhere, Elsewhere::Moved { .. } | Elsewhere::Ask { .. });
        if let Some(more) = hops.checked_sub(REDIRECTIONS_AT_ONCE).filter(|_| is_sent_on) {
            // Nodes that disagree send a request back and forth.
            pause(more, shared.options.connect_timeout).await?;
        }
        let now = || shared.find(name, false).filter(|server| !Arc::ptr_eq(server, &last.server));
        match elsewhere {
            Elsewhere::Moved { slot, to } => {
                let server = shared.master_at(to, Some(*slot));
                // The owner of the slot knows the change.
                shared.want_refresh(Some(server.clone())).ok()?;
                Some(Route::to(&server))
            }
            Elsewhere::Ask { to } => Some(Route { server: shared.master_at(to, None), asking: true }),
            Elsewhere::Later => {
                pause(hops, shared.options.connect_timeout).await?;
                shared.want_refresh(None).ok()?;
                // The node that asked to come later has the request's part of the slot.
                if last.asking { Some(last.clone()) } else { shared.find(name, false).map(|to| Route::to(&to)) }
            }
            Elsewhere::Lost if hops >= WAYS_BEFORE_LOST => None,
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
        let found = self.masters();
        let are_found = match time_left() {
            None => found.await.is_ok(),
            // Half of the time is for the nodes themselves.
            Some(left) => tokio::time::timeout(left / 2, found).await.is_ok_and(|found| found.is_ok()),
        };
        if !are_found {
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
        self.0.refreshes.close();
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
    fn map(&self) -> RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
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

    fn new_server(&self, announced: Address) -> Arc<Server> {
        let server = Server::new(announced, &self.options, &self.sockets);
        if self.is_closed.load(Ordering::Acquire) {
            server.close();
        }
        server
    }

    /// The master with this announced address. With a slot, remembers that the slot is there now.
    fn master_at(&self, announced: &Address, slot: Option<u16>) -> Arc<Server> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let at = map.shards.iter().position(|shard| shard.master.address() == announced).unwrap_or_else(|| {
            // A node without slots is not in the answer to `CLUSTER SLOTS`.
            let known = map.shards.iter().flat_map(Shard::nodes).chain(&self.seeds).find(|s| s.address() == announced);
            let master = known.cloned().unwrap_or_else(|| self.new_server(announced.clone()));
            map.shards.push(Shard { master, replicas: Vec::new() });
            map.shards.len() - 1
        });
        let master = map.shards[at].master.clone();
        let slot = slot.and_then(|slot| map.slots.get_mut(usize::from(slot)));
        if let (Some(slot), Ok(at)) = (slot, u16::try_from(at)) {
            *slot = at;
        }
        master
    }
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
