//! Each name goes to the node that has its slot, however the node announces itself.

use connector_core::conformance::Kit;
use connectors::{CacheKey, ErrorKind, LocalCpuBackend};
use std::sync::Arc;

use kvconn_redis_server::{Certificates, Launch, RedisCluster};

use crate::checked::chunk;
use crate::store::{Kind, Store, all_errors};

pub(crate) async fn the_contract_holds_for_one_writer_of_a_key(kind: Kind) {
    let cluster = RedisCluster::start(3, 1, &[]);
    let url = kind.url(&cluster, "");
    let open = move |backend: LocalCpuBackend| connectors::builder(&url).local_cpu_backend(backend).open();
    let report = Kit::new(open).run().await;
    let failures: Vec<_> = report.failures().collect();
    assert!(report.passed() && failures.is_empty(), "{failures:?}");
}

pub(crate) async fn each_name_goes_to_its_node_at_once(kind: Kind) {
    let cluster = RedisCluster::start(3, 0, &[]);
    let names = ["plain", "{tag}", "a{b}c", "a{}{b}", "a{b", "}a{b}", "{{a}}", "ä{ö}ü"];
    for options in ["", "&namespace=team", "&namespace=team.b_c-d"] {
        let store = Store::open(&kind.url(&cluster, options)).await.connector;
        let key = |(name, n): (&str, u64)| -> CacheKey { format!("{name}@1@0@{n:x}@half").parse().expect("a key") };
        let keys: Vec<CacheKey> = names.iter().flat_map(|name| (1..20).map(move |n| (*name, n))).map(key).collect();
        let items: Vec<_> = keys.iter().zip(0..).map(|(key, n)| (key.clone(), chunk(n, 1, 100))).collect();
        assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
        for (key, chunk) in &items {
            store.put(key, chunk.clone()).await.unwrap();
            assert_eq!(store.get(key).await.unwrap().as_ref(), Some(chunk));
            assert!(store.exists(key).await.unwrap());
        }
        for (got, (_, chunk)) in store.batched_get(&keys).await.into_iter().zip(&items) {
            assert_eq!(got.unwrap().as_ref(), Some(chunk));
        }
        assert!(store.batched_remove(&keys).await.into_iter().all(Result::unwrap));
    }
    for code in ["MOVED", "ASK", "CROSSSLOT"] {
        assert_eq!(all_errors(&cluster, code), 0, "{code}");
    }
}

pub(crate) async fn nodes_are_reached_by_the_addresses_that_they_announce(kind: Kind) {
    for args in [
        &["--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname"][..],
        // No node has a name: its address is among its other properties.
        &["--cluster-preferred-endpoint-type", "hostname"],
        // The host of the node that was asked.
        &["--cluster-preferred-endpoint-type", "unknown-endpoint"],
    ] {
        let cluster = RedisCluster::start(3, 0, args);
        let store = Store::open(&kind.url(&cluster, "")).await;
        store.is_right().await;
        // Redirections name nodes in the same way.
        let n = kind.numbers_at(&cluster, 0, 1)[0];
        store.put(n, 1, 1000).await.unwrap();
        cluster.move_slot(kind.slot(&cluster, &crate::checked::key(n)), 0, 1);
        assert_eq!(store.get(n).await.unwrap(), Some(1), "{args:?}");
    }
}

pub(crate) async fn nodes_behind_a_nat_are_reached_by_a_map(kind: Kind) {
    let args = ["--cluster-announce-hostname", "node.invalid", "--cluster-preferred-endpoint-type", "hostname"];
    let cluster = RedisCluster::start(3, 0, &args);
    let e = Store::open(&kind.url(&cluster, "")).await.put(1, 1, 10).await.expect_err("node.invalid has no address");
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    let port = |i: usize| cluster.node(i).port();
    let map: Vec<String> = (0..3).map(|i| format!("node.invalid:{}=127.0.0.1:{}", port(i), port(i))).collect();
    let store = Store::open(&kind.url(&cluster, &format!("&address_map={}", map.join(",")))).await;
    store.is_right().await;
    let n = kind.numbers_at(&cluster, 0, 1)[0];
    store.put(n, 1, 1000).await.unwrap();
    cluster.move_slot(kind.slot(&cluster, &crate::checked::key(n)), 0, 1);
    assert_eq!(store.get(n).await.unwrap(), Some(1));
}

pub(crate) async fn users_and_passwords_are_those_of_every_node(kind: Kind) {
    let cluster = RedisCluster::start(3, 0, &["--requirepass", "secret-word"]);
    let with = |login: &str| kind.url(&cluster, "").replacen("://", &format!("://{login}@"), 1);
    Store::open(&with(":secret-word")).await.is_right().await;
    for login in [":another-word", "nobody:secret-word"] {
        let e = Store::try_open(&with(login)).await.err().expect("the password is wrong");
        assert_eq!(e.kind(), ErrorKind::Denied, "{e}");
        assert!(!format!("{e} {e:?}").contains("-word"), "{e:?}");
    }
}

pub(crate) async fn nodes_over_tls_have_the_names_that_they_announce(kind: Kind) {
    let certificates = Arc::new(Certificates::new());
    let certificate = certificates.server_cert(&["node.invalid"]);
    let args = ["--cluster-announce-hostname", "node.invalid", "--cluster-preferred-endpoint-type", "hostname"];
    let cluster = Launch::new(&args).tls_by(&certificates, certificate).cluster(3, 0);
    let url = cluster.url("tls");
    let nodes = url.split(['/', ',']).filter_map(|node| node.rsplit_once(':'));
    let ports: Vec<&str> = nodes.map(|(_, port)| port).filter(|port| !port.is_empty()).collect();
    let map: Vec<String> = ports.iter().map(|port| format!("node.invalid:{port}=127.0.0.1:{port}")).collect();
    let url = format!("{}://node.invalid:{}{}", kind.scheme, ports[0], kind.options);
    let tls = format!("&tls=true&tls_ca={}&address_map={}", certificates.ca_pem().display(), map.join(","));
    Store::open(&format!("{url}{tls}")).await.is_right().await;
    // The certificate has no other name.
    let e = Store::try_open(&format!("{}{tls}", kind.url(&cluster, ""))).await.err().expect("another name");
    assert!(e.to_string().contains("node.invalid"), "{e}");
}
