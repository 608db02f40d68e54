//! The nodes of a cluster, and the slots of each.

use std::sync::Arc;
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;

use super::errors::Elsewhere;
use super::options::WireOptions;
use super::server::Server;
use super::topology::{Node, Route};
use super::transport::Address;

pub(super) struct Cluster {
    seeds: Vec<Arc<Server>>,
}

impl Cluster {
    pub(super) fn new(seeds: &[Address], options: &Arc<WireOptions>, sockets: &Handle) -> Self {
        let server = |address: &Address| Server::new(address.clone(), options, sockets);
        Self { seeds: seeds.iter().map(server).collect() }
    }

    pub(super) async fn connect(&self, _limit: Duration) -> Result<()> {
        self.masters().await.map(drop)
    }

    pub(super) async fn route(&self, _name: Option<[&str; 3]>, _reads: bool) -> Result<Route> {
        Err(Error::new(ErrorKind::Unsupported, "clusters are not supported yet"))
    }

    pub(super) async fn next_route(
        &self,
        _name: Option<[&str; 3]>,
        _last: &Route,
        _elsewhere: &Elsewhere,
        _hops: u32,
    ) -> Option<Route> {
        None
    }

    pub(super) async fn masters(&self) -> Result<Vec<Arc<Server>>> {
        Err(Error::new(ErrorKind::Unsupported, "clusters are not supported yet"))
    }

    /// The masters with the number of their slots, and the replicas. The startup nodes if no node answers.
    pub(super) async fn nodes(&self) -> Vec<Node> {
        self.seeds.iter().map(|server| Node::of(server, None)).collect()
    }

    pub(super) fn close(&self) {
        self.seeds.iter().for_each(|server| server.close());
    }
}
