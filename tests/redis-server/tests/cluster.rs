//! Clusters.

use std::sync::Arc;
use std::time::Instant;

use kvconn_redis_server::{Certificates, Client, Launch, RedisCluster, Reply};

fn ok() -> Reply {
    Reply::Simple("OK".into())
}

/// A slot of the key `name`.
fn slot(cluster: &RedisCluster, name: &str) -> u16 {
    let slot = cluster.node(0).cli(&["CLUSTER", "KEYSLOT", name]).integer().expect("a slot");
    u16::try_from(slot).expect("a slot")
}

#[test]
fn a_cluster_has_all_slots_and_its_replicas() {
    let start = Instant::now();
    let cluster = RedisCluster::start(3, 1, &[]);
    println!("started in {:?}", start.elapsed());
    assert_eq!((cluster.len(), cluster.masters()), (6, vec![0, 1, 2]));
    assert_eq!(cluster.slots_of(1), [5461..=10921]);
    for i in 0..3 {
        assert_eq!(cluster.replicas_of(i), [i + 3]);
    }
    let mut client = Client::tcp(cluster.node(0).address()).unwrap();
    // The slot of `foo` is 12182.
    assert_eq!(cluster.owner(12_182), 2);
    let moved = Reply::Error(format!("MOVED 12182 127.0.0.1:{}", cluster.node(2).port()));
    assert_eq!(client.command(&["GET", "foo"]).unwrap(), moved);
    assert_eq!(cluster.url("redis-cluster").matches("127.0.0.1:").count(), 6);
}

#[test]
fn a_replica_takes_over_from_a_killed_master_and_the_master_returns_as_its_replica() {
    let mut cluster = RedisCluster::start(3, 1, &[]);
    assert_eq!(cluster.node(2).cli(&["SET", "foo", "value"]), ok());
    cluster.wait_for_replica(2);
    cluster.kill(2);
    cluster.wait_until_whole();
    assert_eq!((cluster.masters(), cluster.replicas_of(5)), (vec![0, 1, 5], vec![]));
    assert_eq!(cluster.node(5).cli(&["GET", "foo"]).bytes(), Some(&b"value"[..]));
    cluster.restart(2);
    cluster.wait_until_whole();
    assert_eq!((cluster.masters(), cluster.replicas_of(5)), (vec![0, 1, 5], vec![2]));
}

#[test]
fn a_failover_loses_nothing_and_a_paused_master_is_replaced() {
    let mut cluster = RedisCluster::start(3, 1, &[]);
    assert_eq!(cluster.node(2).cli(&["SET", "foo", "value"]), ok());
    assert_eq!(cluster.failover(2), 5);
    assert_eq!(cluster.node(5).cli(&["GET", "foo"]).bytes(), Some(&b"value"[..]));
    cluster.pause(5);
    cluster.wait_until_whole();
    assert_eq!(cluster.masters(), [0, 1, 2]);
    cluster.cont(5);
    cluster.wait_until_whole();
    assert_eq!(cluster.replicas_of(2), [5]);
}

#[test]
fn a_slot_moves_step_by_step_with_its_keys() {
    for args in [&[][..], &["--requirepass", "secret"]] {
        let cluster = RedisCluster::start(3, 0, args);
        for n in 0..3 {
            cluster.node(2).cli(&["SET", &format!("{{foo}}{n}"), "value"]);
        }
        let slot = slot(&cluster, "foo");
        cluster.begin_move(slot, 2, 0);
        assert_eq!(cluster.move_keys(slot, 2, 0, 2), 2);
        let reply = cluster.node(2).client().command(&["GET", "{foo}9"]).unwrap();
        assert_eq!(reply, Reply::Error(format!("ASK {slot} 127.0.0.1:{}", cluster.node(0).port())));
        assert_eq!(cluster.move_keys(slot, 2, 0, 100), 1);
        cluster.end_move(slot, 2, 0);
        cluster.wait_until_whole();
        assert_eq!(cluster.owner(slot), 0);
        assert_eq!(cluster.node(0).cli(&["GET", "{foo}0"]).bytes(), Some(&b"value"[..]));
        cluster.reshard(0, 1, 20);
        assert_eq!((cluster.owner(19), cluster.owner(20)), (1, 0));
    }
}

#[test]
fn a_cluster_speaks_tls_between_its_nodes_and_to_clients() {
    let certificates = Arc::new(Certificates::new());
    let launch = Launch::new(&["--requirepass", "secret"]).tls(&certificates);
    let cluster = launch.cluster(3, 1);
    let port = cluster.node(0).tls_port();
    assert!(cluster.url("redis-cluster").contains(&port.to_string()));
    let output = std::process::Command::new("redis-cli")
        .args(["-p", &port.to_string(), "--tls", "--cacert"])
        .arg(certificates.ca_pem())
        .args(["-a", "secret", "--no-auth-warning", "CLUSTER", "SLOTS"])
        .output()
        .expect("redis-cli starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for i in 0..6 {
        assert!(said.contains(&cluster.node(i).tls_port().to_string()), "{said}");
    }
    cluster.node(2).cli(&["SET", "foo", "value"]);
    cluster.move_slot(12_182, 2, 0);
    assert_eq!(cluster.node(0).cli(&["GET", "foo"]).bytes(), Some(&b"value"[..]));
}
