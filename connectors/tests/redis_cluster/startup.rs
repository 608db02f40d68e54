//! The nodes that a URL names.

use connectors::ErrorKind;
use kvconn_redis_server::{RedisCluster, RedisServer, process};

use crate::checked::{is_lost, until};
use crate::store::{Kind, Store};

pub(crate) async fn one_startup_node_of_several_is_enough(kind: Kind) {
    let cluster = RedisCluster::start(3, 0, &[]);
    let (single, closed) = (RedisServer::start(&[]), process::free_port());
    let lonely = RedisServer::start(&["--cluster-enabled", "yes"]);
    let nodes = [closed, single.port(), lonely.port(), cluster.node(1).port()];
    let nodes: Vec<String> = nodes.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let url = format!("{}://{}{}", kind.scheme, nodes.join(","), kind.options);
    Store::open(&url).await.is_right().await;
}

pub(crate) async fn a_server_without_a_cluster_is_an_error_that_says_so(kind: Kind) {
    let server = RedisServer::start(&[]);
    let closed = process::free_port();
    for nodes in [format!("127.0.0.1:{}", server.port()), format!("127.0.0.1:{closed},127.0.0.1:{}", server.port())] {
        let e = Store::try_open(&format!("{}://{nodes}{}", kind.scheme, kind.options)).await.err().expect("no cluster");
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::Unsupported, false), "{e}");
        let said = e.to_string();
        assert!(said.contains("not a node of a cluster") && said.contains("`redis://`"), "{said}");
    }
    let lonely = RedisServer::start(&["--cluster-enabled", "yes"]);
    for port in [closed, lonely.port()] {
        let url = format!("{}://127.0.0.1:{port}{}", kind.scheme, kind.options);
        is_lost(Store::try_open(&url).await.map(drop));
    }
}

pub(crate) async fn a_single_servers_url_is_an_error_on_a_cluster(kind: Kind) {
    let cluster = RedisCluster::start(3, 0, &[]);
    let store = Store::open(&cluster.node(0).url(kind.single)).await;
    let n = kind.numbers_at(&cluster, 1, 1)[0];
    for e in [store.put(n, 1, 1000).await.unwrap_err(), store.get(n).await.unwrap_err()] {
        assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
        assert!(e.to_string().contains("`cluster=true`"), "{e}");
    }
}

pub(crate) async fn a_lazy_store_opens_without_a_cluster_and_finds_it_later(kind: Kind) {
    let mut server = RedisServer::start(&["--cluster-enabled", "yes"]);
    server.kill9();
    let url = format!("{}{}&connect=lazy", server.url(kind.scheme), kind.options);
    let store = Store::open(&url).await;
    is_lost(store.get(1).await);
    is_lost(store.connector.ping().await);
    server.restart();
    server.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    until("the store finds the cluster", async || store.put(1, 1, 1000).await.is_ok()).await;
    store.is_right().await;
}
