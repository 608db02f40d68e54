//! The master that sentinels name, and its replicas.

use std::sync::Arc;
use std::time::Duration;

use connector_core::{Error, ErrorKind, Result};
use tokio::runtime::Handle;

use super::errors::Elsewhere;
use super::options::WireOptions;
use super::server::Server;
use super::topology::Route;
use super::transport::Address;

pub(super) struct Sentinel {
    sentinels: Vec<Arc<Server>>,
}

impl Sentinel {
    pub(super) fn new(sentinels: &[Address], options: &Arc<WireOptions>, sockets: &Handle) -> Self {
        let server = |address: &Address| Server::new(address.clone(), options, sockets);
        Self { sentinels: sentinels.iter().map(server).collect() }
    }

    pub(super) async fn connect(&self, _limit: Duration) -> Result<()> {
        self.route(false).await.map(drop)
    }

    pub(super) async fn route(&self, _reads: bool) -> Result<Route> {
        Err(Error::new(ErrorKind::Unsupported, "sentinels are not supported yet"))
    }

    pub(super) async fn next_route(&self, _last: &Route, _elsewhere: &Elsewhere, _hops: u32) -> Option<Route> {
        None
    }

    pub(super) fn close(&self) {
        self.sentinels.iter().for_each(|server| server.close());
    }
}
