//! Invalid URLs and URLs with a missing part.

use super::*;

#[tokio::test]
async fn a_port_out_of_range_is_refused_with_the_range() {
    for url in [
        "external://h:65536/kvconn.memory/?connector_name=MemoryConnector",
        "memory://a:99999999999999999999",
        "fs://h:-1/tmp",
        "redis://h:port",
        "redis-sentinel://h1:1,h2:65536/m",
    ] {
        assert_is(&connectors::open(url).await.unwrap_err(), ErrorKind::InvalidUrl, &["not a number from 0 to 65535"]);
    }
    assert_eq!(RemoteUrl::parse("redis://h:65535").unwrap().port(), Some(65535));
}

#[tokio::test]
async fn a_url_with_a_missing_part_is_refused_with_the_part_and_the_form_to_write() {
    use ErrorKind::InvalidUrl;
    assert_refused(&[
        ("", InvalidUrl, &["no `scheme://`", "write `scheme://host:port/path?option=value`"]),
        ("localhost:6379", InvalidUrl, &["no `scheme://`"]),
        ("/tmp/kv", InvalidUrl, &["no `scheme://`", "for a directory write `fs:///path`"]),
        ("://h:1", InvalidUrl, &["a scheme is letters"]),
        (" memory://a", InvalidUrl, &["starts or ends with a space"]),
        ("memory://a\u{7}", InvalidUrl, &["control character '\\u{7}'"]),
        ("external:///m/?connector_name=C", InvalidUrl, &["has no host", "write `external://host:port/m/`"]),
        ("external://h/m/?connector_name=C", InvalidUrl, &["has no port", "takes `:0`"]),
        ("external://h:0/m/", InvalidUrl, &["no `connector_name`", "module_path/?connector_name=ConnectorName"]),
        ("external://h:0/?connector_name=C", InvalidUrl, &["names no module"]),
        ("fs://", InvalidUrl, &["names no directory", "write `fs:///path`"]),
        ("fs://tmp/kv", InvalidUrl, &["host `tmp`, but no port", "`fs:///tmp/kv`"]),
        ("fs:///tmp/a,,/tmp/b", InvalidUrl, &["`/tmp/a,,/tmp/b` is empty"]),
        ("fs:///tmp/a?base_path=/tmp/b", InvalidUrl, &["gives the directory twice"]),
        ("fs:///tmp/kv#2", InvalidUrl, &["has a fragment (`#..`)", "write `%23`"]),
        ("memory://a?capacity=1#x", InvalidUrl, &["has a fragment (`#..`)"]),
        ("plugin://", InvalidUrl, &["names no plugin", "write `plugin://name`"]),
    ])
    .await;
}

#[tokio::test]
async fn a_url_without_its_two_slashes_is_refused_with_an_example_of_the_scheme() {
    use ErrorKind::InvalidUrl;
    assert_refused(&[
        (
            "redis:/h",
            InvalidUrl,
            &["no `://` follows the scheme", "write it as in `redis://user:password@host:6379/0`"],
        ),
        ("redis:h:1", InvalidUrl, &["starts with `redis`", "no `://` follows", "`redis://user:password@host:6379/0`"]),
        ("fs:/tmp/x", InvalidUrl, &["starts with `fs`", "no `://` follows", "write `fs:///tmp/x`"]),
        ("fs:/tmp/x?capacity=1", InvalidUrl, &["no `://` follows", "write it as in `fs:///var/cache/kv`"]),
        ("fs:tmp", InvalidUrl, &["no `://` follows", "write it as in `fs:///var/cache/kv`"]),
        ("unix:/run/x", InvalidUrl, &["write `unix:///run/x`"]),
        ("unix:/pw@/run/x", InvalidUrl, &["`unix:///run/redis.sock`"]),
        ("redis://u:p/w@h:1", InvalidUrl, &["not a number from 0 to 65535", "`/`, `?`, `#` and `@` of a password"]),
    ])
    .await;
}

#[tokio::test]
async fn a_scheme_with_tls_is_not_taken_for_one_without() {
    for (scheme, meant) in [
        ("redis+tls", "rediss"),
        ("redis+ssl", "rediss"),
        ("redis-ssl", "rediss"),
        ("resp+tls", "resps"),
        ("valkey+tls", "valkeys"),
        ("redis-cluster+tls", "rediss-cluster"),
        ("redis+tls-sentinel", "rediss-sentinel"),
    ] {
        let e = connectors::open(&format!("{scheme}://h:1")).await.unwrap_err();
        assert_is(&e, ErrorKind::NotFound, &[&format!("did you mean `{meant}`?"), &format!("as in `{meant}://")]);
    }
    let e = connectors::open("memorys://h").await.unwrap_err();
    assert_is(&e, ErrorKind::NotFound, &["asks for TLS"]);
    assert!(!e.to_string().contains("did you mean"), "{e}");
}

#[tokio::test]
async fn a_scheme_of_another_client_is_corrected() {
    for (scheme, meant) in [
        ("redis+sentinel", "redis-sentinel"),
        ("rediss+sentinel", "rediss-sentinel"),
        ("redis+cluster", "redis-cluster"),
        ("rediss+cluster", "rediss-cluster"),
        ("redis+unix", "unix"),
        ("redis-socket", "unix"),
        ("valkey-sync", "valkey"),
        ("valkey-cluster", "valkey"),
    ] {
        let e = connectors::open(&format!("{scheme}://h:1")).await.unwrap_err();
        assert_is(&e, ErrorKind::NotFound, &[&format!("did you mean `{meant}`?"), &format!("as in `{meant}://")]);
    }
}

#[tokio::test]
async fn an_option_of_another_client_is_corrected() {
    for (option, meant) in [
        ("ssl=true", "tls"),
        ("use_tls=true", "tls"),
        ("tls_enable=true", "tls"),
        ("ssl_ca_certs=/ca.pem", "tls_ca"),
        ("ssl_certfile=/c.pem", "tls_cert"),
        ("ssl_keyfile=/k.pem", "tls_key"),
        ("ssl_cert_reqs=none", "tls_insecure"),
        ("ssl_check_hostname=false", "tls_server_name"),
        ("cluster_mode=true", "cluster"),
        ("startup_nodes=h:1", "cluster"),
        ("num_workers=4", "connections"),
        ("socket_timeout=1", "io_timeout_ms"),
        ("read_from_replicas=true", "replica_reads"),
        ("ttl_seconds=1", "ttl_sec"),
        ("prefix=x", "key_prefix"),
        ("database_id=1", "database"),
        ("user=x", "username"),
    ] {
        for scheme in
            ["redis", "rediss", "redis-sentinel", "redis-cluster", "unix", "resp", "resps", "valkey", "valkeys"]
        {
            let is_redis = scheme.starts_with("redis") || scheme == "unix";
            let meant = match meant {
                "key_prefix" if is_redis => "namespace",
                "database" if is_redis => "db",
                meant => meant,
            };
            let at = if scheme == "unix" { "/run/x" } else { "h:1" };
            let e = connectors::open(&format!("{scheme}://{at}?{option}")).await.unwrap_err();
            assert_is(&e, ErrorKind::InvalidOption, &[&format!("did you mean `{meant}`?")]);
        }
    }
    for option in ["sentinel_master=m", "master_name=m", "service=m", "service_name=m"] {
        let e = connectors::open(&format!("redis-sentinel://h:1?{option}")).await.unwrap_err();
        assert_is(&e, ErrorKind::InvalidOption, &["did you mean `sentinel_service`?"]);
    }
    for scheme in ["redis", "resp"] {
        let e = connectors::open(&format!("{scheme}://h:1?mode=cluster")).await.unwrap_err();
        assert_is(&e, ErrorKind::InvalidOption, &["did you mean `cluster`?"]);
    }
}

#[tokio::test]
async fn a_part_of_a_url_that_its_store_ignores_is_refused() {
    use ErrorKind::{InvalidOption, InvalidUrl};
    let user = &["has a user or a password, which this store does not use"][..];
    assert_refused(&[
        ("memory://u:p@a", InvalidUrl, &["has a user or a password", "write the URL as in `memory://name`"]),
        ("memory://u@a", InvalidUrl, user),
        ("memory://:p@a", InvalidUrl, user),
        ("memory://a:1", InvalidUrl, &["has a port"]),
        ("memory://a/b", InvalidUrl, &["has a path"]),
        ("memory://a,b", InvalidUrl, &["has several hosts"]),
        ("blackhole://u@h", InvalidUrl, user),
        ("blackhole://h/path", InvalidUrl, &["has a path"]),
        ("mock://u:p@1", InvalidUrl, user),
        ("mock://1:2", InvalidUrl, &["has a port"]),
        ("mock://1/path", InvalidUrl, &["has a path"]),
        ("fs://u@h:0/tmp", InvalidUrl, user),
        ("fs://a:0,b:0/tmp", InvalidUrl, &["has several hosts"]),
        ("tiered://u:p@?front=memory://a&back=memory://b", InvalidUrl, user),
        ("tiered:///x?front=memory://a&back=memory://b", InvalidUrl, &["has a path"]),
        ("audit://u:p@h:0?actual_remote_url=memory://a", InvalidUrl, user),
        ("audit://h:0/x?actual_remote_url=memory://a", InvalidUrl, &["has a path"]),
        ("unix://h/run/redis.sock", InvalidUrl, &["has a host"]),
        ("unix://localhost:1/run/redis.sock", InvalidUrl, &["has a port"]),
        ("redis://h:1/0/extra", InvalidUrl, &["is not the number of a database"]),
        ("redis://h:1/0?db=1", InvalidUrl, &["names two databases"]),
        ("resp://h:1/0?database=1", InvalidUrl, &["names two databases"]),
        ("redis://a:1,b:1", InvalidUrl, &["names 2 servers", "`cluster=true`", "`redis-sentinel://"]),
        ("resp://a:1,b:1", InvalidUrl, &["names 2 servers", "`cluster=true`"]),
        ("unix://a,b/run/x", InvalidUrl, &["has a host"]),
        ("redis://u:p@h:1?password=q", InvalidUrl, &["gives the password twice"]),
        ("redis://u:p@h:1?username=q", InvalidUrl, &["gives the username twice"]),
        ("resp://u:p@h:1?password_file=/x", InvalidUrl, &["gives the password twice"]),
        ("external://u:p@h:0/kvconn.memory/?connector_name=MemoryConnector", InvalidUrl, user),
        ("memory://a#b", InvalidUrl, &["has a fragment"]),
        ("external://h:0/kvconn.memory/?connector_name=MemoryConnector#b", InvalidUrl, &["has a fragment"]),
        ("plugin://memory#b", InvalidUrl, &["has a fragment"]),
        ("memory://a?connector_name=MemoryConnector", InvalidOption, &["unknown URL option `connector_name`"]),
    ])
    .await;
    let plugin = config(&json!({"remote_storage_plugin.a.url": "memory://a"}));
    let e = connectors::builder("plugin://a?capacity=1").config(plugin).open().await.unwrap_err();
    assert_is(&e, InvalidOption, &["options that the store of plugin `a` does not read"]);
}
