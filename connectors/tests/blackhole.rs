//! `blackhole://`: puts succeed, and every key is a miss.

use connectors::{CacheKey, ErrorKind, MemoryObj, MemoryObjMut};
use futures::StreamExt;

fn key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().unwrap()
}

#[tokio::test]
async fn every_call_succeeds_and_every_key_is_a_miss() {
    let external = "external://localhost:0/kvconn.blackhole/?connector_name=BlackholeConnector";
    for url in ["blackhole://", "blackhole://localhost:8080", external] {
        let connector = connectors::open(url).await.unwrap();
        connector.put(&key(1), MemoryObj::from(vec![1; 100])).await.unwrap();
        assert!(!connector.exists(&key(1)).await.unwrap(), "{url}");
        assert_eq!(connector.get(&key(1)).await.unwrap(), None);
        let mut memory = MemoryObjMut::zeroed(100);
        assert_eq!(connector.get_into(&key(1), &mut memory).await.unwrap(), None);
        assert_eq!(memory.capacity(), 100);
        assert_eq!(connector.batched_contains(&[key(1), key(2)]).await.unwrap(), 0);
        assert!(!connector.remove(&key(1)).await.unwrap());
        assert_eq!(connector.list("").count().await, 0);
        connector.ping().await.unwrap();
        connector.close().await.unwrap();
        assert_eq!(connector.get(&key(1)).await.unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[tokio::test]
async fn an_option_in_the_url_is_an_error() {
    let e = connectors::open("blackhole://h:0/?size=3").await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidOption);
    assert!(e.to_string().contains("option 1 of the URL is unknown"), "{e}");
}
