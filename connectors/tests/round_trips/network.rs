//! A store whose connections all go through proxies.

use std::time::Duration;

use connectors::Connector;
use kvconn_redis_server::{Proxy, RedisCluster, RedisServer};

/// Longer than a busy machine needs to send a batch of requests.
const LATENCY: Duration = Duration::from_millis(100);

pub(crate) struct Network {
    proxies: Vec<Proxy>,
    pub(crate) store: Connector,
}

impl Network {
    /// A store on one server.
    pub(crate) async fn before(server: &RedisServer, scheme: &str) -> Self {
        let proxy = Proxy::start(server.address()).await;
        let url = format!("{}?connections=2", proxy.url(scheme));
        Self::of(vec![proxy], &url).await
    }

    /// A store on one server, over TLS.
    pub(crate) async fn before_tls(server: &RedisServer, scheme: &str) -> Self {
        let proxy = Proxy::start(([127, 0, 0, 1], server.tls_port()).into()).await;
        let ca = server.certificates().ca_pem();
        let url = format!("{}?connections=2&tls=true&tls_ca={}", proxy.url(scheme), ca.display());
        Self::of(vec![proxy], &url).await
    }

    /// A store on a cluster, with a proxy for each node.
    pub(crate) async fn before_nodes(cluster: &RedisCluster, scheme: &str) -> Self {
        let mut proxies = Vec::new();
        for at in 0..cluster.len() {
            proxies.push(Proxy::start(cluster.node(at).address()).await);
        }
        let pairs =
            proxies.iter().enumerate().map(|(at, proxy)| format!("{}={}", cluster.node(at).address(), proxy.address()));
        let map = pairs.collect::<Vec<_>>().join(",");
        let url = format!("{}?connections=2&cluster=true&address_map={map}", proxies[0].url(scheme));
        Self::of(proxies, &url).await
    }

    async fn of(proxies: Vec<Proxy>, url: &str) -> Self {
        proxies.iter().for_each(|proxy| proxy.latency(LATENCY));
        let store = connectors::open(url).await.unwrap_or_else(|e| panic!("the store opens: {e}"));
        Self { proxies, store }
    }

    /// The round trips of the call on each connection.
    pub(crate) async fn trips(&self, call: impl Future<Output = ()>) -> Vec<usize> {
        let before = self.all();
        call.await;
        let after = self.all();
        let of_proxy = |(before, after): (Vec<usize>, Vec<usize>)| {
            after
                .into_iter()
                .enumerate()
                .map(move |(at, after)| after - before.get(at).unwrap_or(&0))
                .collect::<Vec<_>>()
        };
        before.into_iter().zip(after).flat_map(of_proxy).collect()
    }

    fn all(&self) -> Vec<Vec<usize>> {
        self.proxies.iter().map(Proxy::round_trips).collect()
    }
}
