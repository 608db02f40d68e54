use connectors::{CacheKey, MemoryObj};

use crate::{counters, recorder};

#[tokio::test]
async fn an_instance_names_the_place_of_a_store_and_no_secret() {
    for (url, instance) in [
        ("redis://user:hunter2@H:6379/2?password=hunter2", "h:6379/2"),
        ("redis://hunter2:hunter2@h:6379/", "h:6379"),
        ("redis://[::1]:6379", "[::1]:6379"),
        ("redis-sentinel://user:hunter2@h:26379,i:26379/service", "h:26379,i:26379/service"),
        ("redis-cluster://h:7000,h:7001?password=hunter2", "h:7000,h:7001"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
        // The path may hold the password.
        ("redis://h:1/hunter2@h:6379", "***"),
        ("resp://h:6379/hunter2", "h:6379/***"),
        ("fs:///var/cache/kv/", "/var/cache/kv"),
        ("memory://left", "left"),
        (
            "tiered://?front=memory://a&back=redis%3A%2F%2F%3Ahunter2%40h%3A1",
            "tiered://?front=memory://a&back=redis://***%40h:1",
        ),
        ("plugin://fs.primary", "fs.primary"),
        ("unknown://hunter2", "***"),
    ] {
        let built = connectors::builder(url).build();
        let shown = built.map_or_else(|e| panic!("{url}: {e}"), |ctx| ctx.instance());
        assert_eq!(shown, instance, "{url}");
    }
}

#[tokio::test]
async fn front_and_back_of_a_tiered_store_count_apart() {
    recorder();
    let store = connectors::open("tiered://?front=memory://near&back=memory://far").await.expect("it opens");
    let key: CacheKey = "m@1@0@ff@half".parse().expect("a key");
    store.put(&key, MemoryObj::from(vec![1; 10])).await.expect("it is stored");
    store.get(&key).await.expect("it is read").expect("it is there");
    let gets = counters("operation=get,");
    let of = |connector: &str, instance: &str| {
        let name = format!("kvconn_calls_total{{connector={connector},instance={instance},operation=get,result=ok}}");
        gets.get(&name).copied()
    };
    assert_eq!(of("kvconn.memory/MemoryConnector", "near"), Some(1), "{gets:?}");
    assert_eq!(of("kvconn.memory/MemoryConnector", "far"), None, "the front had it: {gets:?}");
    let tiered = "tiered://?front=memory://near&back=memory://far";
    assert_eq!(of("kvconn.tiered/TieredConnector", tiered), Some(1), "{gets:?}");
}
