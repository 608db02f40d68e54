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
