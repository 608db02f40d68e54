//! Passwords of the data servers and of the sentinels.

use std::sync::Arc;

use connectors::ErrorKind;
use kvconn_redis_server::{Certificates, Launch, SentinelGroup};

use crate::checked::{until, within};
use crate::{get, open, put};

fn protected() -> SentinelGroup {
    Launch::new(&["--requirepass", "hunter2"]).sentinels(3, 1, &["--requirepass", "swordfish"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_servers_and_sentinels_have_their_own_passwords() {
    within(async {
        let mut group = protected();
        let hosts = group.url("").trim_start_matches("://").to_owned();
        let url = format!("redis-sentinel://:hunter2@{hosts}/redismaster");
        let store = open(&format!("{url}?sentinel_password=swordfish")).await;
        put(&store, 1, 1).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let files = ["hunter2", "swordfish"].map(|secret| {
            let file = folder.path().join(secret);
            std::fs::write(&file, secret).unwrap();
            file.display().to_string()
        });
        let [data, sentinel] = files;
        let by_files =
            open(&format!("redis-sentinel://{hosts}?password_file={data}&sentinel_password_file={sentinel}")).await;
        assert_eq!(get(&by_files, 1).await.unwrap(), Some(1));
        tokio::task::block_in_place(|| group.failover());
        until("the stores follow", async || put(&store, 2, 1).await.is_ok() && put(&by_files, 3, 1).await.is_ok())
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_wrong_password_says_whose_it_is_and_is_not_shown() {
    let group = protected();
    let hosts = group.url("").trim_start_matches("://").to_owned();
    for (login, query, says) in [
        (":hunter2@", "", "`sentinel_password`"),
        (":hunter2@", "?sentinel_password=hunter2", "`sentinel_password`"),
        ("", "?sentinel_password=swordfish", "//user:password@host"),
        (":swordfish@", "?sentinel_password=swordfish", "//user:password@host"),
    ] {
        let opened = connectors::open(&format!("redis-sentinel://{login}{hosts}{query}")).await;
        let e = opened.expect_err("a password is missing or wrong");
        assert_eq!(e.kind(), ErrorKind::Denied, "{e:?}");
        let shown = format!("{e} {e:?}");
        assert!(e.hint().is_some_and(|hint| hint.contains(says)), "{login}{query}: {shown}");
        assert!(!shown.contains("hunter2") && !shown.contains("swordfish"), "{shown}");
    }
}

#[tokio::test]
async fn a_login_of_the_sentinels_is_given_once() {
    let url = "redis-sentinel://127.0.0.1:1?sentinel_password=hunter2&sentinel_password_file=/nowhere/file";
    let e = connectors::open(url).await.expect_err("two passwords");
    let shown = format!("{e} {e:?}");
    assert!(e.kind() == ErrorKind::InvalidOption && shown.contains("sentinel_password_file"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

/// The rights that docs/stores/redis.md names, and no others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_of_the_sentinels_needs_few_rights() {
    within(async {
        let rights = ["+ping", "+sentinel|get-master-addr-by-name", "+subscribe", "&*"];
        let user = ["--user", "kv", "on", ">swordfish", "-@all"].into_iter().chain(rights).collect::<Vec<_>>();
        let mut group = Launch::new(&[]).sentinels(3, 1, &user);
        let url = format!("{}?sentinel_username=kv&sentinel_password=swordfish", group.url("redis-sentinel"));
        let store = open(&url).await;
        put(&store, 1, 1).await.unwrap();
        tokio::task::block_in_place(|| group.failover());
        until("the store follows", async || put(&store, 2, 1).await.is_ok()).await;
        let e = connectors::open(&url.replace("sentinel_username=kv", "sentinel_username=other")).await;
        assert_eq!(e.expect_err("there is no such user").kind(), ErrorKind::Denied);
    })
    .await;
}

/// TLS to the sentinels and to the data servers, and passwords inside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_and_data_servers_speak_tls() {
    within(async {
        let certificates = Arc::new(Certificates::new());
        let launch = Launch::new(&["--requirepass", "hunter2"]).tls(&certificates);
        let mut group = launch.sentinels(3, 1, &["--requirepass", "swordfish"]);
        let hosts = group.url("").trim_start_matches("://").to_owned();
        let url = format!("redis-sentinel://:hunter2@{hosts}?sentinel_password=swordfish&replica_reads=true");
        let trusted = format!("{url}&tls=true&tls_ca={}", certificates.ca_pem().display());
        let store = open(&trusted).await;
        put(&store, 1, 1).await.unwrap();
        until("the put is there", async || get(&store, 1).await.unwrap() == Some(1)).await;
        tokio::task::block_in_place(|| group.failover());
        until("the store follows", async || put(&store, 2, 1).await.is_ok()).await;
        until("the put is there", async || get(&store, 2).await.unwrap() == Some(1)).await;
        let e = connectors::open(&format!("{url}&tls=true")).await.expect_err("no authority signed it");
        assert!(e.hint().is_some_and(|hint| hint.contains("tls_ca")), "{e:?}");
        connectors::open(&url).await.expect_err("the sentinels speak only TLS");
    })
    .await;
}
