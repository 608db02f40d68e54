//! What a store says about its servers.

use std::collections::BTreeMap;
use std::time::Duration;

use connectors::{ErrorKind, ServerInfo};
use kvconn_redis_server::{Program, RedisCluster, RedisServer, SentinelGroup};

async fn servers(url: &str) -> Vec<ServerInfo> {
    let store = connectors::open(url).await.unwrap_or_else(|e| panic!("the store opens: {e}"));
    store.servers().await.expect("the store knows its servers")
}

/// The number of servers of each role.
fn roles(servers: &[ServerInfo]) -> BTreeMap<&str, usize> {
    let mut roles = BTreeMap::new();
    for server in servers {
        *roles.entry(server.role.as_deref().unwrap_or("none")).or_default() += 1;
    }
    roles
}

#[tokio::test]
async fn a_single_server_has_its_role_and_version() {
    let redis = RedisServer::start(&[]);
    for scheme in ["redis", "resp"] {
        let servers = servers(&redis.url(scheme)).await;
        let [server] = &servers[..] else { panic!("{servers:?}") };
        assert_eq!((server.address.clone(), server.role.as_deref()), (redis.address().to_string(), Some("master")));
        assert!(server.detail("version").is_some_and(|version| version.starts_with("redis ")), "{server:?}");
        assert!(server.error.is_none() && server.detail("tls").is_none(), "{server:?}");
    }
}

#[tokio::test]
async fn valkey_has_its_own_version() {
    let valkey = RedisServer::start_program(Program::Valkey, &[]);
    let servers = servers(&valkey.url("resp")).await;
    assert!(servers[0].detail("version").is_some_and(|version| version.starts_with("valkey ")), "{servers:?}");
}

#[tokio::test]
async fn a_server_says_the_version_of_tls() {
    let redis = RedisServer::start_tls(&[]);
    let ca = redis.certificates().ca_pem();
    let servers = servers(&format!("{}?tls=true&tls_ca={}", redis.tls_url("redis"), ca.display())).await;
    assert!(servers[0].detail("tls").is_some_and(|version| version.starts_with("TLS")), "{servers:?}");
}

#[tokio::test]
async fn a_user_without_the_right_to_info_sees_the_refusal() {
    let redis = RedisServer::start(&[]);
    redis.cli(&["ACL", "SETUSER", "kv", "on", ">hunter2", "~*", "+@read", "+@write", "+ping", "+hello", "+client"]);
    let url = redis.url("resp").replace("://", "://kv:hunter2@");
    let servers = servers(&url).await;
    assert!(servers[0].detail("info").is_some_and(|why| why.contains("NOPERM")), "{servers:?}");
    assert!(servers[0].error.is_none() && !format!("{servers:?}").contains("hunter2"), "{servers:?}");
}

#[tokio::test]
async fn sentinels_the_master_and_its_replicas_are_servers_of_a_store() {
    let mut group = SentinelGroup::start(3, 1, &[]);
    let store = connectors::open(&group.url("redis-sentinel")).await.expect("the store opens");
    let found = store.servers().await.expect("the store knows its servers");
    assert_eq!(roles(&found), BTreeMap::from([("master", 1), ("replica", 1), ("sentinel", 3)]), "{found:?}");
    let replica = found.iter().find(|server| server.role.as_deref() == Some("replica")).expect("a replica");
    let master = group.master().address().to_string();
    assert_eq!((replica.detail("replica_of"), replica.detail("link")), (Some(&*master), Some("up")), "{found:?}");
    // A sentinel that is away is in the list, with the reason.
    group.kill_sentinel(2);
    let found = store.servers().await.expect("the store knows its servers");
    let away: Vec<_> = found.iter().filter(|server| server.error.is_some()).collect();
    assert_eq!((found.len(), away.len(), away[0].role.as_deref()), (5, 1, Some("sentinel")), "{found:?}");
}

#[tokio::test]
async fn the_nodes_of_a_cluster_have_roles_and_slots_also_while_one_is_away() {
    let mut cluster = RedisCluster::start(3, 1, &["--cluster-node-timeout", "60000"]);
    let store = connectors::open(&cluster.url("redis-cluster")).await.expect("the store opens");
    let found = store.servers().await.expect("the store knows its servers");
    assert_eq!(roles(&found), BTreeMap::from([("master", 3), ("replica", 3)]), "{found:?}");
    let slots = found.iter().filter_map(|server| server.detail("slots")?.parse::<usize>().ok());
    assert_eq!(slots.sum::<usize>(), 16384, "{found:?}");
    store.ping().await.expect("all masters answer");
    let lost = cluster.masters()[1];
    let address = cluster.node(lost).address().to_string();
    // A node that hangs does not hide the others, also if the call has less time than the node.
    cluster.pause(lost);
    let found = store.within(Duration::from_secs(2)).servers().await.expect("the store knows its servers");
    let away: Vec<_> =
        found.iter().filter_map(|server| Some((&server.address, server.error.as_ref()?.kind()))).collect();
    assert_eq!((found.len(), away), (6, vec![(&address, ErrorKind::Timeout)]), "{found:?}");
    cluster.cont(lost);
    cluster.kill(lost);
    let found = store.servers().await.expect("the store knows its servers");
    let away: Vec<_> = found.iter().filter(|server| server.error.is_some()).map(|server| &server.address).collect();
    assert_eq!((found.len(), away), (6, vec![&address]), "{found:?}");
    let e = store.ping().await.expect_err("a master is away");
    assert!(e.to_string().contains(&address), "{e}");
}
