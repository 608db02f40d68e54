//! The server behind TLS, and proxies in between.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use connectors::ErrorKind::{InvalidOption, Timeout, Unavailable};
use connectors::{Error, PoolAllocator};
use kvconn_cloud_servers::{FakeS3, Fault, Proxy, Then, TlsFront};
use kvconn_redis_server::{Certificate, Certificates};

use crate::call::{Call, End, each_call_under};
use crate::checked::{key, until, version, within};
use crate::store::{BUCKET, Store, connect, url};

const LARGE: usize = 8 << 20;

fn front(certificate: impl Fn(&Certificates) -> Certificate) -> (FakeS3, Certificates, TlsFront) {
    let fake = FakeS3::start();
    fake.bucket(BUCKET);
    let authority = Certificates::new();
    let front = TlsFront::start(fake.port(), &certificate(&authority));
    (fake, authority, front)
}

/// The store's URL at another endpoint than the server's own.
fn url_at(fake: &FakeS3, endpoint: &str, options: &str) -> String {
    let url = url(fake, &fake.credentials(), "us-east-1").replace(&fake.endpoint(), endpoint);
    format!("{url}&connect_timeout_ms=1000&retries=0{options}")
}

fn trusting(authority: &Certificates) -> String {
    format!("&tls_ca={}", authority.ca_pem().display())
}

/// A store that trusts the authority of its server.
async fn open() -> (Store, Certificates, TlsFront) {
    let (fake, authority, front) = front(Certificates::local);
    let pool = PoolAllocator::new(256 << 20);
    let url = url_at(&fake, &front.endpoint(), &trusting(&authority));
    let connector = connect(&url, &pool).await.unwrap_or_else(|e| panic!("the store opens: {e}"));
    (Store { fake, connector, pool }, authority, front)
}

async fn refused(url: &str) -> Error {
    let e = connect(url, &PoolAllocator::new(1 << 20)).await.expect_err("the store does not open");
    assert!(!e.to_string().contains("wJalrXUtnFEMI"), "{e}");
    e
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_are_whole_over_tls() {
    within(async {
        let (store, _authority, _front) = open().await;
        for n in 0..4 {
            store.connector.put(&key(n), store.chunk(n, 1, LARGE)).await.expect("a put");
            let chunk = store.connector.get(&key(n)).await.expect("a get").expect("the chunk is there");
            assert_eq!((version(n, &chunk), chunk.len()), (1, LARGE));
        }
        store.is_right().await;
        // The server ends TLS and the connections while they are idle.
        for _ in 0..5 {
            store.fake.disconnect();
            tokio::time::sleep(Duration::from_millis(20)).await;
            store.is_right().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_over_tls_end_as_without_it() {
    within(async {
        let (store, _authority, _front) = open().await;
        each_call_under(&store, &Fault::close(), |_| End::Fails(&[Unavailable])).await;
        each_call_under(&store, &Fault::cut_body(299_999), |call| match call.reads_chunks() {
            true => End::Fails(&[Unavailable]),
            false => End::May(&[Unavailable]),
        })
        .await;
        for call in [Call::Get, Call::Put] {
            store.fake.next(Fault::stall());
            let e = call.make(&store, 9_000).await.expect_err("the server stalls");
            assert_eq!(e.kind(), Timeout, "{call:?}: {e}");
        }
        store.is_right().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_over_tls_that_are_dropped_hold_nothing() {
    within(async {
        let (store, _authority, _front) = open().await;
        for fault in [Fault::stall(), Fault::early(1000, Then::Stall)] {
            store.fake.always(fault);
            for n in 0..20 {
                let (key, chunk) = (key(n), store.chunk(n, 1, LARGE));
                let put = store.connector.put(&key, chunk);
                let _ = tokio::time::timeout(Duration::from_millis(2 * n), put).await;
            }
            for n in 0..20 {
                let get = Call::GetInto.make(&store, n);
                let _ = tokio::time::timeout(Duration::from_millis(3), get).await;
            }
            until("the memory comes back", async || store.pool.stats().in_use == 0).await;
            store.fake.clear_faults();
            store.is_right().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_wrong_says_what_to_change() {
    within(async {
        type Sign = fn(&Certificates) -> Certificate;
        let stranger = Certificates::new();
        let other_name: Sign = |authority: &Certificates| authority.server_cert(&["other.test"]);
        let cases: [(Sign, bool, &str); 3] = [
            (Certificates::local, false, "set `tls_ca` to a PEM file"),
            (Certificates::expired, true, "renew the server's certificate"),
            (other_name, true, "with a host that the server's certificate names"),
        ];
        for (certificate, trusts, says) in cases {
            let (fake, authority, front) = front(certificate);
            let trusted = trusting(if trusts { &authority } else { &stranger });
            let e = refused(&url_at(&fake, &front.endpoint(), &trusted)).await;
            assert!(e.kind() == Unavailable && !e.is_temporary(), "{says}: {e:?}");
            assert!(e.to_string().contains(says), "{says}: {e}");
            assert!(fake.requests().is_empty(), "nothing is sent before the handshake");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_certificates_says_so_at_open() {
    within(async {
        let (fake, authority, front) = front(Certificates::local);
        let empty = authority.dir().join("empty.pem");
        std::fs::write(&empty, "no certificate\n").expect("a file");
        let missing = authority.dir().join("missing.pem");
        for (file, says) in [(empty, "has no certificate"), (missing, "kvconn cannot read")] {
            let options = format!("&connect=lazy&tls_ca={}", file.display());
            let e = refused(&url_at(&fake, &front.endpoint(), &options)).await;
            assert_eq!(e.kind(), InvalidOption, "{e}");
            let says = [says, "`tls_ca`", &*file.display().to_string(), "PEM file"];
            assert!(says.iter().all(|part| e.to_string().contains(part)), "{e}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_and_its_absence_are_told_apart() {
    within(async {
        let (fake, authority, front) = front(Certificates::local);
        // Without TLS to a port with TLS.
        let e = refused(&url_at(&fake, &front.endpoint().replace("https", "http"), "")).await;
        assert!(e.kind() == Unavailable && e.to_string().contains("`https://`"), "{e:?}");
        // With TLS to a port without: one that answers, and one that waits for more.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let _ = stream.read(&mut [0; 1000]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        });
        for (port, kind) in [(port, Unavailable), (fake.port(), Timeout)] {
            let e = refused(&url_at(&fake, &format!("https://localhost:{port}"), &trusting(&authority))).await;
            assert!(e.kind() == kind && e.to_string().contains("`http://`"), "{e:?}");
        }
        answering.join().expect("the server ends");
    })
    .await;
}

const CHILD: &str = "KVCONN_TEST_TLS_URL";

/// The environment is the process's, so each case has a process.
#[test]
fn authorities_and_proxies_come_from_the_environment() {
    if let Ok(url) = std::env::var(CHILD) {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        match runtime.block_on(connect(&url, &PoolAllocator::new(1 << 20))) {
            Ok(_) => println!("opened"),
            Err(e) => println!("{:?}: {e}", e.kind()),
        }
        return;
    }
    let (fake, authority, front) = front(Certificates::local);
    let child = |url: &str, variables: &[(&str, &str)]| {
        let mut command = std::process::Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "tls::authorities_and_proxies_come_from_the_environment", "--nocapture"]);
        command.env_clear().env(CHILD, url).envs(variables.iter().copied());
        let output = command.output().expect("the test runs itself");
        let said = String::from_utf8(output.stdout).expect("text") + &String::from_utf8_lossy(&output.stderr);
        assert!(!said.contains("hunter2") && !said.contains("wJalrXUtnFEMI"), "{said}");
        said
    };
    let url = url_at(&fake, &front.endpoint(), "");
    let pem = authority.ca_pem().display().to_string();
    let (dir, empty) = (authority.dir().display().to_string(), authority.dir().join("empty"));
    std::fs::create_dir(&empty).expect("a folder");
    let (missing, empty) = (format!("{dir}/missing.pem"), empty.display().to_string());
    let expect = |url: &str, variables: &[(&str, &str)], says: &[&str]| {
        let said = child(url, variables);
        assert!(says.iter().all(|part| said.contains(part)), "{variables:?} {says:?}: {said}");
    };

    expect(&url, &[("SSL_CERT_FILE", &pem)], &["opened"]);
    expect(&url, &[("SSL_CERT_DIR", &dir)], &["opened"]);
    // The variables name no certificate.
    let none = "correct or unset the variable, or set the option `tls_ca`";
    expect(&url, &[("SSL_CERT_DIR", &empty)], &["InvalidOption", "names no TLS certificate", none]);
    expect(&url, &[("SSL_CERT_FILE", &missing)], &["InvalidOption", &missing, none]);
    expect(&format!("{url}{}", trusting(&authority)), &[("SSL_CERT_DIR", &empty)], &["opened"]);

    let proxy = Proxy::start(Some("kv:right"));
    let url = format!("{url}{}", trusting(&authority));
    let target = format!("localhost:{}", front.port());
    expect(&url, &[("HTTPS_PROXY", &proxy.url(Some("kv:right")))], &["opened"]);
    assert_eq!(proxy.tunnels(), [target]);
    let login = ["Denied", "the proxy asks for a login", "`HTTPS_PROXY`"];
    expect(&url, &[("HTTPS_PROXY", &proxy.url(Some("kv:hunter2")))], &login);
    expect(&url, &[("https_proxy", &proxy.url(None))], &login);
    expect(&url, &[("HTTPS_PROXY", &proxy.url(Some("kv:hunter2"))), ("NO_PROXY", "localhost")], &["opened"]);
    expect(
        &url,
        &[("HTTPS_PROXY", "http://kv:hunter2@127.0.0.1:1")],
        &["Unavailable", "through the proxy", "`NO_PROXY`"],
    );
    expect(&url, &[("HTTPS_PROXY", "socks5://kv:hunter2@127.0.0.1:1")], &["InvalidOption", "`socks5`", "`NO_PROXY`"]);
    assert_eq!(proxy.tunnels().len(), 1, "no other tunnel");

    // Without TLS, a proxy gets the request itself.
    let plain = url_at(&fake, &fake.endpoint(), "");
    let proxies = [("HTTP_PROXY", &*proxy.url(Some("kv:hunter2")))];
    expect(&plain, &proxies, &["Denied", "the proxy asks for a login", "`HTTP_PROXY`"]);
}
