//! The server denies a connection or a command.

use std::sync::Arc;

use connectors::ErrorKind;
use kvconn_redis_server::{Client, Proxy, RedisServer, Reply};
use tokio::task::JoinSet;

use crate::store::{Kind, Store, key, until};

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
        assert!(e.message().contains("NOPERM") && e.hint().unwrap().contains("`~NAME:*`"), "{e}");
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
    for opened in ["for small calls", "for chunks, too"] {
        let mut crowd = Vec::new();
        while let Some(client) = try_connect(&server) {
            crowd.push(client);
        }
        assert!(!crowd.is_empty(), "the store left no room to fill");
        let mut calls = JoinSet::new();
        for n in 0..32 {
            let store = store.clone();
            calls.spawn(async move {
                store.put(n, n, 100_000).await?;
                assert!(store.connector.exists(&key(n)).await?);
                store.get(n).await
            });
        }
        // No new connection, but each call gets one of those that are open.
        while let Some(answer) = calls.join_next().await {
            answer.expect("no call panics").unwrap_or_else(|e| panic!("with a connection {opened}: {e:?}"));
        }
        let numbers: Vec<_> = (0..32).collect();
        for (n, answer) in store.batched_get(&numbers).await.into_iter().enumerate() {
            assert_eq!(answer.unwrap(), Some(n as u64), "with a connection {opened}");
        }
        drop(crowd);
        until("the server has room", async || try_connect(&server).is_some()).await;
        admin.command(&["CONFIG", "SET", "maxclients", "100"]).expect("the server answers");
        until("the pool grows again", async || {
            store.batched_get(&numbers).await.into_iter().for_each(|answer| assert!(answer.unwrap().is_some()));
            let list = admin.command(&["CLIENT", "LIST"]).expect("the server answers");
            let list = String::from_utf8_lossy(list.bytes().expect("a text")).into_owned();
            list.lines().filter(|line| line.contains("name=kvconn")).count() > 3
        })
        .await;
        admin.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).expect("the server answers");
        store.is_right().await;
        admin.command(&["CONFIG", "SET", "maxclients", "8"]).expect("the server answers");
    }
    store.leaks_nothing().await;
}

pub(crate) async fn a_rotated_password_is_read_from_its_file_again(kind: Kind) {
    let server = RedisServer::start(&["--user", "reader", "on", ">first", "~*", "+@all"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let url = format!("{}?password_file={}", url(&server, kind, "reader"), file.display());
    let store = Store::open(&url).await;
    store.is_right().await;
    let mut admin = server.client();
    for password in ["second", "third"] {
        admin.command(&["ACL", "SETUSER", "reader", "resetpass", &format!(">{password}")]).unwrap();
        admin.command(&["CLIENT", "KILL", "USER", "reader"]).unwrap();
        let e = store.get(1).await.expect_err("the file holds the old password");
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::Denied, false), "{e}");
        std::fs::write(&file, password).unwrap();
        store.is_right().await;
        Store::open(&url).await.is_right().await;
    }
    // The file changes before the server does.
    std::fs::write(&file, "fourth").unwrap();
    admin.command(&["CLIENT", "KILL", "USER", "reader"]).unwrap();
    store.is_right().await;
    // The file is gone when the server changes.
    std::fs::remove_file(&file).unwrap();
    admin.command(&["ACL", "SETUSER", "reader", "resetpass", ">fifth"]).unwrap();
    admin.command(&["CLIENT", "KILL", "USER", "reader"]).unwrap();
    let e = store.get(1).await.expect_err("nothing holds the new password");
    assert!(e.kind() == ErrorKind::Denied && e.to_string().contains("`password_file`: cannot read"), "{e}");
    std::fs::write(&file, "fifth").unwrap();
    store.is_right().await;
}

pub(crate) async fn a_user_without_a_password_logs_in_or_is_refused(kind: Kind) {
    let users = ["--user", "free", "on", "nopass", "~*", "+@all", "--user", "closed", "on", ">secret", "~*", "+@all"];
    let server = RedisServer::start(&users);
    for protocol in ["2", "3", "auto"] {
        let free = Store::open(&format!("{}?protocol={protocol}", url(&server, kind, "free"))).await;
        free.is_right().await;
        let list = server.cli(&["CLIENT", "LIST"]);
        let list = String::from_utf8_lossy(list.bytes().expect("a text")).into_owned();
        let logged_in = |line: &&str| line.contains("name=kvconn") && !line.contains("user=free");
        assert_eq!(list.lines().find(logged_in), None);
        let closed = format!("{}?protocol={protocol}", url(&server, kind, "closed"));
        let e = Store::try_open(&closed).await.err().expect("the user has a password");
        assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
        assert!(e.hint().is_some_and(|hint| hint.contains("has a user and no password")), "{e}");
    }
}

pub(crate) async fn a_put_follows_the_master(kind: Kind) {
    let (old, new) = (RedisServer::start(&[]), RedisServer::start(&[]));
    let proxy = Proxy::start(old.address()).await;
    let store = Store::open(&proxy.url(kind.scheme)).await;
    for n in 0..4 {
        store.put(n, 1, 1000).await.unwrap();
    }
    old.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    for _ in 0..2 {
        let before = proxy.accepted();
        let e = store.put(1, 2, 1000).await.expect_err("a replica takes no writes");
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::ReadOnly, true), "{e}");
        assert_eq!(store.get(1).await.unwrap(), Some(1), "a replica still reads");
        assert!(proxy.accepted() > before, "the connection to the replica was closed");
    }
    store.put(1, 2, 1000).await.expect_err("a replica takes no writes");
    proxy.lead_to(new.address());
    store.put(1, 3, 1000).await.unwrap();
    store.is_right().await;
    assert_eq!(store.get(1).await.unwrap(), Some(3));
    assert!(new.cli(&["DBSIZE"]).integer().is_some_and(|n| n > 0));
    // Batches follow it, too, and calls that were in flight.
    new.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let items: Vec<_> = (0..64).map(|n| (key(n), crate::store::chunk(n, 5, 1000))).collect();
    assert!(store.connector.batched_put(&items).await.iter().all(Result::is_err));
    old.cli(&["REPLICAOF", "NO", "ONE"]);
    proxy.lead_to(old.address());
    let answers = store.connector.batched_put(&items).await;
    // The failed batch may have opened a connection that carried none of its chunks. Only its first put shows where it leads.
    if let Some(e) = answers.into_iter().find_map(Result::err) {
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::ReadOnly, true), "{e}");
        let again = store.connector.batched_put(&items).await;
        assert!(again.iter().all(Result::is_ok), "{:?}", again.iter().find(|answer| answer.is_err()));
    }
    store.is_right().await;
}

/// A connection, unless the server is at its limit.
fn try_connect(server: &RedisServer) -> Option<Client> {
    let mut client = Client::tcp(server.address()).expect("the kernel accepts it");
    matches!(client.command(&["PING"]), Ok(Reply::Simple(_))).then_some(client)
}
