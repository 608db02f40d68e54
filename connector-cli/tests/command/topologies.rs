//! The commands on servers as people run them: TLS, sentinels, a cluster.

use kvconn_redis_server::{RedisCluster, RedisServer, SentinelGroup};

use crate::{KEY, OTHER, put, run};

/// The lines of `ping` about servers.
fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("  ")).collect()
}

/// Runs the commands on single chunks.
fn chunks_come_back(url: &str) {
    put(url, KEY, &[7; 5000]);
    put(url, OTHER, &[8; 5000]);
    assert_eq!(run(&["get", url, KEY]).exits(0).out, [7; 5000]);
    run(&["exists", url, KEY, OTHER]).exits(0);
    run(&["check", url, "--filter", "removal"]).exits(0);
    run(&["bench", url, "--chunk-size", "64KiB", "--keys", "4", "--rounds", "1"]).exits(0);
    run(&["rm", url, KEY, OTHER]).exits(0);
    run(&["exists", url, KEY, OTHER]).exits(1);
}

/// Runs the commands on all chunks of a store.
fn all_chunks_are_found(url: &str) {
    put(url, KEY, &[7; 5000]);
    put(url, OTHER, &[8; 5000]);
    let mut keys: Vec<String> = run(&["ls", url]).exits(0).text().lines().map(str::to_owned).collect();
    keys.sort();
    assert_eq!(keys, [KEY, OTHER]);
    let copied = run(&["cp", url, "memory://copy"]).exits(0);
    assert!(copied.text().contains("copied 2 chunks"), "{copied:?}");
    run(&["rm", url, KEY, OTHER]).exits(0);
    assert_eq!(run(&["ls", url]).exits(0).text(), "");
}

#[test]
fn a_server_with_tls() {
    let redis = RedisServer::start_tls(&["--port", "0", "--requirepass", "hunter2"]);
    let ca = redis.certificates().ca_pem();
    for scheme in ["rediss", "resps", "valkeys"] {
        let url = redis.tls_url(scheme).replace("://", "://:hunter2@");
        run(&["ping", &url]).fails_with(&["tls_ca"]);
        let url = format!("{url}?tls_ca={}", ca.display());
        chunks_come_back(&url);
        all_chunks_are_found(&url);
        let pinged = run(&["ping", &url]).exits(0);
        let [line] = lines(pinged.text())[..] else { panic!("{pinged:?}") };
        assert!(line.contains("master") && line.contains("tls TLS") && line.contains("version redis "), "{line}");
    }
}

#[test]
fn sentinels() {
    let mut group = SentinelGroup::start(3, 1, &[]);
    let url = group.url("redis-sentinel");
    chunks_come_back(&url);
    all_chunks_are_found(&url);
    let pinged = run(&["ping", &url]).exits(0);
    assert_eq!(lines(pinged.text()).len(), 5, "{pinged:?}");
    let lost = group.sentinel(0).address().to_string();
    group.kill_sentinel(0);
    let pinged = run(&["ping", &url]).exits(0);
    let away = |line: &&&str| line.contains("away: ");
    let shown = lines(pinged.text());
    let away: Vec<&&str> = shown.iter().filter(away).collect();
    assert!(away.len() == 1 && away[0].contains(&lost) && away[0].contains("sentinel"), "{pinged:?}");
}

#[test]
fn a_cluster() {
    let mut cluster = RedisCluster::start(3, 1, &["--cluster-node-timeout", "60000"]);
    let plain = cluster.url("resp") + "?cluster=true";
    for url in [&cluster.url("redis-cluster"), &plain] {
        chunks_come_back(url);
        all_chunks_are_found(url);
    }
    let url = cluster.url("redis-cluster");
    let pinged = run(&["ping", &url]).exits(0);
    let (masters, replicas): (Vec<&str>, _) =
        lines(pinged.text()).into_iter().partition(|line| line.contains("master  "));
    assert!(masters.iter().all(|line| line.contains("slots 546")), "{pinged:?}");
    assert_eq!((masters.len(), replicas.len()), (3, 3), "{pinged:?}");

    // A replica that is away does not matter.
    let replica = cluster.replicas_of(cluster.masters()[0])[0];
    cluster.kill(replica);
    let address = cluster.node(replica).address().to_string();
    let json = run(&["ping", &url, "--json"]).exits(0).json();
    let servers = json["servers"].as_array().expect("a list");
    let away: Vec<_> = servers.iter().filter(|server| !server["error"].is_null()).collect();
    assert_eq!((servers.len(), away.len(), &away[0]["address"]), (6, 1, &address.into()), "{json}");
    assert_eq!((&away[0]["role"], &json["error"]), (&"replica".into(), &serde_json::Value::Null), "{json}");

    // A master that is away is a failure, and the output says which one.
    let master = cluster.masters()[1];
    cluster.kill(master);
    let address = cluster.node(master).address().to_string();
    let pinged = run(&["ping", &url]).exits(3);
    assert!(pinged.err.contains(&address) && !pinged.text().contains("answered in"), "{pinged:?}");
    let line = lines(pinged.text()).into_iter().find(|line| line.contains(&address) && line.contains("away: "));
    assert!(line.is_some_and(|line| line.contains("master")), "{pinged:?}");
    let json = run(&["ping", &url, "--json"]).exits(3).json();
    assert!(json["error"].as_str().is_some_and(|e| e.contains(&address)), "{json}");
}
