//! Handshakes that fail say what to change.

use std::sync::Arc;

use connectors::ErrorKind::{Denied, Timeout, Unavailable};
use connectors::{Connector, Error, ErrorKind};
use kvconn_redis_server::{Certificate, Certificates, Launch, RedisServer};

use crate::checked::{chunk, key, version, within};

/// The options of a store that trusts the authority.
fn trusting(certificates: &Certificates) -> String {
    format!("?tls=true&connect_timeout_ms=10000&tls_ca={}", certificates.ca_pem().display())
}

fn with_client(certificate: &Certificate) -> String {
    format!("&tls_cert={}&tls_key={}", certificate.cert.display(), certificate.key.display())
}

async fn refused(url: &str) -> Error {
    connectors::open(url).await.map(drop).expect_err("the store does not open")
}

async fn opened(url: &str) -> Connector {
    let store = connectors::open(url).await.unwrap_or_else(|e| panic!("{url}: {e}"));
    store.put(&key(1), chunk(1, 7, 100_000)).await.expect("a put");
    let found = store.get(&key(1)).await.expect("a get").expect("the chunk is there");
    assert_eq!(version(1, &found), 7);
    store
}

#[track_caller]
fn says(e: &Error, kinds: &[ErrorKind], parts: &[&str]) {
    assert!(kinds.contains(&e.kind()), "{:?}: {e}", e.kind());
    for part in parts {
        assert!(e.to_string().contains(part), "`{part}`: {e}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_wrong_says_what_to_change() {
    within(async {
        let authority = Arc::new(Certificates::new());
        let trusted = trusting(&authority);

        let expired = Launch::new(&[]).tls_by(&authority, authority.expired()).server();
        let e = refused(&format!("{}{trusted}", expired.tls_url("redis"))).await;
        says(&e, &[Unavailable], &["expired", "renew the server's certificate", "clock"]);
        assert!(!e.is_temporary(), "a retry does not help: {e}");

        let other = Launch::new(&[]).tls_by(&authority, authority.server_cert(&["other.test"])).server();
        let url = format!("{}{trusted}", other.tls_url("resp"));
        says(&refused(&url).await, &[Unavailable], &["127.0.0.1", "other.test", "set `tls_server_name`"]);
        opened(&format!("{url}&tls_server_name=other.test")).await;
        says(&refused(&format!("{url}&tls_server_name=third.test")).await, &[Unavailable], &["third.test"]);

        let right = Launch::new(&[]).tls(&authority).server();
        let url = right.tls_url("redis");
        let stranger = Certificates::new();
        for options in [trusting(&stranger), "?tls=true".to_owned()] {
            says(&refused(&format!("{url}{options}")).await, &[Unavailable], &["set `tls_ca` to a PEM file"]);
        }
        opened(&format!("{url}?tls=true&tls_insecure=true")).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_is_the_hosts() {
    within(async {
        let authority = Arc::new(Certificates::new());
        let server = Launch::new(&[]).tls(&authority).server();
        let (trusted, port) = (trusting(&authority), server.tls_port());
        opened(&format!("redis://localhost:{port}{trusted}")).await;
        opened(&format!("resp://127.0.0.1:{port}{trusted}")).await;
        let signer = Launch::new(&[]).tls_by(&authority, authority.intermediate()).server();
        let e = refused(&format!("{}{trusted}", signer.tls_url("redis"))).await;
        says(&e, &[Unavailable], &["`CA:TRUE`", "sign a certificate for the server"]);
        if server.address_v6().is_some() {
            opened(&format!("redis://[::1]:{port}{trusted}")).await;
        }
        let named = Launch::new(&[]).tls_by(&authority, authority.server_cert(&["localhost"])).server();
        opened(&format!("redis://localhost:{}{trusted}", named.tls_port())).await;
        says(&refused(&format!("{}{trusted}", named.tls_url("redis"))).await, &[Unavailable], &["`tls_server_name`"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_its_absence_are_told_apart() {
    within(async {
        let server = RedisServer::start_tls(&["--requirepass", "hunter2"]);
        let trusted = trusting(server.certificates()).replace("10000", "1000");
        for scheme in ["redis", "resp"] {
            let e = refused(&format!("{scheme}://:hunter2@127.0.0.1:{}{trusted}", server.port())).await;
            // The server waits for the end of a line, which the handshake may have.
            says(&e, &[Timeout, Unavailable], &["for a server without TLS", "`redis://`"]);
            assert!(!e.to_string().contains("hunter2"), "{e}");
            for protocol in ["auto", "2", "3"] {
                let url = format!("{scheme}://:hunter2@127.0.0.1:{}?protocol={protocol}", server.tls_port());
                let e = refused(&url).await;
                says(&e, &[Unavailable], &["for a server with TLS", "`tls=true`", "`rediss://`"]);
                assert!(!e.to_string().contains("hunter2"), "{e}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_wants_a_certificate_gets_one_or_says_so() {
    within(async {
        let stranger = Certificates::new();
        for protocol in ["TLSv1.2", "TLSv1.3"] {
            let server = RedisServer::start_tls(&["--tls-auth-clients", "yes", "--tls-protocols", protocol]);
            let authority = server.certificates();
            for scheme in ["redis", "resp"] {
                let url = format!("{}{}", server.tls_url(scheme), trusting(authority));
                let e = refused(&url).await;
                says(&e, &[Denied], &["the server wants a client's certificate, set `tls_cert` and `tls_key`"]);
                let e = refused(&format!("{url}{}", with_client(&stranger.client_cert()))).await;
                says(&e, &[Denied], &["refuses the client's certificate", "check `tls_cert`"]);
                opened(&format!("{url}{}", with_client(&authority.client_cert()))).await;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_a_common_cipher_says_so() {
    within(async {
        let odd = ["--tls-protocols", "TLSv1.2", "--tls-ciphers", "ECDHE-ECDSA-AES128-SHA256"];
        let server = RedisServer::start_tls(&odd);
        let e = refused(&format!("{}{}", server.tls_url("redis"), trusting(server.certificates()))).await;
        says(&e, &[Denied, Unavailable], &["kvconn speaks TLS 1.2 and 1.3 with AES-GCM"]);
    })
    .await;
}
