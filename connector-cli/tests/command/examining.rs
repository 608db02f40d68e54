//! `kvconn doctor`.

use std::process::Command;
use std::sync::Arc;

use kvconn_cloud_servers::{Credentials, FakeS3};
use kvconn_redis_server::{Certificates, Launch, RedisCluster, RedisServer, SentinelGroup};
use serde_json::Value;

use super::{Finished, entries, file, kvconn, run, store};

/// The lines of a check: verdict, message and advice.
fn lines<'j>(json: &'j Value, check: &str) -> Vec<(&'j str, &'j str, Option<&'j str>)> {
    let checks = json["checks"].as_array().expect("there are checks");
    let line = |line: &'j Value| {
        (line["verdict"].as_str().unwrap(), line["message"].as_str().unwrap(), line["advice"].as_str())
    };
    checks.iter().filter(|line| line["check"] == check).map(line).collect()
}

/// The one line of a check.
#[track_caller]
fn line<'j>(json: &'j Value, check: &str) -> (&'j str, &'j str, &'j str) {
    let [(verdict, message, advice)] = lines(json, check)[..] else { panic!("one `{check}` is not in {json}") };
    (verdict, message, advice.unwrap_or_default())
}

#[track_caller]
fn has(line: (&str, &str, &str), verdict: &str, message: &str, advice: &str) {
    assert!(line.0 == verdict && line.1.contains(message) && line.2.contains(advice), "{line:?}");
    assert_eq!(line.0 == "ok", line.2.is_empty(), "only a problem has an advice: {line:?}");
}

fn doctor(url: &str, code: i32) -> Value {
    let json = run(&["doctor", url, "--json"]).exits(code).json();
    assert_eq!(json["passed"], code == 0, "{json}");
    json
}

#[test]
fn a_healthy_store_of_files_is_ok_and_keeps_no_chunk() {
    let (dir, url) = store();
    let shown = run(&["doctor", &url]).exits(0);
    for part in [
        "ok    url ",
        "ok    open ",
        "ok    directory ",
        "ok    put ",
        "ok    remove ",
        "ok    round trip ",
        "0 failed",
    ] {
        assert!(shown.text().contains(part), "{part}: {}", shown.text());
    }
    let json = doctor(&url, 0);
    assert_eq!(json["connector"], "kvconn.fs/FSConnector");
    for check in
        ["url", "open", "directory", "disk space", "exists", "put", "get", "list", "remove", "threads", "hash seed"]
    {
        assert_ne!(line(&json, check).0, "fail", "{json}");
    }
    has(line(&json, "put"), "ok", "1 MiB in ", "");
    assert!(entries(dir.path()).iter().all(|name| !name.contains("kvconn-doctor")), "{:?}", entries(dir.path()));
    // A file in place of the directory.
    let (_file, path) = file(b"x");
    has(line(&doctor(&format!("fs://{path}"), 1), "open"), "fail", &path, "");
    has(
        line(&doctor(&format!("{url}?capacity=900000000000000000"), 1), "capacity"),
        "fail",
        "file system",
        "set `capacity`",
    );
    has(line(&doctor("memory://x", 0), "get"), "ok", "1 MiB", "");
}

#[test]
fn a_wrong_url_or_option_is_a_failure_with_advice() {
    for (url, check, message, advice) in [
        ("redis://", "url", "", ""),
        ("memory://x?capcity=1", "options", "capcity", "capacity"),
        ("cassandra://h", "options", "cassandra", "kvconn"),
    ] {
        let json = doctor(url, 1);
        let found = json["checks"].as_array().expect("there are checks");
        let failed: Vec<&Value> = found.iter().filter(|line| line["verdict"] == "fail").collect();
        assert!(
            failed.len() == 1 && failed[0]["message"].as_str().is_some_and(|text| text.contains(message)),
            "{json}"
        );
        assert!(failed[0]["advice"].as_str().is_some_and(|text| text.contains(advice)), "{check}: {json}");
    }
    let json = doctor("redis://u:hunter2@127.0.0.1:1", 1);
    assert!(!json.to_string().contains("hunter2"), "{json}");
    has(line(&json, "name"), "ok", "127.0.0.1", "");
    has(line(&json, "tcp"), "fail", "127.0.0.1:1", "start the server");
    assert_eq!(line(&json, "open").0, "fail", "{json}");
    // A URL without a port has no line for it.
    for url in ["redis-sentinel://127.0.0.1/none", "redis://no-such-host.invalid"] {
        assert_eq!(line(&doctor(url, 1), "open").0, "fail", "{url}");
    }
    // A store that ignores the host of its URL fails for another reason.
    let json = doctor(
        "external://localhost:1/kvconn.tiered/?connector_name=TieredConnector&front=memory://a&back=redis://127.0.0.1:2",
        1,
    );
    has(line(&json, "open"), "fail", "127.0.0.1:2", "");
    has(line(&doctor("redis://no-such-host.invalid:6379", 1), "name"), "fail", "does not resolve", "spelling");
}

#[test]
fn the_memory_of_a_redis_has_a_verdict() {
    let redis = RedisServer::start(&[]);
    let url = redis.url("redis");
    let json = doctor(&url, 0);
    has(line(&json, "memory"), "warn", "no limit", "allkeys-lru");
    has(line(&json, "server"), "ok", "master", "");
    has(line(&json, "clock"), "ok", "within", "");
    assert_eq!(line(&json, "clients").0, "ok");
    redis.cli(&["config", "set", "maxmemory", "100mb"]);
    has(line(&doctor(&url, 0), "memory"), "warn", "`noeviction`", "puts fail when it is full");
    redis.cli(&["config", "set", "maxmemory-policy", "volatile-lru"]);
    has(line(&doctor(&url, 0), "memory"), "warn", "`volatile-lru`", "ttl_sec");
    has(line(&doctor(&format!("{url}?ttl_sec=60"), 0), "memory"), "ok", "`volatile-lru`", "");
    redis.cli(&["config", "set", "maxmemory-policy", "allkeys-lru"]);
    has(line(&doctor(&redis.url("resp"), 0), "memory"), "ok", "of 100.0 MiB in use, `allkeys-lru`", "");
    redis.cli(&["config", "set", "maxmemory-policy", "noeviction"]);
    redis.cli(&["config", "set", "maxmemory", "900kb"]);
    let json = doctor(&url, 1);
    has(line(&json, "memory"), "fail", "puts fail", "allkeys-lru");
    assert_eq!(line(&json, "put").0, "fail", "{json}");
    assert!(redis.cli(&["keys", "*doctor*"]).items().is_empty(), "no chunk is left");
}

#[test]
fn a_user_who_may_only_read_examines_without_a_put() {
    let redis = RedisServer::start(&[]);
    redis.cli(&["acl", "setuser", "reader", "on", ">pw", "~*", "-@all", "+@read", "+@connection", "+info", "+time"]);
    let url = redis.url("redis").replace("://", "://reader:pw@");
    has(line(&doctor(&url, 1), "put"), "fail", "set", "right");
    let json = run(&["doctor", &url, "--read-only", "--json"]).exits(0).json();
    for check in ["exists", "list", "round trip"] {
        assert_eq!(line(&json, check).0, "ok", "{json}");
    }
    for check in ["put", "get", "remove"] {
        assert!(lines(&json, check).is_empty(), "{json}");
    }
}

#[test]
fn a_user_without_a_right_learns_which_command_it_lacks() {
    let redis = RedisServer::start(&[]);
    redis.cli(&["acl", "setuser", "cache", "on", ">pw", "~*", "+@all", "-unlink", "-del", "-info", "-time"]);
    let url = redis.url("redis").replace("://", "://cache:pw@");
    let json = doctor(&url, 1);
    has(line(&json, "clock"), "ok", "does not answer `TIME`", "");
    has(line(&json, "server"), "warn", "refuses `INFO`", "+info");
    assert_eq!(line(&json, "put").0, "ok", "{json}");
    let (verdict, message, _) = line(&json, "remove");
    assert!(verdict == "fail" && (message.contains("unlink") || message.contains("del")), "{json}");
    let json = doctor(&redis.url("redis").replace("://", "://cache:hunter2@"), 1);
    assert_eq!(line(&json, "auth").0, "fail", "{json}");
    assert!(!json.to_string().contains("hunter2"), "{json}");
}

#[test]
fn tls_has_a_line_and_a_wrong_certificate_is_a_failure() {
    let certificates = Arc::new(Certificates::new());
    let redis = Launch::new(&["--port", "0"]).tls(&certificates).server();
    let ca = certificates.ca_pem();
    let url = redis.tls_url("rediss");
    let json = doctor(&format!("{url}?tls_ca={}", ca.display()), 0);
    has(line(&json, "tls"), "ok", "TLS 1.3, TLS13_", "");
    // Its authority is not known.
    assert!(line(&doctor(&url, 1), "open").2.contains("tls_ca"));
    let redis = Launch::new(&["--port", "0"]).tls_by(&certificates, certificates.expired()).server();
    let json = doctor(&format!("{}?tls_ca={}", redis.tls_url("rediss"), ca.display()), 1);
    assert!(line(&json, "open").1.contains("expired"), "{json}");
}

#[test]
fn a_cluster_and_a_group_of_sentinels_have_lines_for_all_servers() {
    let mut cluster = RedisCluster::start(3, 1, &["--cluster-node-timeout", "60000"]);
    let url = cluster.url("redis-cluster");
    let json = doctor(&url, 0);
    has(line(&json, "cluster"), "ok", "16384 of 16384 slots on 3 masters, with 3 replicas", "");
    assert_eq!(lines(&json, "server").len(), 6, "{json}");
    let replica = cluster.replicas_of(cluster.masters()[0])[0];
    cluster.kill(replica);
    let json = doctor(&url, 0);
    let warned: Vec<_> = lines(&json, "server").into_iter().filter(|line| line.0 == "warn").collect();
    assert!(warned.len() == 1 && warned[0].1.contains(&cluster.node(replica).address().to_string()), "{json}");

    let mut group = SentinelGroup::start(3, 1, &[]);
    let url = group.url("redis-sentinel");
    has(line(&doctor(&url, 0), "sentinels"), "ok", "3 of 3 answer", "");
    group.kill_sentinel(0);
    group.kill_sentinel(1);
    has(line(&doctor(&url, 1), "sentinels"), "fail", "1 of 3 answer", "majority");
}

#[test]
fn a_server_that_does_not_answer_is_a_failure_within_the_limit() {
    let redis = RedisServer::start(&[]);
    redis.stop_signal();
    let shown = run(&["doctor", &redis.url("redis"), "--timeout", "1", "--json"]).exits(1).json();
    redis.cont();
    has(line(&shown, "tcp"), "ok", "accepts connections", "");
    assert_eq!(line(&shown, "open").0, "fail", "{shown}");
}

#[test]
fn an_s3_store_has_lines_about_its_bucket_and_its_rights() {
    let fake = FakeS3::start();
    fake.bucket("chunks");
    let Credentials { access_key_id, secret_access_key, .. } = fake.credentials();
    let doctor = |bucket: &str, secret: &str, code| {
        let url = format!(
            "s3://{bucket}/kv?endpoint={}&region=us-east-1&access_key_id=${{KEY_ID}}&secret_access_key=${{SECRET}}",
            fake.endpoint()
        );
        let mut command: Command = kvconn(&["doctor", &url, "--json"]);
        command.env("KEY_ID", &access_key_id).env("SECRET", secret);
        let done = Finished::from(command.output().expect("it starts")).exits(code);
        assert!(!String::from_utf8_lossy(&done.out).contains(secret), "{done:?}");
        done.json()
    };
    let json = doctor("chunks", &secret_access_key, 0);
    has(line(&json, "bucket"), "ok", "`chunks` at http://127.0.0.1:", "");
    has(line(&json, "put"), "ok", "1 MiB", "");
    assert_eq!(fake.keys("chunks"), [""; 0]);
    assert_eq!(line(&doctor("chunks", "not-the-secret", 1), "auth").0, "fail");
    let json = doctor("missing", &secret_access_key, 1);
    has(line(&json, "options"), "fail", "`missing`", "create the bucket");
}
