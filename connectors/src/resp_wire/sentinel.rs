//! The master that sentinels name, and its replicas.

use std::sync::Arc;
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;

use super::errors::Elsewhere;
use super::options::{Protocol, Role, Sentinels, Servers, WireOptions};
use super::server::Server;
use super::topology::{Node, Route};
use super::transport::Address;

pub(super) struct Sentinel {
    sentinels: Vec<Arc<Server>>,
}

impl Sentinel {
    pub(super) fn new(sentinels: &Sentinels, options: &Arc<WireOptions>, sockets: &Handle) -> Self {
        let options = Arc::new(sentinel_options(sentinels, options));
        let server = |address: &_| Server::new(Address::clone(address), &options, sockets);
        Self { sentinels: sentinels.addresses.iter().map(server).collect() }
    }

    pub(super) async fn connect(&self, _limit: Duration) -> Result<()> {
        self.route(false).await.map(drop)
    }

    pub(super) async fn route(&self, _reads: bool) -> Result<Route> {
        let why = format!("sentinels are not supported yet, such as {:?}", self.sentinels.first().map(|s| s.address()));
        Err(Error::new(ErrorKind::Unsupported, why))
    }

    pub(super) async fn next_route(&self, _last: &Route, _elsewhere: &Elsewhere, _hops: u32) -> Option<Route> {
        None
    }

    /// The master, its replicas and the sentinels.
    pub(super) async fn nodes(&self) -> Vec<Node> {
        self.sentinels.iter().map(|server| Node::of(server, Some("sentinel"))).collect()
    }

    pub(super) fn close(&self) {
        self.sentinels.iter().for_each(|server| server.close());
    }
}

/// The options of connections to sentinels.
fn sentinel_options(sentinels: &Sentinels, options: &WireOptions) -> WireOptions {
    WireOptions {
        servers: Servers::Sentinel(sentinels.clone()),
        login: sentinels.login.clone(),
        role: Role::Sentinel,
        database: 0,
        protocol: Protocol::Resp2,
        transactions: false,
        ..options.clone()
    }
}
