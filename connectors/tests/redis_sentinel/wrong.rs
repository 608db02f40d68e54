//! Wrong URLs: each error says what to write.

use connectors::ErrorKind;
use kvconn_redis_server::{RedisServer, SentinelGroup};

/// The error of an open, and its whole text.
async fn refused(url: &str) -> (ErrorKind, String) {
    let e = connectors::open(url).await.err().unwrap_or_else(|| panic!("{url} opens"));
    (e.kind(), format!("{e} {}", e.hint().unwrap_or_default()))
}

#[tokio::test]
async fn a_wrong_service_lists_the_services_that_the_sentinels_know() {
    let group = SentinelGroup::start(3, 0, &[]);
    for rest in ["/mymaster", "?sentinel_service=mymaster"] {
        let (kind, shown) = refused(&format!("{}{rest}", group.url("redis-sentinel"))).await;
        assert_eq!(kind, ErrorKind::InvalidOption, "{shown}");
        assert!(shown.contains("no service `mymaster`") && shown.contains("it knows `redismaster`"), "{shown}");
    }
    let (kind, shown) = refused(&format!("{}/a?sentinel_service=b", group.url("redis-sentinel"))).await;
    assert!(kind == ErrorKind::InvalidUrl && shown.contains("names two services"), "{shown}");
    let (kind, shown) = refused("redis-sentinel:///redismaster").await;
    assert!(kind == ErrorKind::InvalidUrl && shown.contains("redis-sentinel://"), "{shown}");
    let (kind, shown) = refused(&format!("{}/a/2", group.url("redis-sentinel"))).await;
    assert!(kind == ErrorKind::InvalidUrl && shown.contains("`db`"), "{shown}");
}

#[tokio::test]
async fn a_data_server_is_not_a_sentinel() {
    let server = RedisServer::start(&[]);
    let (kind, shown) = refused(&server.url("redis-sentinel")).await;
    assert_eq!(kind, ErrorKind::Unavailable, "{shown}");
    let says = format!("{} is not a sentinel", server.address());
    assert!(shown.contains(&says) && shown.contains(&format!("write `redis://{}`", server.address())), "{shown}");
}

/// A sentinel without TLS waits for the end of its first command, and never answers.
#[tokio::test]
async fn a_sentinel_without_tls_leads_to_the_scheme_without_tls() {
    let group = SentinelGroup::start(1, 0, &[]);
    let url = format!("{}?tls_insecure=true&connect_timeout_ms=500", group.url("rediss-sentinel"));
    let (_, shown) = refused(&url).await;
    assert!(shown.contains("for a server without TLS"), "{shown}");
}

#[tokio::test]
async fn a_sentinel_is_not_a_data_server() {
    let group = SentinelGroup::start(1, 0, &[]);
    for scheme in ["redis", "resp"] {
        let (kind, shown) = refused(&group.sentinel(0).url(scheme)).await;
        assert_eq!(kind, ErrorKind::Unavailable, "{shown}");
        assert!(shown.contains("is a sentinel") && shown.contains("write `redis-sentinel://127.0.0.1:"), "{shown}");
    }
    // RESP2 has no answer that says it before the first call.
    let store = crate::open(&format!("{}?protocol=2", group.sentinel(0).url("redis"))).await;
    let e = crate::put(&store, 1, 1).await.expect_err("a sentinel stores nothing");
    assert!(e.hint().is_some_and(|hint| hint.contains("redis-sentinel://host:26379/service")), "{e:?}");
}

#[tokio::test]
async fn sentinels_that_are_away_are_a_temporary_error() {
    let closed = [RedisServer::start(&[]), RedisServer::start(&[])].map(|server| server.address());
    let url = format!("redis-sentinel://{},{}", closed[0], closed[1]);
    let e = connectors::open(&url).await.expect_err("no sentinel");
    assert!(e.kind() == ErrorKind::Unavailable && e.is_temporary(), "{e:?}");
    assert!(e.to_string().contains("none of 2 sentinels names the master of `redismaster`"), "{e}");
    let lazy = crate::open(&format!("{url}?connect=lazy")).await;
    let e = crate::put(&lazy, 1, 1).await.expect_err("no sentinel");
    assert!(e.kind() == ErrorKind::Unavailable && e.is_temporary(), "{e:?}");
}

#[tokio::test]
async fn a_user_who_may_not_ask_for_the_role_reads_so() {
    let group = SentinelGroup::start(1, 0, &["--user", "kv", "on", ">secret", "~*", "+@all", "-role"]);
    let hosts = group.url("").trim_start_matches("://").to_owned();
    let (kind, shown) = refused(&format!("redis-sentinel://kv:secret@{hosts}")).await;
    assert!(kind == ErrorKind::Denied && shown.contains("grant the command `role`"), "{shown}");
}
