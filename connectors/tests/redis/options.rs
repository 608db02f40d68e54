//! URLs and options.

use connectors::{ErrorKind, LMCacheEngineConfig};
use kvconn_redis_server::RedisServer;

use super::{key, kv, kv_bytes, open, raw};

#[tokio::test]
async fn every_form_of_url_opens_the_same_store() {
    let server = RedisServer::start(&[]);
    let (port, socket) = (server.port(), server.socket_path().display().to_string());
    open(&server.url("redis")).await.put(&key(1), kv(5, 1)).await.unwrap();
    let external = format!("external://127.0.0.1:{port}/kvconn.redis/?connector_name=RedisConnector");
    let mut urls = vec![
        format!("redis://localhost:{port}"),
        format!("redis://127.0.0.1:{port}/"),
        format!("redis://127.0.0.1:{port}/0?connections=1"),
        format!("unix://{socket}"),
        format!("unix://localhost{}", socket.replace('-', "%2D")),
        format!("{external}&redis_url=unix://{socket}"),
        external,
    ];
    urls.extend(server.address_v6().map(|address| format!("redis://{address}")));
    for url in urls {
        let store = open(&url).await;
        assert_eq!(store.name(), "kvconn.redis/RedisConnector");
        store.ping().await.unwrap();
        assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(5, 1)), "{url}");
    }
    let other = format!("external://127.0.0.1:{port}/kvconn.redis/?connector_name=RedisConnector&path=/2");
    open(&other).await.put(&key(2), kv(5, 2)).await.unwrap();
    assert_eq!(open(&format!("{}/2", server.url("redis"))).await.get(&key(2)).await.unwrap(), Some(kv(5, 2)));
}

#[tokio::test]
async fn a_plugin_takes_its_server_from_the_configuration() {
    let server = RedisServer::start(&[]);
    open(&format!("{}/2", server.url("redis"))).await.put(&key(1), kv(5, 1)).await.unwrap();
    for name in ["redis_url", "remote_storage_plugin.redis.redis_url", "redis_connector_redis_url"] {
        let yaml = format!("remote_url: plugin://redis\nextra_config:\n  {name}: {}/2\n", server.url("redis"));
        let config = LMCacheEngineConfig::from_yaml(&yaml).unwrap();
        let store = connectors::builder("plugin://redis").config(config).open().await.unwrap();
        assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(5, 1)), "{name}");
    }
}

#[tokio::test]
async fn the_database_is_the_urls() {
    let server = RedisServer::start(&[]);
    let url = server.url("redis");
    open(&format!("{url}/3")).await.put(&key(1), kv(5, 1)).await.unwrap();
    assert_eq!(raw(&server, &kv_bytes(&key(1))), None);
    let socket = format!("unix://{}", server.socket_path().display());
    for same in [format!("{url}?db=3"), format!("{url}/3?db=3"), format!("{socket}?db=3")] {
        assert!(open(&same).await.exists(&key(1)).await.unwrap(), "{same}");
    }
    assert!(!open(&url).await.exists(&key(1)).await.unwrap());
    let e = connectors::open(&format!("{url}/1?db=3")).await.unwrap_err();
    assert!(e.to_string().contains("names two databases"), "{e}");
    let e = connectors::open(&format!("{url}/99")).await.unwrap_err();
    assert!(e.to_string().contains("database 99"), "{e}");
}

#[tokio::test]
async fn passwords_and_users_are_percent_decoded() {
    let server = RedisServer::start(&["--requirepass", "p@ss/wörd", "--user", "wri:ter", "on", ">fe%w", "~*", "+@all"]);
    for user in [":p%40ss%2Fw%C3%B6rd", "default:p%40ss%2Fw%C3%B6rd", "wri%3Ater:fe%25w"] {
        for protocol in ["2", "3", "auto"] {
            let store = open(&format!("redis://{user}@{}?protocol={protocol}", server.address())).await;
            store.put(&key(1), kv(5, 1)).await.unwrap();
            let unix = format!("unix://{user}@{}?protocol={protocol}", server.socket_path().display());
            assert_eq!(open(&unix).await.get(&key(1)).await.unwrap(), Some(kv(5, 1)));
        }
    }
    let options = format!("redis://{}?username=wri:ter&password=fe%25w", server.address());
    assert!(open(&options).await.exists(&key(1)).await.unwrap());
    let e = connectors::open(&format!("redis://:p%40ss@{}", server.address())).await.unwrap_err();
    assert!(
        e.kind() == ErrorKind::Denied && !format!("{e:?}").contains("p@ss") && !e.to_string().contains("p%40ss"),
        "{e:?}"
    );
}

#[tokio::test]
async fn the_server_knows_the_connections_by_name_and_protocol() {
    let server = RedisServer::start(&[]);
    // A URL cannot hold an empty option.
    let nameless = LMCacheEngineConfig::from_yaml("extra_config: { redis_connector_client_name: '' }").unwrap();
    let named = LMCacheEngineConfig::default();
    for (options, config, name, protocol) in
        [("", &named, "kvconn", 3), ("?protocol=2&client_name=me", &named, "me", 2), ("?protocol=3", &nameless, "", 3)]
    {
        let url = format!("{}{options}", server.url("redis"));
        let store = connectors::builder(&url).config(config.clone()).open().await.unwrap();
        store.put(&key(1), kv(5, 1)).await.unwrap();
        let list = server.cli(&["CLIENT", "LIST"]);
        let list = String::from_utf8_lossy(list.bytes().expect("a list")).into_owned();
        // The list holds the asking client, too.
        let ours =
            list.lines().filter(|line| line.contains(&format!(" name={name} ")) && !line.contains("cmd=client|list"));
        let ours: Vec<&str> = ours.collect();
        assert_eq!(ours.len(), 2, "one for chunks, one for the rest:\n{list}");
        assert!(ours.iter().all(|line| line.contains(&format!("resp={protocol}"))), "{list}");
        store.close().await.unwrap();
        drop(store);
    }
}

#[tokio::test]
async fn wrong_urls_and_options_are_errors_that_say_what_to_write() {
    for (url, kind, why) in [
        ("redis://h:1?refresh_ttl=true", ErrorKind::InvalidOption, "`ttl_sec`"),
        ("redis://h:1?ttl_sec=0", ErrorKind::InvalidOption, "`ttl_sec`: 0 is not between 1 and"),
        ("redis://h:1?connections=0", ErrorKind::InvalidOption, "`connections`: 0"),
        ("redis://h:1?max_value_bytes=536870913", ErrorKind::InvalidOption, "`max_value_bytes`"),
        ("redis://h:1?protocol=4", ErrorKind::InvalidOption, "write `auto`, `2` or `3`"),
        ("redis://h:1?client_name=a%20b", ErrorKind::InvalidOption, "`client_name`"),
        ("redis://h:1?conections=2", ErrorKind::InvalidOption, "did you mean `connections`"),
        ("redis://h:1/cache", ErrorKind::InvalidUrl, "the path of `redis://h:1/***` is not the number of a database"),
        ("redis://h:1,i:2", ErrorKind::InvalidUrl, "names 2 servers, and this store takes one"),
        ("redis://h:1,i:2", ErrorKind::InvalidUrl, "add the option `cluster=true`; for sentinels write"),
        ("redis://?cluster=true", ErrorKind::InvalidUrl, "names no node"),
        ("redis://h:1,i:2/1?cluster=true", ErrorKind::InvalidOption, "a cluster has no database 1"),
        ("redis-cluster://h:1?db=1", ErrorKind::InvalidOption, "a cluster has only database 0"),
        ("redis-cluster://h:1/0", ErrorKind::InvalidUrl, "has a path"),
        ("redis-cluster://", ErrorKind::InvalidUrl, "write `redis-cluster://host:6379,host:6379`"),
        ("redis-cluster://h,h:6379", ErrorKind::InvalidUrl, "names the node h:6379 twice"),
        ("redis-cluster://[::1],[::1]:6379", ErrorKind::InvalidUrl, "names the node [::1]:6379 twice"),
        ("redis-cluster://h:1,", ErrorKind::InvalidUrl, "a host is empty"),
        ("redis-cluster://h:1, i:1", ErrorKind::InvalidUrl, "a host holds a space"),
        ("redis-cluster://h:1,u:p@i:1", ErrorKind::InvalidUrl, "once, before the first host"),
        ("redis-cluster://h,u@i", ErrorKind::InvalidUrl, "write a comma of a password as `%2C`"),
        (
            "redis-sentinel://u:p@h,u:p@i/m",
            ErrorKind::InvalidUrl,
            "`redis-sentinel://***@i/m` has a comma before its `@`",
        ),
        ("redis-sentinel://", ErrorKind::InvalidUrl, "write `redis-sentinel://host:26379,host:26379`"),
        ("redis-sentinel://h,h:26379", ErrorKind::InvalidUrl, "names the sentinel h:26379 twice"),
        ("redis-sentinel://h?cluster=true", ErrorKind::InvalidUrl, "`redis-sentinel://` cannot be a cluster"),
        ("unix:///run/redis.sock?cluster=true", ErrorKind::InvalidUrl, "`unix://` cannot be a cluster"),
        (
            "redis://h:1?sentinel_service=m",
            ErrorKind::InvalidUrl,
            "has the option `sentinel_service`, but no sentinels",
        ),
        (
            "external://h:1/kvconn.redis/?connector_name=RedisConnector&redis_url=redis://i:2&path=/2",
            ErrorKind::InvalidUrl,
            "has the options `path` and `redis_url`",
        ),
        ("redis://h:1?replica_reads=true", ErrorKind::InvalidOption, "knows no replicas"),
        (
            "redis-cluster://h:1?replica_reads=true&ttl_sec=1&refresh_ttl=true",
            ErrorKind::InvalidOption,
            "a replica renews no time to live",
        ),
        ("redis://h:1?redis_url=redis://i:2", ErrorKind::InvalidUrl, "names the server twice"),
        ("redis://u:%ff@h:1", ErrorKind::InvalidUrl, "percent-decoded, it is not UTF-8"),
        ("unix://", ErrorKind::InvalidUrl, "names no socket"),
        ("unix://localhost:1/tmp/socket", ErrorKind::InvalidUrl, "has a port"),
        ("unix://tmp/socket", ErrorKind::InvalidUrl, "write the URL as in `unix:///run/redis.sock`"),
        (
            "external://h:1/kvconn.redis/?connector_name=RedisConnector&redis_url=resp://h:1",
            ErrorKind::InvalidOption,
            "is not the URL of a redis server",
        ),
        (
            "external://h:1/kvconn.redis/?connector_name=RedisConnector&redis_url=redis-cluster://h:1/1",
            ErrorKind::InvalidOption,
            "a cluster has no database 1",
        ),
        (
            "external://h:1/kvconn.redis/?connector_name=RedisConnector&redis_url=redis-cluster://h:1%2Ch:1",
            ErrorKind::InvalidUrl,
            "names the node h:1 twice",
        ),
        (
            "external://h:1/kvconn.redis/?connector_name=RedisConnector&redis_url=redis://h:1?ttl_sec=1",
            ErrorKind::InvalidOption,
            "write it beside `redis_url`",
        ),
    ] {
        let e = connectors::open(url).await.unwrap_err();
        assert_eq!(e.kind(), kind, "{url}: {e}");
        let said = format!("{e}\n{}", e.hint().unwrap_or_default());
        assert!(said.contains(why), "{url}: {said}");
    }
}
