//! Masters, replicas and sentinels.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use kvconn_redis_server::{Certificates, Client, Launch, Reply, SentinelGroup};

fn ok() -> Reply {
    Reply::Simple("OK".into())
}

fn value(group: &SentinelGroup) -> Option<Vec<u8>> {
    group.master().cli(&["GET", "key"]).bytes().map(<[u8]>::to_vec)
}

/// Puts a value that no failover loses.
fn put(group: &SentinelGroup) {
    let mut client = group.master().client();
    assert_eq!(client.command(&["SET", "key", "value"]).unwrap(), ok());
    // `WAIT` counts from the last write of its own connection.
    let replicas = i64::try_from(group.replicas().len()).unwrap();
    assert_eq!(client.command(&["WAIT", &replicas.to_string(), "5000"]).unwrap().integer(), Some(replicas));
}

#[test]
fn sentinels_name_the_master() {
    let start = Instant::now();
    let group = SentinelGroup::start(3, 2, &[]);
    println!("started in {:?}", start.elapsed());
    for i in 0..3 {
        let mut sentinel = Client::tcp(group.sentinel(i).address()).unwrap();
        let bulk = |text: &str| Reply::Bulk(Some(text.into()));
        let address = Reply::Array(vec![bulk("127.0.0.1"), bulk(&group.master().port().to_string())]);
        assert_eq!(sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "redismaster"]).unwrap(), address);
    }
    assert_eq!(group.url("redis-sentinel").matches("127.0.0.1:").count(), 3);
}

#[test]
fn a_failover_makes_a_replica_the_master_and_back() {
    let mut group = SentinelGroup::start(3, 1, &[]);
    put(&group);
    for master in [1, 0] {
        assert_eq!((group.failover(), group.master_index(), group.replicas()), (master, master, vec![1 - master]));
        assert_eq!(value(&group).as_deref(), Some(&b"value"[..]));
    }
}

#[test]
fn the_sentinels_replace_a_killed_master_which_returns_as_a_replica() {
    let mut group = SentinelGroup::start(3, 1, &[]);
    put(&group);
    let killed = group.kill_master();
    assert_ne!(group.wait_until_master_changes(), killed);
    assert_eq!(value(&group).as_deref(), Some(&b"value"[..]));
    group.restart(killed);
    group.wait_until_agreed();
    assert_eq!(group.replicas(), [killed]);
}

#[test]
fn two_sentinels_of_three_replace_a_paused_master() {
    let mut group = SentinelGroup::start(3, 1, &[]);
    let paused = group.master_index();
    group.kill_sentinel(0);
    group.pause(paused);
    assert_ne!(group.wait_until_master_changes(), paused);
    group.cont(paused);
    group.restart_sentinel(0);
    group.wait_until_agreed();
}

#[test]
fn a_group_has_tls_and_passwords_everywhere() {
    let certificates = Arc::new(Certificates::new());
    let launch = Launch::new(&["--requirepass", "secret"]).tls(&certificates);
    let mut group = launch.sentinels(3, 1, &["--requirepass", "few"]);
    put(&group);
    assert_eq!(group.failover(), 1);
    assert_eq!(value(&group).as_deref(), Some(&b"value"[..]));
    let output = Command::new("redis-cli")
        .args(["-p", &group.sentinel(2).tls_port().to_string(), "--tls", "--cacert"])
        .arg(certificates.ca_pem())
        .args(["-a", "few", "--no-auth-warning", "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "redismaster"])
        .output()
        .expect("redis-cli starts");
    let address = format!("127.0.0.1\n{}\n", group.master().tls_port());
    assert_eq!(String::from_utf8_lossy(&output.stdout), address);
}
