//! Stores in one database with different namespaces.

use connectors::{Connector, ErrorKind};
use kvconn_redis_server::RedisServer;

use super::{key, keys, kv, kv_bytes, metadata, names, open};

async fn within(server: &RedisServer, namespace: &str) -> Connector {
    open(&format!("{}?namespace={namespace}", server.url("redis"))).await
}

#[tokio::test]
async fn a_namespace_stands_before_the_names_and_never_in_a_key() {
    let server = RedisServer::start(&[]);
    let store = within(&server, "team-a.v2").await;
    store.put(&key(1), kv(1, 1)).await.unwrap();
    let expected = [kv_bytes(&key(1)), metadata(&key(1))].map(|name| format!("team-a.v2:{name}"));
    assert_eq!(names(&server), expected);
    assert_eq!(keys(&store, "facebook").await, [key(1).to_string()]);
    assert_eq!(keys(&store, "team").await, [""; 0]);
}

#[tokio::test]
async fn stores_with_different_namespaces_never_meet() {
    let server = RedisServer::start(&[]);
    let stores = [within(&server, "a").await, within(&server, "ab").await, within(&server, "b-1").await];
    for (n, store) in stores.iter().enumerate() {
        store.put(&key(1), kv(1, n)).await.unwrap();
        let items = [(key(2), kv(2, n)), (key(n as u32 + 10), kv(1, n))];
        assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
    }
    for (n, store) in stores.iter().enumerate() {
        assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(1, n)));
        assert_eq!(keys(store, "").await.len(), 3);
        assert!(!store.exists(&key((n as u32 + 1) % 3 + 10)).await.unwrap());
    }
    assert!(stores[0].remove(&key(1)).await.unwrap());
    assert!(!stores[0].remove(&key(1)).await.unwrap());
    assert!(stores[1].exists(&key(1)).await.unwrap());
    // A half that is left is found, and removed, in its namespace.
    server.cli(&["DEL", &format!("ab:{}", kv_bytes(&key(1)))]);
    assert!(stores[1].get(&key(1)).await.unwrap().is_none());
    assert!(!names(&server).contains(&format!("ab:{}", metadata(&key(1)))));
    assert!(stores[2].exists(&key(1)).await.unwrap());
    let without = open(&server.url("redis")).await;
    assert!(!without.exists(&key(1)).await.unwrap());
}

#[tokio::test]
async fn an_access_list_can_confine_a_user_to_a_namespace() {
    let server = RedisServer::start(&["--user", "a", "on", ">pw", "~a:*", "+@all"]);
    let url = |namespace| format!("redis://a:pw@{}?namespace={namespace}", server.address());
    let store = open(&url("a")).await;
    store.put(&key(1), kv(1, 1)).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(1, 1)));
    assert!(store.remove(&key(1)).await.unwrap());
    assert_eq!(open(&url("b")).await.put(&key(1), kv(1, 1)).await.unwrap_err().kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_text_that_is_not_a_namespace_is_refused_when_the_store_opens() {
    let server = RedisServer::start(&[]);
    for wrong in ["", ".a", "a:b", "a/b", "a*"] {
        let e = connectors::open(&format!("{}?namespace={wrong}", server.url("redis"))).await;
        // An empty option counts as absent.
        assert!(wrong.is_empty() || e.is_err_and(|e| e.kind() == ErrorKind::InvalidOption), "{wrong}");
    }
}
