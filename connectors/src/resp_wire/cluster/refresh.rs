//! Fetches the slots of a cluster. Any number of calls may want that at once; one task on the process's own runtime does
//! it, with a pause after each time.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result, runtime};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Map, NO_SHARD, Shard, Shared};
use crate::resp_wire::exchange::exchange_at;
use crate::resp_wire::server::{Server, timeout};
use crate::resp_wire::slots::{ClusterSlots, Range, SLOTS};
use crate::resp_wire::task::unless_it_panics;
use crate::resp_wire::topology::Route;
use crate::resp_wire::transport::Address;

/// The refreshes of a cluster's slots.
pub(super) struct Refreshes {
    wishes: Mutex<Wishes>,
    /// The last refresh that ended.
    ended: watch::Sender<Ended>,
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

/// The shortest time between two refreshes.
const REFRESH_PAUSE: Duration = Duration::from_millis(200);
/// A refresh asks a further node if the last one did not answer within this time.
const NEXT_NODE_AFTER: Duration = Duration::from_millis(250);

impl Refreshes {
    pub(super) fn new() -> Self {
        let (wishes, none) = (Mutex::default(), Ended { number: 0, at: None, result: Ok(()) });
        Self { wishes, ended: watch::Sender::new(none) }
    }

    /// Ends the waits of calls for a refresh.
    pub(super) fn close(&self) {
        self.ended.send_replace(Ended { number: u64::MAX, at: None, result: Err(Error::closed()) });
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Waits for a refresh that starts from now on, unless one ended a short time ago.
    ///
    /// # Errors
    /// The refresh's. `Timeout` after `limit`.
    pub(super) async fn refreshed(self: &Arc<Self>, limit: Duration) -> Result<()> {
        let number = self.want_refresh(None)?;
        let mut ended = self.refreshes.ended.subscribe();
        let last = ended.borrow().clone();
        if last.at.is_some_and(|at| at.elapsed() < REFRESH_PAUSE) {
            return last.result;
        }
        let waiting = timeout(limit, ended.wait_for(|ended| ended.number >= number))?;
        match waiting.await {
            Ok(Ok(ended)) => ended.result.clone(),
            // The sender lives as long as this store.
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
    pub(super) fn want_refresh(self: &Arc<Self>, ask_first: Option<Arc<Server>>) -> Result<u64> {
        let runtime = runtime::handle()?;
        let mut wishes = self.refreshes.wishes();
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
            let (number, ask_first) = {
                let mut wishes = self.refreshes.wishes();
                if wishes.started == wishes.wanted || self.is_closed.load(Ordering::Acquire) {
                    wishes.is_running = false;
                    return;
                }
                wishes.started += 1;
                (wishes.started, wishes.ask_first.take())
            };
            let refresh = async { self.fetch(ask_first).await.map(|ranges| self.learn(ranges)) };
            let result = unless_it_panics("the refresh of a cluster's slots", refresh).await;
            self.options.meters.refreshed(result.is_ok());
            if let Err(e) = &result {
                tracing::debug!("the slots of the cluster cannot be refreshed: {e}");
            }
            self.refreshes.ended.send_if_modified(|ended| {
                // The result of a closed cluster must stay.
                let is_next = ended.number < number;
                if is_next {
                    *ended = Ended { number, at: Some(Instant::now()), result };
                }
                is_next
            });
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
                Some(node) => asked.push(async move { slots_of(&node).await }),
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
        let mut seen = HashSet::new();
        let all = ask_first.iter().chain(masters).chain(&self.seeds).chain(replicas);
        let mut nodes: Vec<_> = all.filter(|node| seen.insert(Arc::as_ptr(node))).cloned().collect();
        nodes.sort_by_key(|node| node.is_away());
        nodes
    }

    /// Keeps the nodes that stay, with their connections.
    fn learn(&self, ranges: Vec<Range>) {
        let old = self.map().shards.clone();
        // Maps, because an answer may name thousands of nodes.
        let known = self.seeds.iter().chain(old.iter().flat_map(Shard::nodes));
        let mut nodes: HashMap<_, _> = known.map(|server| (server.address().clone(), server.clone())).collect();
        let mut node =
            |address| nodes.entry(address).or_insert_with_key(|address| self.new_server(address.clone())).clone();
        let (mut shards, mut slots) = (Vec::new(), vec![NO_SHARD; usize::from(SLOTS)]);
        let mut places = HashMap::new();
        for range in ranges {
            let at = *places.entry(range.master).or_insert_with_key(|master| {
                let (master, replicas) = (node(master.clone()), range.replicas.into_iter().map(&mut node).collect());
                shards.push(Shard { master, replicas });
                shards.len() - 1
            });
            slots[usize::from(*range.slots.start())..=usize::from(*range.slots.end())].fill(at as u16);
        }
        for shard in &shards {
            let replicas = shard.replicas.iter().filter(|_| self.options.replica_reads);
            replicas.chain([&shard.master]).for_each(|node| node.open_ahead());
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
    let at_node = |e: Error| {
        let address = node.address().to_string();
        if e.message().contains(&address) { e } else { e.at(address) }
    };
    let ranges = exchange_at(&Route::to(node), &mut ClusterSlots { host }).await.0.map_err(at_node)?;
    if ranges.is_empty() {
        return Err(Error::new(ErrorKind::Unavailable, format!("the cluster of {} has no slots", node.address()))
            .temporary(true)
            .with_hint("make the cluster by `redis-cli --cluster create`, or name a node that belongs to it"));
    }
    Ok(ranges)
}

/// The error of nodes that all failed. A permanent error says more than a temporary one.
fn none_answers(failures: Vec<Error>, nodes: usize) -> Error {
    let permanent = failures.iter().position(|e| !e.is_temporary());
    let e = failures.into_iter().nth(permanent.unwrap_or(0)).unwrap_or_else(Error::closed);
    if nodes > 1 { e.at(format_args!("none of {nodes} nodes gives the slots of the cluster")) } else { e }
}
