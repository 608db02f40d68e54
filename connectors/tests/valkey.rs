//! `valkey://` on a real server.
#![forbid(unsafe_code)]

use connectors::{CacheKey, ErrorKind, LMCacheEngineConfig, MemoryObj};
use futures::TryStreamExt;

use kvconn_redis_server::RedisServer;

mod contract {
    connector_core::conformance_tests!(super::kit("?key_prefix=team&ttl_sec=1000"));
}

fn kit(options: &str) -> connector_core::conformance::Kit {
    let server = RedisServer::start(&[]);
    let url = format!("{}{options}", server.url("valkey"));
    connector_core::conformance::Kit::new(move |backend| {
        let _lives = &server;
        connectors::builder(&url).local_cpu_backend(backend).open()
    })
}

fn key(n: usize) -> CacheKey {
    format!("org/model@1@0@{n:x}@bfloat16").parse().expect("a key")
}

/// The `extra_config` of LMCache's configuration.
fn config(extra: &str) -> LMCacheEngineConfig {
    LMCacheEngineConfig::from_yaml(&format!("extra_config: {{ {extra} }}")).expect("a configuration")
}

#[tokio::test]
async fn the_bytes_are_those_of_resp_and_of_lmcaches_adapter() {
    let server = RedisServer::start(&[]);
    let object: CacheKey = "org/m@00000100@0@1f2e@salt".parse().unwrap();
    let plain = connectors::open(&server.url("valkey")).await.unwrap();
    assert_eq!(plain.name(), "kvconn.valkey/ValkeyConnector");
    plain.put(&key(1), MemoryObj::from(vec![1, 2])).await.unwrap();
    assert_eq!(server.cli(&["GET", key(1).as_str()]).bytes(), Some(&[1, 2][..]));
    let resp = connectors::open(&server.url("resp")).await.unwrap();
    assert_eq!(resp.get(&key(1)).await.unwrap().as_deref(), Some(&[1, 2][..]));

    let prefixed = connectors::open(&format!("{}?key_prefix=prod", server.url("valkey"))).await.unwrap();
    server.cli(&["SET", "prod@org/m@00000100@0@1f2e@salt", "of LMCache"]);
    assert_eq!(prefixed.get(&object).await.unwrap().as_deref(), Some(&b"of LMCache"[..]));
    assert_eq!(prefixed.list("").try_collect::<Vec<_>>().await.unwrap(), [object]);
    prefixed.put(&key(2), MemoryObj::from(vec![3])).await.unwrap();
    assert_eq!(server.cli(&["GET", "prod@org/model@1@0@2@bfloat16"]).bytes(), Some(&[3][..]));
}

#[tokio::test]
async fn lmcaches_configuration_means_the_same() {
    let server = RedisServer::start(&["--user", "u", "on", ">pw", "~*", "+@all"]);
    let put = async |extra: &str, n: usize| {
        let url = server.url("valkey");
        let store = connectors::builder(&url).config(config(extra)).open().await.unwrap();
        store.put(&key(n), MemoryObj::from(vec![1])).await.unwrap();
    };
    let login =
        "valkey_username: u, valkey_password: pw, valkey_num_workers: 2, request_timeout: 3.5, connection_timeout: 2";
    put(&format!("{login}, valkey_database: 3, valkey_mode: standalone"), 1).await;
    assert_eq!(server.cli(&["EXISTS", key(1).as_str()]).integer(), Some(0), "in another database");
    for (n, (extra, ttl)) in [
        ("valkey_enable_ttl: true, valkey_ttl_sec: 500", 500),
        ("valkey_enable_ttl: true", 86_400),
        ("valkey_enable_ttl: false, valkey_ttl_sec: 500", -1),
        ("valkey_ttl_sec: 500", 500),
    ]
    .into_iter()
    .enumerate()
    {
        put(extra, n + 2).await;
        let left = server.cli(&["TTL", key(n + 2).as_str()]).integer().unwrap();
        assert!((ttl - 60..=ttl).contains(&left), "{extra}: {left}");
    }
}

#[tokio::test]
async fn wrong_configurations_say_what_to_write() {
    for (url, extra, says) in [
        ("valkey://h:1", "save_chunk_meta: true", "`redis://` keeps shape, dtype and format"),
        ("valkey://h:1", "valkey_mode: ring", "extra_config key `valkey_mode`"),
        ("valkey://h:1?cluster=true", "valkey_mode: standalone", "`mode` and `cluster` contradict each other"),
        (
            "valkey://h:1",
            "request_timeout: 0",
            "`request_timeout`: 0 is not a number of seconds above 0, and 3600 at most",
        ),
        ("valkey://h:1", "request_timeout: .inf", "`request_timeout`: inf is not a number of seconds"),
        ("valkey://h:1", "connection_timeout: 1e30", "`connection_timeout`: 1"),
        ("valkey://h:1", "connection_timeout: -1", "`connection_timeout`: -1 is not a number of seconds above 0"),
        ("valkey://h:1", "valkey_ttl_sec: 0", "`ttl_sec`: 0 is not between 1 and"),
        ("valkey://h:1", "valkey_ttl_sec: true", "extra_config key `valkey_ttl_sec`"),
        ("valkey://h:1,i:1", "", "add the option `cluster=true`"),
        ("valkey://h:1,h:1", "valkey_mode: cluster", "names the node h:1 twice"),
        ("valkey://h:1/2", "valkey_mode: cluster", "a cluster has only database 0"),
        ("valkey://", "", "names no server"),
        ("valkey://h:1?key_prefix=a%40b", "", "`key_prefix` holds an `@`"),
        ("plugin://valkey", "", "remote_storage_plugin.<name>.url"),
    ] {
        let e = connectors::builder(url).config(config(extra)).open().await.unwrap_err();
        let said = format!("{e}\n{}", e.hint().unwrap_or_default());
        assert!(matches!(e.kind(), ErrorKind::InvalidUrl | ErrorKind::InvalidOption), "{url} {extra}: {said}");
        assert!(said.contains(says), "{url} {extra}: {said}");
    }
}
