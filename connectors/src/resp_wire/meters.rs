//! The counters of each server. [`connector_core::observe`] has those of each call.
//!
//! Each has the labels `connector` and `instance` of the store. A counter of a server also has `node`, its `host:port`.
//!
//! | name | more labels | counts |
//! |---|---|---|
//! | `kvconn_node_requests_total` | `node` | commands that calls sent |
//! | `kvconn_node_errors_total` | `node`, `kind` | answers that are errors, connections that broke or did not open, and calls that were refused while the server was away |
//! | `kvconn_node_connections_opened_total` | `node` | connections that calls opened |
//! | `kvconn_redirects_total` | `node`, `kind`: `moved`, `ask`, `later`, `changing`, `lost` | requests that went from this server to another one, or that were sent again |
//! | `kvconn_topology_refreshes_total` | `result`: `ok`, `error` | how often the sentinels or the nodes of a cluster were asked for the servers |
//!
//! `kind` of an error is that of [`ErrorKind::as_str`]. A request that a server redirects is not an error. `later` is the
//! answer `TRYAGAIN` or `CLUSTERDOWN`, `changing` that of a server which is not a master (`READONLY`) or not ready.

use std::sync::{Arc, OnceLock};

use connector_core::metrics::{Counter, Label, SharedString, counter};
use connector_core::{ConnectorContext, ErrorKind};

use super::errors::Elsewhere;
use super::transport::Address;

/// The labels of a store's counters.
#[derive(Clone)]
pub(crate) struct StoreMeters {
    connector: SharedString,
    instance: SharedString,
}

/// The counters of one server.
pub(super) struct NodeMeters {
    store: StoreMeters,
    node: SharedString,
    /// Made at first use, because a program may install its recorder after it opened the store.
    requests: OnceLock<Counter>,
}

/// Until the wire opens.
impl Default for StoreMeters {
    fn default() -> Self {
        Self { connector: SharedString::const_str(""), instance: SharedString::const_str("") }
    }
}

impl StoreMeters {
    pub(super) fn of(ctx: &ConnectorContext) -> Self {
        Self { connector: ctx.connector_name().into(), instance: ctx.instance().into() }
    }

    /// The counters of a server.
    pub(super) fn node(&self, address: &Address) -> Arc<NodeMeters> {
        Arc::new(NodeMeters { store: self.clone(), node: address.to_string().into(), requests: OnceLock::new() })
    }

    /// The topology asked for its servers.
    pub(super) fn refreshed(&self, is_ok: bool) {
        let result = Label::from_static_parts("result", if is_ok { "ok" } else { "error" });
        counter!("kvconn_topology_refreshes_total", self.labels([result])).increment(1);
    }

    fn labels<const N: usize>(&self, more: [Label; N]) -> Vec<Label> {
        let Self { connector, instance } = self;
        let own = [Label::new("connector", connector.clone()), Label::new("instance", instance.clone())];
        own.into_iter().chain(more).collect()
    }
}

impl NodeMeters {
    pub(super) fn requested(&self, commands: usize) {
        let requests = || counter!("kvconn_node_requests_total", self.store.labels([self.node()]));
        self.requests.get_or_init(requests).increment(commands as u64);
    }

    #[cold]
    pub(super) fn failed(&self, kind: ErrorKind) {
        let kind = Label::from_static_parts("kind", kind.as_str());
        counter!("kvconn_node_errors_total", self.store.labels([self.node(), kind])).increment(1);
    }

    #[cold]
    pub(super) fn connected(&self) {
        counter!("kvconn_node_connections_opened_total", self.store.labels([self.node()])).increment(1);
    }

    #[cold]
    pub(super) fn redirected(&self, elsewhere: &Elsewhere) {
        let kind = match elsewhere {
            Elsewhere::Moved { .. } => "moved",
            Elsewhere::Ask { .. } => "ask",
            Elsewhere::Later => "later",
            Elsewhere::Changing => "changing",
            Elsewhere::Lost => "lost",
        };
        let kind = Label::from_static_parts("kind", kind);
        counter!("kvconn_redirects_total", self.store.labels([self.node(), kind])).increment(1);
    }

    fn node(&self) -> Label {
        Label::new("node", self.node.clone())
    }
}
