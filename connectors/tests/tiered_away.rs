//! `tiered://` over a redis server that is away.

use std::time::{Duration, Instant};

use connectors::{CacheKey, Connector, ErrorKind, MemoryObj, Result};
use kvconn_redis_server::RedisServer;

fn key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().unwrap()
}

async fn open(server: &RedisServer, options: &str) -> Result<Connector> {
    let back = server.url("redis").replace(':', "%3A").replace('/', "%2F");
    let url = format!("tiered://?front=memory%3A%2F%2F&back={back}&mode=write_back{options}");
    connectors::open(&url).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_whose_back_is_away_opens_lazily_and_loses_nothing() {
    let mut server = RedisServer::start(&[]);
    server.kill9();
    let e = open(&server, "&timeout_ms=300&retries=1").await.unwrap_err();
    assert!(e.kind() == ErrorKind::Unavailable && e.to_string().contains("option `back`"), "{e}");

    let begun = Instant::now();
    let connector = open(&server, "&timeout_ms=300&connect=lazy").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    for n in 0..20 {
        connector.put(&key(n), MemoryObj::from(vec![n as u8; 1000])).await.unwrap();
    }
    assert_eq!(connector.get(&key(3)).await.unwrap().unwrap()[0], 3, "from the front");
    connector.get(&key(30)).await.unwrap_err();

    server.restart();
    let begun = Instant::now();
    while let Err(e) = connector.close().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "{e}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let back = connectors::open(&server.url("redis")).await.unwrap();
    for n in 0..20 {
        assert_eq!(back.get(&key(n)).await.unwrap().unwrap()[0], n as u8);
    }
}
