//! The server denies a connection or a command.

use std::sync::Arc;

use connectors::ErrorKind;
use kvconn_redis_server::{Client, RedisServer, Reply};
use tokio::task::JoinSet;

use crate::store::{Kind, Store, is_lost, key, until};

fn url(server: &RedisServer, kind: Kind, user: &str) -> String {
    format!("{}://{user}@{}", kind.scheme, server.address())
}

pub(crate) async fn a_wrong_password_is_denied_and_not_shown(kind: Kind) {
    let server = RedisServer::start(&["--requirepass", "right"]);
    let denied = async |url: String| {
        let e = Store::try_open(&url).await.err().expect("the server wants a password");
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::Denied, false), "{e}");
        assert!(e.hint().is_some(), "the error has a hint: {e:?}");
        for shown in [format!("{e}"), format!("{e:?}")] {
            assert!(!shown.contains("wr0ng"), "{shown}");
        }
    };
    denied(url(&server, kind, ":wr0ng")).await;
    denied(url(&server, kind, "nobody:wr0ng")).await;
    denied(server.url(kind.scheme)).await;
    let store = Store::open(&url(&server, kind, ":right")).await;
    store.is_right().await;
    // The password changes while the store is in use. Open connections stay, new ones are denied.
    let mut admin = server.client();
    admin.command(&["CONFIG", "SET", "requirepass", "changed"]).expect("the server answers");
    admin.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).expect("the server answers");
    let e = store.get(1).await.expect_err("the password has changed");
    assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
    assert!(!format!("{e:?}").contains("right"), "{e:?}");
    admin.command(&["CONFIG", "SET", "requirepass", "right"]).expect("the server answers");
    store.is_right().await;
}

pub(crate) async fn a_user_with_few_rights_is_denied_only_the_rest(kind: Kind) {
    let reader = ["--user", "reader", "on", ">few", "~*", "+get", "+mget", "+strlen", "+eval", "+evalsha"];
    let server = RedisServer::start(&reader);
    let admin = Store::open(&server.url(kind.scheme)).await;
    admin.put(1, 1, 100_000).await.unwrap();
    let store = Store::open(&url(&server, kind, "reader:few")).await;
    for _ in 0..3 {
        assert_eq!(store.get(1).await.unwrap(), Some(1));
        assert_eq!(store.get(2).await.unwrap(), None);
        assert!(store.connector.exists(&key(1)).await.unwrap());
        let e = store.put(2, 1, 2_000_000).await.expect_err("the user may not write");
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::Denied, false), "{e}");
        assert!(e.message().contains("NOPERM") && e.hint().is_some(), "{e}");
        let e = store.connector.remove(&key(1)).await.expect_err("the user may not remove");
        assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
    }
    store.leaks_nothing().await;
}

pub(crate) async fn a_server_at_its_limit_of_clients_is_unavailable_until_it_has_room(kind: Kind) {
    let server = RedisServer::start(&["--maxclients", "5"]);
    let mut admin = server.client();
    let crowd: Vec<_> = (0..4).map(|_| Client::tcp(server.address()).expect("there is room")).collect();
    let address = server.url(kind.scheme);
    let e = Store::try_open(&address).await.err().expect("the server is at its limit");
    assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::Unavailable, true), "{e}");
    drop(crowd);
    until("the server has room", async || Store::try_open(&address).await.is_ok()).await;
    admin.command(&["CONFIG", "SET", "maxclients", "100"]).expect("the server answers");
    Store::open(&address).await.is_right().await;
}

pub(crate) async fn calls_use_open_connections_when_new_ones_are_refused(kind: Kind) {
    let server = RedisServer::start(&["--maxclients", "8"]);
    let mut admin = server.client();
    let store = Arc::new(Store::open(&server.url(kind.scheme)).await);
    store.put(1, 1, 100_000).await.unwrap();
    let mut crowd = Vec::new();
    while let Some(client) = try_connect(&server) {
        crowd.push(client);
    }
    assert!(!crowd.is_empty(), "the store left no room to fill");
    let mut calls = JoinSet::new();
    for _ in 0..32 {
        let store = store.clone();
        calls.spawn(async move { store.get(1).await });
    }
    // Each call gets an answer over an open connection, or an error. No call waits for ever.
    while let Some(answer) = calls.join_next().await {
        match answer.expect("no call panics") {
            Ok(found) => assert_eq!(found, Some(1)),
            refused => is_lost(refused),
        }
    }
    drop(crowd);
    admin.command(&["CONFIG", "SET", "maxclients", "100"]).expect("the server answers");
    until("the store is back", async || store.get(1).await.is_ok()).await;
    store.is_right().await;
    store.leaks_nothing().await;
}

/// A connection, unless the server is at its limit.
fn try_connect(server: &RedisServer) -> Option<Client> {
    let mut client = Client::tcp(server.address()).expect("the kernel accepts it");
    matches!(client.command(&["PING"]), Ok(Reply::Simple(_))).then_some(client)
}
