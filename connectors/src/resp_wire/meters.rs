//! The counters of each server. [`connector_core::observe`] has those of each call.
//!
//! Each has the labels `connector` and `instance` of the store. A counter of a server also has `node`, its `host:port`. A request
//! that a server redirects is not an error. `kind` of a redirection is `later` after the answer `TRYAGAIN` or `CLUSTERDOWN`. It is
//! `changing` if the server is not a master (`READONLY`) or not ready.

use std::sync::{Arc, OnceLock};

use connector_core::metrics::{Counter, Label, SharedString, counter};
use connector_core::observe::{Metric, MetricKind};
use connector_core::{ConnectorContext, ErrorKind};

use super::errors::Elsewhere;
use super::transport::Address;

const REQUESTS: &str = "kvconn_node_requests_total";
const ERRORS: &str = "kvconn_node_errors_total";
const CONNECTIONS: &str = "kvconn_node_connections_opened_total";
const REDIRECTS: &str = "kvconn_redirects_total";
const REFRESHES: &str = "kvconn_topology_refreshes_total";

const _: () = {
    const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
        Metric { name, kind: MetricKind::Counter, unit: "", labels, help }
    }
    const NODE: &[&str] = &["connector", "instance", "node"];
    const NODE_KIND: &[&str] = &["connector", "instance", "node", "kind"];
    connector_core::__private::element! {
        METRIC_LISTS: MetricList = &[
            counter(REQUESTS, NODE, "Commands that calls sent to this server."),
            counter(ERRORS, NODE_KIND, "Answers of this server that are errors, connections to it that broke or did not open, and calls that were refused while it was away."),
            counter(CONNECTIONS, NODE, "Connections to this server that calls opened."),
            counter(REDIRECTS, NODE_KIND, "Requests that went from this server to another one or were sent again, by kind: moved, ask, later, changing or lost."),
            counter(REFRESHES, &["connector", "instance", "result"], "Times that kvconn asked the sentinels or the nodes of a cluster for the servers, by result: ok or error."),
        ]
    }
};

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
        counter!(REFRESHES, self.labels([result])).increment(1);
    }

    fn labels<const N: usize>(&self, more: [Label; N]) -> Vec<Label> {
        let Self { connector, instance } = self;
        let own = [Label::new("connector", connector.clone()), Label::new("instance", instance.clone())];
        own.into_iter().chain(more).collect()
    }
}

impl NodeMeters {
    pub(super) fn requested(&self, commands: usize) {
        let requests = || counter!(REQUESTS, self.store.labels([self.node()]));
        self.requests.get_or_init(requests).increment(commands as u64);
    }

    #[cold]
    pub(super) fn failed(&self, kind: ErrorKind) {
        let kind = Label::from_static_parts("kind", kind.as_str());
        counter!(ERRORS, self.store.labels([self.node(), kind])).increment(1);
    }

    #[cold]
    pub(super) fn connected(&self) {
        counter!(CONNECTIONS, self.store.labels([self.node()])).increment(1);
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
        counter!(REDIRECTS, self.store.labels([self.node(), kind])).increment(1);
    }

    fn node(&self) -> Label {
        Label::new("node", self.node.clone())
    }
}
