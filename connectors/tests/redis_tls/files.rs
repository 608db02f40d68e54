//! The options of TLS, and the files that they name.

use std::fs;
use std::path::Path;
use std::process::Command;

use connectors::{Error, ErrorKind};
use kvconn_redis_server::{Certificate, Certificates, RedisServer};

use crate::checked::{chunk, key, until, within};

/// Fails at `open`, even if the server is not asked.
async fn refused(options: &str) -> Error {
    let url = if options.contains("://") { options.to_owned() } else { format!("redis://127.0.0.1:1?{options}") };
    let e = connectors::open(&format!("{url}&connect=lazy")).await.map(drop).expect_err("the option is wrong");
    assert_eq!(e.kind(), ErrorKind::InvalidOption, "{options}: {e}");
    e
}

#[track_caller]
fn says(e: &Error, parts: &[&str]) {
    for part in parts {
        assert!(e.to_string().contains(part), "`{part}`: {e}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_file_says_which_and_what_it_needs() {
    let authority = Certificates::new();
    let right = authority.client_cert();
    let file = |name: &str, text: &str| {
        let path = authority.dir().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let text = file("text.pem", "no certificate\n");
    let broken = file("broken.pem", "-----BEGIN CERTIFICATE-----\nhunter2!\n-----END CERTIFICATE-----\n");
    let broken_key = file("key.pem", "-----BEGIN PRIVATE KEY-----\nhunter2!\n-----END PRIVATE KEY-----\n");
    let odd_key = file("odd.pem", "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n");
    let inline = "-----BEGIN PRIVATE KEY-----hunter2";
    let missing = authority.dir().join("missing.pem").display().to_string();
    let folder = authority.dir().display().to_string();
    let (cert, key) = (right.cert.display().to_string(), right.key.display().to_string());
    let other_key = authority.client_cert().key.display().to_string();
    for (options, parts) in [
        (format!("tls_ca={text}"), ["`tls_ca`", "has no certificate", &text]),
        (format!("tls_ca={key}"), ["`tls_ca`", "has no certificate", &key]),
        (format!("tls_ca={broken}"), ["`tls_ca`", "it is not PEM", &broken]),
        (format!("tls_ca={missing}"), ["`tls_ca`", "No such file", &missing]),
        (format!("tls_ca={folder}"), ["`tls_ca`", "directory", &folder]),
        (format!("tls_cert={missing}&tls_key={key}"), ["`tls_cert`", "No such file", &missing]),
        (format!("tls_cert={text}&tls_key={key}"), ["`tls_cert`", "has no certificate", &text]),
        (format!("tls_cert={cert}&tls_key={missing}"), ["`tls_key`", "No such file", &missing]),
        (format!("tls_cert={cert}&tls_key={text}"), ["`tls_key`", "has no private key", &text]),
        (format!("tls_cert={cert}&tls_key={cert}"), ["`tls_key`", "must have no password", &cert]),
        (format!("tls_cert={cert}&tls_key={broken_key}"), ["`tls_key`", "it is not PEM", &broken_key]),
        (format!("tls_cert={cert}&tls_key={odd_key}"), ["`tls_key`", "cannot use the key", &odd_key]),
        (format!("tls_cert={cert}&tls_key={other_key}"), ["`tls_key`", "does not belong to", &other_key]),
        // A URL has no line breaks.
        (format!("tls_ca={inline}"), ["`tls_ca`", "cannot read `***`", "the path of a PEM file"]),
        (format!("tls_cert={inline}&tls_key={key}"), ["`tls_cert`", "cannot read `***`", "the path of a PEM file"]),
        (format!("tls_cert={cert}&tls_key={inline}"), ["`tls_key`", "cannot read `***`", "the path of a PEM file"]),
        ("tls_server_name=u:hunter2%40h".into(), ["`tls_server_name`", "`***`", "not a name"]),
        (format!("tls_cert={cert}"), ["`tls_cert`", "needs `tls_key`", "name it twice"]),
        (format!("tls_key={key}"), ["`tls_key`", "needs `tls_cert`", "set both"]),
    ] {
        let e = refused(&format!("{options}&tls=true")).await;
        says(&e, &parts);
        assert!(!format!("{e} {e:?}").contains("hunter2"), "{e:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_that_have_no_use_are_refused() {
    let authority = Certificates::new();
    let ca = authority.ca_pem().display().to_string();
    for (options, parts) in [
        (format!("tls_ca={ca}"), ["`tls_ca`", "without TLS", "`tls=true`"]),
        (format!("tls=false&tls_ca={ca}"), ["`tls_ca`", "without TLS", "remove it"]),
        ("tls_insecure=true".into(), ["`tls_insecure`", "without TLS", "`rediss://`"]),
        ("tls_server_name=h".into(), ["`tls_server_name`", "without TLS", "`resps://`"]),
        (format!("tls=true&tls_insecure=true&tls_ca={ca}"), ["`tls_ca`", "`tls_insecure`", "remove one"]),
        ("tls=true&tls_server_name=a b".into(), ["`tls_server_name`", "`a b`", "certificate"]),
        ("unix:///tmp/none?tls=true".into(), ["`tls`", "unix socket", "remove"]),
        ("unix:///tmp/none?tls_insecure=true".into(), ["`tls_insecure`", "unix socket", "remove"]),
    ] {
        says(&refused(&options).await, &parts);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_hangs_ends_with_the_time_of_open() {
    within(async {
        let dir = tempfile::tempdir().expect("a folder");
        let pipe = dir.path().join("ca.pem");
        let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
        assert!(made.success());
        let url = format!("rediss://127.0.0.1:1?tls_ca={}&timeout_ms=200", pipe.display());
        let e = connectors::open(&url).await.map(drop).expect_err("nothing writes to the pipe");
        assert_eq!((e.kind(), e.operation()), (ErrorKind::Timeout, Some("open")), "{e}");
        // The runtime waits for the thread that reads.
        fs::OpenOptions::new().write(true).open(&pipe).expect("the reader waits");
    })
    .await;
}

fn copy(from: &Certificate, to: &Path) {
    fs::copy(&from.cert, to.join("cert.pem")).expect("a file");
    fs::copy(&from.key, to.join("key.pem")).expect("a file");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_changed_is_read_again() {
    within(async {
        let server = RedisServer::start_tls(&["--tls-auth-clients", "yes"]);
        let authority = server.certificates();
        let dir = tempfile::tempdir().expect("a folder");
        copy(&authority.client_cert(), dir.path());
        let file = |name: &str| dir.path().join(name).display().to_string();
        let (ca, cert, cert_key) = (authority.ca_pem(), file("cert.pem"), file("key.pem"));
        let url =
            format!("{}?tls=true&tls_ca={}&tls_cert={cert}&tls_key={cert_key}", server.tls_url("resp"), ca.display());
        let store = connectors::open(&url).await.expect("the store opens");
        let cut = || server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        store.put(&key(1), chunk(1, 1, 1000)).await.expect("a put");
        copy(&Certificates::new().client_cert(), dir.path());
        cut();
        until("a stranger's certificate is refused", async || {
            store.get(&key(1)).await.is_err_and(|e| e.kind() == ErrorKind::Denied)
        })
        .await;
        copy(&authority.client_cert(), dir.path());
        until("kvconn reads the certificate", async || store.put(&key(1), chunk(1, 1, 1000)).await.is_ok()).await;
        // In the middle of a change kvconn keeps the old files.
        fs::write(&cert, "-----BEGIN CERT").expect("a file");
        cut();
        until("the old certificate stands", async || store.get(&key(1)).await.is_ok_and(|found| found.is_some())).await;
    })
    .await;
}
