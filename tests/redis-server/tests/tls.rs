//! Servers that speak TLS, checked by `openssl`'s client in `redis-cli`.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kvconn_redis_server::{Certificate, Certificates, Launch, RedisServer};

/// What `redis-cli` prints for a PING over TLS.
fn ping(port: u16, ca: &Path, client: Option<&Certificate>) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "--tls", "--cacert"]).arg(ca);
    if let Some(client) = client {
        command.arg("--cert").arg(&client.cert).arg("--key").arg(&client.key);
    }
    let output = command.arg("PING").output().expect("redis-cli starts");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_server_with_tls_speaks_it_on_a_port_of_its_own() {
    let server = RedisServer::start_tls(&[]);
    assert_eq!(ping(server.tls_port(), &server.certificates().ca_pem(), None), "PONG\n");
    let stranger = Certificates::new();
    let said = ping(server.tls_port(), &stranger.ca_pem(), None);
    assert!(said.contains("certificate verify failed"), "{said}");
    assert_eq!(server.tls_url("rediss"), format!("rediss://127.0.0.1:{}", server.tls_port()));
}

#[test]
fn a_server_can_demand_a_clients_certificate() {
    let server = RedisServer::start_tls(&["--tls-auth-clients", "yes"]);
    let ca = server.certificates().ca_pem();
    let said = ping(server.tls_port(), &ca, None);
    assert!(!said.contains("PONG"), "{said}");
    assert_eq!(ping(server.tls_port(), &ca, Some(&server.certificates().client_cert())), "PONG\n");
}

#[test]
fn a_server_can_have_an_expired_certificate() {
    let certificates = Arc::new(Certificates::new());
    let server = Launch::new(&[]).tls_by(&certificates, certificates.expired()).server();
    let said = ping(server.tls_port(), &certificates.ca_pem(), None);
    assert!(said.contains("certificate verify failed"), "{said}");
}
