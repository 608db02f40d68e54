//! Valkey in place of redis.

use kvconn_redis_server::{Launch, Program, RedisServer};

fn valkey() -> Launch {
    Launch::new(&[]).program(Program::Valkey)
}

fn version(server: &RedisServer) -> String {
    let info = server.cli(&["INFO", "server"]);
    let info = String::from_utf8_lossy(info.bytes().expect("INFO is text")).into_owned();
    let line = info.lines().find_map(|line| line.strip_prefix("valkey_version:"));
    line.unwrap_or_else(|| panic!("the version of valkey: {info}")).to_owned()
}

#[test]
fn valkey_starts_as_redis_does() {
    let server = RedisServer::start_program(Program::Valkey, &["--maxmemory", "7mb"]);
    assert_eq!(version(&server), "8.1.8");
}

#[test]
fn valkey_has_clusters() {
    let cluster = valkey().cluster(3, 1);
    assert_eq!((version(cluster.node(5)), cluster.masters()), ("8.1.8".into(), vec![0, 1, 2]));
    cluster.move_slot(12_182, 2, 0);
    assert_eq!(cluster.owner(12_182), 0);
}

#[test]
fn valkey_has_sentinels() {
    let mut group = valkey().sentinels(3, 1, &[]);
    assert_eq!((group.failover(), version(group.master())), (1, "8.1.8".into()));
}
