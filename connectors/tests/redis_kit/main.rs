//! The conformance kit for redis and valkey on each topology, over TLS and with passwords. The tests of one topology have the
//! rest.
#![forbid(unsafe_code)]

use std::sync::Arc;

use connector_core::conformance::Kit;
use kvconn_redis_server::{Certificates, Launch, Program, RedisServer, SentinelGroup};

/// The number of checks that do not apply to the layout of two values, to the same on a cluster, and to plain values.
const REDIS_SKIPS: usize = 3;
const REDIS_CLUSTER_SKIPS: usize = 5;
const PLAIN_SKIPS: usize = 7;

/// Runs all checks against the store at each URL.
async fn conforms(urls: impl IntoIterator<Item = String>) {
    for url in urls {
        let report = Kit::from(connectors::builder(&url)).run().await;
        assert!(report.passed(), "{report}");
        let skips = match url.split("://").next() {
            Some("redis-cluster") => REDIS_CLUSTER_SKIPS,
            Some("resp" | "valkey") => PLAIN_SKIPS,
            _ => REDIS_SKIPS,
        };
        // A URL of several hosts, or of another scheme than a store's first, has no `external://` form.
        let is_short = !url.contains(',') && ["redis://", "resp://", "valkey://"].iter().any(|s| url.starts_with(s));
        assert_eq!(report.skipped().count(), skips + usize::from(!is_short), "{report}");
    }
}

fn valkey() -> Launch {
    Launch::new(&[]).program(Program::Valkey)
}

/// Servers with TLS and a password, and the options that trust them.
fn secured() -> (Launch, String, Arc<Certificates>) {
    let certificates = Arc::new(Certificates::new());
    let options = format!("tls=true&tls_ca={}", certificates.ca_pem().display());
    (Launch::new(&["--requirepass", "secret"]).tls(&certificates), options, certificates)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_valkey() {
    let server = RedisServer::start_program(Program::Valkey, &[]);
    conforms(["redis", "resp", "valkey"].map(|scheme| server.url(scheme))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_valkey() {
    let cluster = valkey().cluster(3, 0);
    conforms([cluster.url("redis-cluster"), format!("{}?cluster=true", cluster.url("valkey"))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_tls_and_a_password() {
    let (launch, options, _certificates) = secured();
    let cluster = launch.cluster(3, 1);
    let url = |scheme: &str| cluster.url(scheme).replace("://", "://:secret@");
    conforms([format!("{}?{options}", url("redis-cluster")), format!("{}?cluster=true&{options}", url("resp"))]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_of_redis_by_name_in_a_database() {
    let group = SentinelGroup::start(1, 0, &[]);
    let url = group.url("redis-sentinel");
    conforms([format!("{url}/redismaster?db=3&namespace=team-a&connections=2")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_of_valkey() {
    conforms([valkey().sentinels(3, 1, &[]).url("redis-sentinel")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_with_tls_and_passwords() {
    let (launch, options, _certificates) = secured();
    let group = launch.sentinels(3, 1, &["--requirepass", "few"]);
    let url = group.url("redis-sentinel").replace("://", "://:secret@");
    conforms([format!("{url}?sentinel_password=few&{options}")]).await;
}
