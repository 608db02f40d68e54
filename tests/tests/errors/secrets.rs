//! No output shows a password, wherever the password is in the input.

use super::*;

/// A password in every place of a URL, in URLs that open and in URLs that fail at every stage.
const TEXTS_WITH_A_SECRET: &[&str] = &[
    // Where it belongs.
    "memory://u:hunter2@a",
    "memory://:hunter2@a",
    "memory://u:x@hunter2@a",
    "memory://u:hunter2@a?capcity=1",
    "memory://u:hunter2@a?capacity=lots",
    "memory://u:hunter2@a:99999",
    "memory://u:hunter2@,b:1",
    "memory://u:hunter2@[::1",
    "memory://u:hunter2@a:1\n",
    " memory://u:hunter2@a:1",
    "cassandra://u:hunter2@h:1",
    "external://u:hunter2@h1:0,h2:0/m/?connector_name=C",
    "external://u:hunter2@h:0/no.such/?connector_name=C",
    "external://u:hunter2@h:0/m/",
    "external://u:hunter2@h/m/?connector_name=C",
    "plugin://u:hunter2@name",
    "redis://hunter2@h:0",
    "fs://u:hunter2@h/tmp",
    "strict://u:hunter2@h:0?label=x",
    "redis://u:x,hunter2@h:0,i:0",
    // In the query.
    "strict://h:0?password=hunter2",
    "strict://h:0?pass%77ord=hunter2",
    "strict://h:0?tenant_code=hunter2&label=x",
    "strict://h:0?tenant_code=hunter2&lable=x",
    "strict://h:0?tenant_code=a&hunter2",
    "strict://h:0?tenant_code=a&hunter2=b",
    "strict://h:0?tenant_code=hunter2&tenant_code=hunter2",
    "strict://h:0?tenant_code_file=hunter2",
    "strict://h:0?tenant_code=x&tenant_code_file=hunter2",
    "strict://h:0?pasword=hunter2",
    "strict://h:0?token=hunter2",
    "strict://h:0?hunter2",
    "strict://h:0?a@hunter2=x",
    "strict://h:0?x%3Dhunter2=1",
    "strict://h:0?connections=redis://u:hunter2@h:1",
    "strict://h:0?connections=redis%3A%2F%2Fu%3Ahunter2%40h%3A1",
    "strict://h:0?connections=redis%253A%252F%252Fu%253Ahunter2%2540h%253A1",
    "strict://h:0?sizes=1,redis:u:hunter2",
    "strict://h:0?mode=u:hunter2",
    "strict://h:0?label=u:hunter2%40h:1",
    "strict://h:0?timeout_ms=u:hunter2%40h",
    "redis://h:0?password=hunter2&connections=lots",
    "redis://h:0?username=hunter2&connections=lots",
    "redis://h:0?protocol=redis:u:hunter2@h",
    // In a URL inside the query.
    "strict://h:0?back=redis://u:hunter2@h:1",
    "strict://h:0?back=redis%3A%2F%2Fu%3Ahunter2%40h%3A1",
    "strict://h:0?back=redis%3A%2F%2Fh%3A1%3Fpassword%3Dhunter2",
    "strict://h:0?back=strict%3A%2F%2Fh%3A1%3Ftenant_code%3Dhunter2",
    "strict://h:0?back=redis%3A%2F%2Fh%3A1%23hunter2",
    "strict://h:0?back=u:hunter2%40h",
    "tiered://?front=memory://a&back=redis://u:12/hunter2@h:1",
    "tiered://?front=memory://a&back=redis://u:12%2Fhunter2@h:1",
    "tiered://?front=memory://a&back=redis%3A%2F%2Fu%3A12%2Fhunter2%40h%3A1",
    "tiered://?front=memory://a&back=redis:u:hunter2%40h:1",
    "tiered://?front=memory://a&back=redis://h:1/hunter2",
    "audit://?actual_remote_url=redis:///u:hunter2@h:1",
    "audit://?actual_remote_url=strict%3A%2F%2Fh%3A0%3Ftenant_code%3Dhunter2%23y",
    // Cut by an unescaped character.
    "redis://u:12/hunter2@h:1",
    "redis://u:12?hunter2@h:1",
    "redis://u:12#hunter2@h:1",
    "redis://u:12/x?y#hunter2@h:1",
    "redis://:/hunter2@h:1",
    "redis://:?hunter2@h:1",
    "redis://u:hunter2/x@h:1",
    "redis://u:hunter2?x@h:1",
    "redis://u:hunter2#x@h:1",
    "redis://u:hunter2\\x@h:1",
    "redis://u:hunter2 x@h:1",
    "redis://u:12/x&hunter2@h:1?password=y",
    "resp://u:12/hunter2@h:1",
    "unix:///u:hunter2@/run/redis.sock",
    "unix:///run/redis.sock/u:hunter2@",
    "strict://u:12/hunter2@h:1",
    "external://u:12/hunter2@h:0/m/?connector_name=C",
    "external://h:0/m/?connector_name=hunter2@x",
    "external://h:0/hunter2@x/?connector_name=C",
    "plugin://u:12/hunter2@name",
    "strict://h:0?tenant_code=x#hunter2",
    "redis://h:1/0#password=hunter2",
    "redis://h:1/0?db=1#hunter2",
    // Without the parts that make it a URL.
    "h:6379?password=hunter2",
    "redis:u:hunter2@h:1?password=hunter2",
    "redis:/u:hunter2@h:1",
    "redis//u:hunter2@h:1",
    "redis:///u:hunter2@h:1",
    "redis:hunter2@h:1",
    "//u:hunter2@h:1",
    "u:hunter2@h:1",
    "hunter2@h:1",
    "redis;//u:hunter2@h:1",
    "redis://u:hunter2",
    "redis://u:hunter2@",
    "rediss://u:hunter2@h:1",
    "redis+tls://u:hunter2@h:1",
    // In a list of hosts.
    "redis-cluster://u:hunter2@h:1,h:1",
    "redis-cluster://h:1,u:hunter2@h:2",
    "redis-cluster://h:1,u:hunter2@h:2,u:hunter2@h:3",
    "redis-cluster://u:hunter2@h:1,h:1/hunter2@x",
    "redis-cluster://u:hunt,hunter2@h:1,h:1",
    "redis-cluster://u:12/hunter2@h:1,h:1",
    "redis-cluster://u:hunter2@h:1,",
    "redis-cluster://u:hunter2@h:1, h:1",
    "redis-cluster://u:hunter2@h:1,h:99999",
    "redis-cluster://u:hunter2@h:1?db=1",
    "redis-cluster://h:1,h:1?password=hunter2",
    "rediss-cluster://u:hunter2@h:1,h:1?tls_ca=/no/such/file",
    "redis-sentinel://u:hunter2@h:1,h:1/service",
    "redis-sentinel://u:hunter2@h:1/service/0",
    "redis-sentinel://u:12/hunter2@h:1,i:1/service",
    "redis-sentinel://h:1,h:1/service?sentinel_password=hunter2",
    "redis-sentinel://h:1,h:1/service?sentinel_username=hunter2",
    "redis-sentinel://h:1/service?sentinel_password=x&sentinel_password_file=hunter2",
    "redis://h:1?sentinel_password=hunter2",
    "redis://u:hunter2@h:1,i:1",
    "resp://u:hunter2@h:1,h:1?cluster=true",
    "resp://h:1,u:hunter2@i:1?cluster=true",
    "valkey://u:hunter2@h:1,i:1",
    "valkey://u:hunter2@h:1?mode=standalone&cluster=true",
    "valkeys://u:hunter2@h:1?tls=false",
    "valkey://h:1?key_prefix=u:hunter2@h",
    "redis://h:1?tls_ca=u:hunter2@h",
    "redis://h:1?ssl_ca_certs=hunter2",
    "tiered://?front=memory://a&back=redis-cluster://u:hunter2%40h:1,h:1",
    "://u:hunter2@h:1",
    "u:hunter2://h:1",
    "'redis://u:hunter2@h:1'",
    "url=redis://u:hunter2@h:1",
];

#[tokio::test]
async fn no_output_shows_a_secret_of_a_url() {
    for url in TEXTS_WITH_A_SECRET {
        let builder = connectors::builder(url);
        let mut shown = vec![format!("{builder:?} {builder:#?}"), connector_core::redact(url)];
        match RemoteUrl::parse(url) {
            Ok(parsed) => {
                shown.push(format!("{parsed} {parsed:?} {parsed:#?}"));
                if let Err(e) = parsed.require_host_port() {
                    shown.push(all_of(&e));
                }
                assert!(parsed.expose().contains(SECRET), "the connection itself needs it");
            }
            Err(e) => shown.push(all_of(&e)),
        }
        match builder.clone().build() {
            Ok(context) => shown.push(format!("{context:?} {context:#?} {}", context.connector_name())),
            Err(e) => shown.push(all_of(&e)),
        }
        match builder.open().await {
            Ok(connector) => shown.push(format!("{connector:?} {}", connector.name())),
            Err(e) => shown.push(all_of(&e)),
        }
        for name in [*url, url.split("://").last().unwrap_or_default()] {
            shown.extend(connector_core::registry::search(name).err().map(|e| all_of(&e)));
        }
        for text in shown {
            assert!(!text.contains(SECRET), "{url} is shown as\n{text}");
        }
    }
}

#[test]
fn a_url_is_shown_with_the_parts_that_hold_no_secret() {
    for (url, shown) in [
        ("redis://h:1", "redis://h:1"),
        ("redis://H:1/2", "redis://h:1/2"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("redis://u:pw@h:1/2", "redis://***@h:1/2"),
        ("redis://u@h:1", "redis://***@h:1"),
        ("redis://h:1/x", "redis://h:1/***"),
        ("redis://h:1?connections=2&password=x&timeout_ms=5", "redis://h:1?connections=2&password=***&timeout_ms=5"),
        ("redis://h:1?username=u&password_file=/run/pw", "redis://h:1?username=***&password_file=***"),
        ("redis://h:1?tls=yes", "redis://h:1?tls=yes"),
        ("redis://h:1?ssl=yes", "redis://h:1?***"),
        ("redis-cluster://u:p@h,[::1]:7/?tls_ca=/ca.pem", "redis-cluster://***@h,[::1]:7/?tls_ca=/ca.pem"),
        ("valkeys://:p@h:1,i/0?cluster=true&key_prefix=a", "valkeys://***@h:1,i/0?cluster=true&key_prefix=a"),
        ("redis://h:1?connections", "redis://h:1?connections"),
        ("redis://h:1#x", "redis://***"),
        ("redis://u:1/x@h", "redis://***"),
        ("unix://u:pw@/run/redis.sock?db=1", "unix://***@/run/redis.sock?db=1"),
        ("fs:///var/cache/kv?capacity=5", "fs:///var/cache/kv?capacity=5"),
        ("fs://h:0/a,/b", "fs://h:0/a,/b"),
        ("fs:///a@b", "fs://***"),
        ("memory://a/b", "memory://a/***"),
        ("strict://h:0/7?tenant_code=x&label=y", "strict://h:0/7?tenant_code=***&label=y"),
        ("strict://h:0?label=a%40b", "strict://h:0?label=***"),
        ("plugin://fs.primary", "plugin://fs.primary"),
        (
            "external://h:0/tests.strict/?connector_name=StrictConnector&tenant_code=x&label=y",
            "external://h:0/tests.strict/?connector_name=StrictConnector&tenant_code=***&label=y",
        ),
        ("external://h:0/m.n/?connector_name=C&x=1", "external://h:0/m.n/?connector_name=C&***"),
        (
            "tiered://?front=memory://a&back=redis%3A%2F%2Fu%3Apw%40h%3A1%2F0%3Fdb%3D0",
            "tiered://?front=memory://a&back=redis://***%40h:1/0?db=0",
        ),
        ("tiered://?front=${FRONT}&back=fs:///x", "tiered://?front=${FRONT}&back=fs:///x"),
        ("redis://h:1?password=${PW}&client_name=${NAME}", "redis://h:1?password=***&client_name=${NAME}"),
        ("cassandra://h:1/x", "cassandra://***"),
    ] {
        assert_eq!(RemoteUrl::parse(url).unwrap().to_string(), shown);
        assert_eq!(connector_core::redact(shown), shown, "a second redaction changes nothing");
    }
    for (text, shown) in [
        ("redis:u:X@h:1", "redis://***"),
        ("Redis//u:X@h:1", "redis://***"),
        ("h:6379?password=X", "***"),
        ("", ""),
        ("/var/cache", "/var/cache"),
    ] {
        assert_eq!(connector_core::redact(text), shown);
    }
}

#[tokio::test]
async fn no_output_shows_a_secret_of_the_configuration() {
    let configs = [
        json!({"strict_password": "hunter2"}),
        json!({"strict_password": ["hunter2"]}),
        json!({"strict_connections": "redis://u:hunter2@h:1"}),
        json!({"strict_connections": "u:hunter2"}),
        json!({"strict_tenant_code": ["hunter2"]}),
        json!({"strict_tenant_code": {"x": "hunter2"}}),
        json!({"strict_tenant_code_file": "hunter2"}),
        json!({"strict_tenant_code_file": ["hunter2"]}),
        json!({"strict_tenant_code": "x", "strict_tenant_code_file": "hunter2"}),
        json!({"strict_tenant_code": "hunter2${KVCONN_NOT_SET}"}),
        json!({"strict_back": "redis:u:hunter2@h"}),
        json!({"strict_back": ["redis://u:hunter2@h"]}),
        json!({"strict_sizes": ["hunter2"]}),
        json!({"strict_mode": {"hunter2": 1}}),
        json!({"remote_storage_plugin.strict.url": "redis://h:1#hunter2"}),
        json!({"remote_storage_plugin.strict.url": "redis:u:hunter2@h:1"}),
        json!({"remote_storage_plugin.strict.url": "strict://h:1?tenant_code=hunter2&sizes=x"}),
        json!({"remote_storage_plugin.strict.password": "hunter2"}),
        json!({"remote_storage_plugin.strict.url": "redis://u:hunter2@h:99999"}),
        json!({"remote_storage_plugin.strict.url": "plugin://u:hunter2@h:1"}),
        json!({"remote_storage_plugin.strict.url": ["redis://u:hunter2@h:1"]}),
        json!({"remote_storage_plugin.strict.url": "cassandra://u:hunter2@h:1"}),
    ];
    for extra in configs {
        let builder = connectors::builder("plugin://strict").config(config(&extra));
        let shown = [format!("{builder:?}"), all_of(&builder.open().await.unwrap_err())];
        for text in shown {
            assert!(!text.contains(SECRET), "{extra} is shown as\n{text}");
        }
    }
}

#[test]
fn a_written_secret_is_found_in_a_url_and_in_the_urls_of_its_query() {
    for (text, is_written) in [
        ("redis://u:hunter2@h:1", true),
        ("redis://h:1?password=hunter2", true),
        ("strict://h:0?tenant_code=hunter2", true),
        ("tiered://?front=memory://x&back=redis://u:hunter2@h:1", true),
        ("plugin://kv?password=hunter2", true),
        ("redis://u@h:1?password_file=/run/pw", false),
        ("redis://h:1?username=u&password=${PW}", false),
        ("redis://u:${PW}@h:1", false),
        ("redis://u:${A}hunter2${B}@h:1", true),
        ("redis://u:hunter2${A}@h:1", true),
        ("tiered://?front=memory://x&back=redis://h:1", false),
        ("plugin://kv?namespace=a", false),
    ] {
        let url: RemoteUrl = text.parse().unwrap();
        assert_eq!(url.has_written_secret(), is_written, "{text}");
    }
}
