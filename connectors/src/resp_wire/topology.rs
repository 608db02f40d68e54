//! The servers of a store, and the server of each name.

use std::sync::Arc;
use std::time::Duration;

use connector_core::{ConnectorContext, Error, ErrorKind, Result};

use super::cluster::Cluster;
use super::connect::runtime_for_sockets;
use super::errors::{Elsewhere, USE_CLUSTER, unavailable};
use super::options::{Servers, WireOptions};
use super::sentinel::Sentinel;
use super::server::Server;

/// The map from names to servers. Stores and exchanges know only names.
pub(super) enum Topology {
    /// One server has every name.
    Single(Arc<Server>),
    /// The master that sentinels name, and its replicas.
    Sentinel(Sentinel),
    /// The nodes of a cluster.
    Cluster(Cluster),
}

/// The way of a request.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) server: Arc<Server>,
    /// Whether `ASKING` goes before the request, because the server does not own the slot yet.
    pub(super) asking: bool,
}

impl Route {
    pub(super) fn to(server: &Arc<Server>) -> Self {
        Self { server: server.clone(), asking: false }
    }
}

/// A server as the topology knows it.
pub(super) struct Node {
    pub(super) server: Arc<Server>,
    /// Its part in the topology: `master`, `replica` or `sentinel`. `None` if only the server itself can say.
    pub(super) role: Option<&'static str>,
    /// The number of its slots, if it is the master of a part of a cluster.
    pub(super) slots: Option<usize>,
}

impl Node {
    pub(super) fn of(server: &Arc<Server>, role: Option<&'static str>) -> Self {
        Self { server: server.clone(), role, slots: None }
    }
}

impl Topology {
    /// The servers that the options name. Connects to none.
    ///
    /// # Errors
    /// If the process's own runtime does not start.
    pub(super) fn new(options: &Arc<WireOptions>, ctx: &ConnectorContext) -> Result<Self> {
        let sockets = runtime_for_sockets(ctx.handle())?;
        Ok(match &options.servers {
            Servers::One(address) => Self::Single(Server::new(address.clone(), options, &sockets)),
            Servers::Sentinel(sentinels) => Self::Sentinel(Sentinel::new(sentinels, options, &sockets)),
            Servers::Cluster(seeds) => Self::Cluster(Cluster::new(seeds, options, &sockets)),
        })
    }

    /// Connects once, to check that the servers answer.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Denied`. For a server of another protocol, `Unavailable` and permanent.
    pub(super) async fn connect(&self, limit: Duration) -> Result<()> {
        match self {
            Self::Single(server) => server.lease_within(true, limit).await.map(|lease| lease.give_back()),
            Self::Sentinel(sentinel) => sentinel.connect(limit).await,
            Self::Cluster(cluster) => cluster.connect(limit).await,
        }
    }

    /// The way to the server that has the name; to any server without one. `reads` if a replica may answer.
    ///
    /// # Errors
    /// If no server is known.
    pub(super) async fn route(&self, name: Option<[&str; 3]>, reads: bool) -> Result<Route> {
        match self {
            Self::Single(server) => Ok(Route::to(server)),
            Self::Sentinel(sentinel) => sentinel.route(reads).await,
            Self::Cluster(cluster) => cluster.route(name, reads).await,
        }
    }

    /// The next way of a request that got `elsewhere` on the way `last`, after `hops` other ways. `None` if the answer
    /// stands.
    pub(super) async fn next_route(
        &self,
        name: Option<[&str; 3]>,
        last: &Route,
        elsewhere: &Elsewhere,
        hops: u32,
    ) -> Option<Route> {
        let next = match self {
            Self::Single(_) => None,
            Self::Sentinel(sentinel) => sentinel.next_route(last, elsewhere, hops).await,
            Self::Cluster(cluster) => cluster.next_route(name, last, elsewhere, hops).await,
        };
        if next.is_some() {
            last.server.meters.redirected(elsewhere);
        }
        next
    }

    /// The servers that have the names, each name on one of them.
    ///
    /// # Errors
    /// If no server is known.
    pub(super) async fn servers(&self) -> Result<Vec<Arc<Server>>> {
        match self {
            Self::Single(server) => Ok(vec![server.clone()]),
            Self::Sentinel(sentinel) => Ok(vec![sentinel.route(false).await?.server]),
            Self::Cluster(cluster) => cluster.masters().await,
        }
    }

    /// A server that [`servers`](Self::servers) gave may not be the right one any more.
    pub(super) fn doubt(&self) {
        if let Self::Cluster(cluster) = self {
            cluster.doubt();
        }
    }

    /// The error of a call. If other servers answer, marks it as the error of a part of the store.
    #[cold]
    pub(super) fn judge(&self, e: Error) -> Error {
        let e = match self {
            // The nodes disagree, or the node with the slot is away.
            Self::Cluster(_) if e.hint() == Some(USE_CLUSTER) => unavailable(e).with_hint(
                "no node of the cluster took the request; `CLUSTER NODES` on each node says whether the nodes agree",
            ),
            _ => e,
        };
        let is_lost = matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
        match self {
            Self::Cluster(cluster) if is_lost && cluster.is_partly_reachable() => e.partial(),
            _ => e,
        }
    }

    /// All servers that are known, with replicas and sentinels. The servers that the options name if there are no others.
    pub(super) async fn nodes(&self) -> Vec<Node> {
        match self {
            Self::Single(server) => vec![Node::of(server, None)],
            Self::Sentinel(sentinel) => sentinel.nodes().await,
            Self::Cluster(cluster) => cluster.nodes().await,
        }
    }

    /// Closes all servers. Later calls fail with `Closed`.
    pub(super) fn close(&self) {
        match self {
            Self::Single(server) => server.close(),
            Self::Sentinel(sentinel) => sentinel.close(),
            Self::Cluster(cluster) => cluster.close(),
        }
    }
}
