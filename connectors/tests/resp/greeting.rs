//! Servers and proxies that refuse the newest greeting, logins, and stores that open before their servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use connectors::{Connect, Connector, Error, ErrorKind, MemoryObj};
use kvconn_redis_server::{RedisServer, fake};

use crate::key;

async fn refused(url: &str) -> Error {
    connectors::open(url).await.expect_err("the store does not open")
}

/// A server without RESP3 that answers `HELLO` with `refusal` and then takes `AUTH` with these words, or none at all.
/// Counts the connections.
fn without_hello(refusal: &'static str, auth: &'static [&'static str]) -> (u16, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let port = fake::listen(move |stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        let mut greeted = auth.is_empty();
        fake::answer(stream, move |words| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let answer = match words[..] {
                ["HELLO", ..] => format!("-{refusal}\r\n"),
                ["AUTH", ..] if words[1..] == *auth => {
                    greeted = true;
                    "+OK\r\n".into()
                }
                ["AUTH", ..] if auth.len() == 1 && words.len() == 3 => {
                    "-ERR wrong number of arguments for 'auth' command\r\n".into()
                }
                ["AUTH", ..] => "-WRONGPASS invalid username-password pair or user is disabled.\r\n".into(),
                _ if !greeted => "-NOAUTH Authentication required.\r\n".into(),
                ["CLIENT", ..] => "-ERR unsupported command\r\n".into(),
                ["PING"] => "+PONG\r\n".into(),
                ["STRLEN", ..] => ":1\r\n".into(),
                _ => "-ERR unknown command\r\n".into(),
            };
            Some(answer.into_bytes())
        });
    });
    (port, connections)
}

#[tokio::test]
async fn any_refusal_of_hello_leads_to_resp2() {
    for refusal in [
        "ERR unknown command `HELLO`, with args beginning with: `3`",
        "Unknown command 'HELLO'",
        "ERR Unknown command: HELLO",
        "ERR unsupported command 'HELLO'",
        "unsupported command",
        "ERR syntax error",
        "ERR Syntax error in HELLO option 'SETNAME'",
        "ERR wrong number of arguments for 'hello' command",
        "ERR command 'HELLO' is not allowed",
        "ERR This command is not available in your plan",
        "NOAUTH Authentication required.",
        "NOAUTH HELLO must be called with the client already authenticated",
        "NOPROTO unsupported protocol version",
        "NOPERM this user has no permissions to run the 'hello' command",
        "ERR Protocol version is not an integer or out of range",
    ] {
        let works = async |login: &str, auth| {
            let (port, connections) = without_hello(refusal, auth);
            let url = format!("resp://{login}127.0.0.1:{port}");
            let store = connectors::open(&url).await.unwrap_or_else(|e| panic!("{refusal}: {e}"));
            for _ in 0..3 {
                assert!(store.exists(&key(1)).await.unwrap(), "{refusal}");
            }
            assert_eq!(connections.swap(0, Ordering::SeqCst), 1, "{refusal}: the connection is used again");
            let e = refused(&format!("{url}?protocol=3")).await;
            assert!(matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::Denied), "{e}");
        };
        works("", &[]).await;
        works(":hunter2@", &["hunter2"]).await;
        works("default:hunter2@", &["hunter2"]).await;
        works("reader:hunter2@", &["reader", "hunter2"]).await;
        works("reader@", &["reader", ""]).await;
        for login in ["", ":other@", "reader:other@"] {
            let e = refused(&format!("resp://{login}127.0.0.1:{}", without_hello(refusal, &["hunter2"]).0)).await;
            assert!(e.kind() == ErrorKind::Denied || login.starts_with("reader"), "{refusal}: {e}");
            assert!(e.hint().is_some(), "{refusal}: {e}");
            assert!(!format!("{e:?}").contains("other"), "{e:?}");
        }
    }
}

#[tokio::test]
async fn a_wrong_password_is_not_sent_again_in_another_way() {
    for refusal in ["WRONGPASS invalid username-password pair or user is disabled.", "ERR invalid password"] {
        let logins = Arc::new(AtomicUsize::new(0));
        let port = fake::answering({
            let logins = logins.clone();
            move |words| {
                logins.fetch_add(1, Ordering::SeqCst);
                Some(if words[0] == "HELLO" { format!("-{refusal}\r\n") } else { "+OK\r\n".into() }.into_bytes())
            }
        });
        let e = refused(&format!("resp://reader:hunter2@127.0.0.1:{port}")).await;
        assert_eq!((e.kind(), logins.load(Ordering::SeqCst)), (ErrorKind::Denied, 1), "{e}");
    }
}

#[tokio::test]
async fn a_server_that_fails_after_hello_is_refused_with_the_option_to_try() {
    for answer in [None, Some("-ERR nothing is supported\r\n")] {
        let port = fake::listen(move |stream| {
            fake::answer(stream, move |_| answer.map(|answer| answer.as_bytes().to_vec()).or_else(|| Some(Vec::new())));
        });
        let url = format!("resp://127.0.0.1:{port}?connect_timeout_ms=1000");
        let e = refused(&url).await;
        assert!(answer.is_none() || e.to_string().contains("`protocol=2`"), "{e}");
    }
    let hangs_up = fake::listen(|mut stream| {
        let _ = std::io::Read::read(&mut stream, &mut [0; 100]);
    });
    let e = refused(&format!("resp://127.0.0.1:{hangs_up}")).await;
    assert!(e.to_string().contains("`protocol=2`"), "{e}");
    let e = refused(&format!("resp://127.0.0.1:{hangs_up}?protocol=2")).await;
    assert!(!e.to_string().contains("`protocol=2`"), "{e}");
}

#[tokio::test]
async fn errors_of_open_say_what_to_check() {
    let server = RedisServer::start(&["--user", "reader", "on", ">hunter2", "~*", "+@all"]);
    let guarded = RedisServer::start(&["--requirepass", "hunter2"]);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let silent = fake::answering(|_| None);
    for (url, kind, says) in [
        (format!("{}/99", server.url("resp")), ErrorKind::InvalidOption, &["database 99", "`databases`"][..]),
        (format!("redis://{}?db=99", server.address()), ErrorKind::InvalidOption, &["database 99", "`databases`"]),
        (format!("resp://127.0.0.1:{port}"), ErrorKind::Unavailable, &["does the server run", "is the port right"]),
        (
            "resp://no-such-host.invalid".into(),
            ErrorKind::Unavailable,
            &["no-such-host.invalid", "the name of the host"],
        ),
        ("unix:///no/such/socket".into(), ErrorKind::Unavailable, &["/no/such/socket", "`unixsocket`"]),
        (guarded.url("resp"), ErrorKind::Denied, &["NOAUTH", "//:password@host", "`password_file`"]),
        (guarded.url("resp") + "?protocol=2", ErrorKind::Denied, &["NOAUTH", "//:password@host"]),
        (format!("resp://:x@{}", guarded.address()), ErrorKind::Denied, &["WRONGPASS", "check user and password"]),
        (format!("resp://reader:x@{}", server.address()), ErrorKind::Denied, &["WRONGPASS", "`password_file`"]),
        (format!("resp://:x@{}?protocol=2", server.address()), ErrorKind::Denied, &["has no password", "remove"]),
        (
            format!("resp://127.0.0.1:{silent}?connect_timeout_ms=50"),
            ErrorKind::Timeout,
            &["did not answer within 50 ms", "`connect_timeout_ms`", "firewall"],
        ),
    ] {
        let e = refused(&url).await;
        assert_eq!(e.kind(), kind, "{url}: {e}");
        says.iter().for_each(|part| assert!(e.to_string().contains(part), "{url}: {part}: {e}"));
        assert!(!format!("{e:?}").contains("hunter2"), "{e:?}");
    }
    let store = connectors::open(&server.url("resp")).await.unwrap();
    let e = store.put(&key(1), MemoryObj::from(Vec::new())).await.unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidInput && e.to_string().contains("0 bytes"), "{e}");
}

async fn lazily(url: &str) -> Result<Connector, Error> {
    connectors::builder(url).connect(Connect::Lazy).open().await
}

#[tokio::test]
async fn a_lazy_store_opens_before_its_server() {
    for (scheme, options) in [("resp", ""), ("redis", ""), ("redis", "?ttl_sec=60"), ("resp", "?protocol=2")] {
        let mut server = RedisServer::start(&[]);
        server.kill9();
        let store = lazily(&format!("{}{options}", server.url(scheme))).await.unwrap();
        for _ in 0..10 {
            assert_eq!(store.get(&key(1)).await.unwrap_err().kind(), ErrorKind::Unavailable);
        }
        server.restart();
        let deadline = Instant::now() + Duration::from_secs(30);
        while store.ping().await.is_err() {
            assert!(Instant::now() < deadline, "the store finds its server");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        store.put(&key(1), MemoryObj::from(vec![7])).await.unwrap();
        assert_eq!(store.get(&key(1)).await.unwrap().as_deref(), Some(&[7][..]));
    }
}

#[tokio::test]
async fn a_lazy_open_waits_for_a_second_at_most() {
    let silent = fake::answering(|_| None);
    let begin = Instant::now();
    for url in [
        format!("resp://127.0.0.1:{silent}?connect_timeout_ms=60000"),
        format!("resp://127.0.0.1:{silent}?connect_timeout_ms=60000&connect=lazy"),
        "resp://no-such-host.invalid".into(),
        "unix:///no/such/socket".into(),
    ] {
        lazily(&url).await.unwrap_or_else(|e| panic!("{url}: {e}"));
    }
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    let e = lazily(&format!("resp://127.0.0.1:{silent}?connect_timeout_ms=50&connect=eager")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn a_lazy_open_refuses_a_wrong_answer() {
    let server = RedisServer::start(&["--requirepass", "hunter2"]);
    let few = ["--user", "few", "on", ">few", "~*", "+@all", "-multi", "-exec"];
    let rights = RedisServer::start(&few);
    let http = fake::listen(|mut stream| {
        use std::io::{Read, Write};
        let _ = stream.read(&mut [0; 100]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    for (url, kind) in [
        (server.url("resp"), ErrorKind::Denied),
        (format!("redis://:other@{}", server.address()), ErrorKind::Denied),
        (format!("redis://:hunter2@{}/99", server.address()), ErrorKind::InvalidOption),
        (format!("redis://few:few@{}?ttl_sec=9", rights.address()), ErrorKind::Denied),
        (format!("resp://127.0.0.1:{http}"), ErrorKind::Unavailable),
    ] {
        let e = lazily(&url).await.expect_err("a wrong answer");
        assert_eq!((e.kind(), e.is_temporary()), (kind, false), "{url}: {e}");
    }
}

/// The first server lets the user run transactions, and the next one does not.
#[tokio::test]
async fn rights_are_checked_on_each_connection() {
    let mut server = RedisServer::start(&["--user", "few", "on", ">few", "~*", "+@all"]);
    let store = connectors::open(&format!("redis://few:few@{}?ttl_sec=9", server.address())).await.unwrap();
    store.put(&key(1), MemoryObj::from(vec![7])).await.unwrap();
    server.cli(&["ACL", "SETUSER", "few", "-multi"]);
    server.cli(&["CLIENT", "KILL", "USER", "few"]);
    let e = store.put(&key(1), MemoryObj::from(vec![8])).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Denied && e.to_string().contains("`ttl_sec`"), "{e}");
    server.kill9();
}

#[tokio::test]
async fn a_server_that_is_starting_or_changing_is_asked_on_a_new_connection() {
    for refusal in [
        "READONLY You can't write against a read only replica.",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "NOREPLICAS Not enough good replicas to write.",
    ] {
        let connections = Arc::new(AtomicUsize::new(0));
        let port = fake::listen({
            let connections = connections.clone();
            move |stream| {
                let is_old = connections.fetch_add(1, Ordering::SeqCst) < 2;
                fake::answer(stream, move |words| {
                    Some(match words[0].as_str() {
                        "HELLO" => b"%1\r\n+proto\r\n:3\r\n".to_vec(),
                        "STRLEN" => b":1\r\n".to_vec(),
                        _ if is_old => format!("-{refusal}\r\n").into_bytes(),
                        _ => b"+OK\r\n".to_vec(),
                    })
                });
            }
        });
        let store = connectors::open(&format!("resp://127.0.0.1:{port}")).await.unwrap();
        let chunk = MemoryObj::from(vec![7]);
        let e = store.put(&key(1), chunk.clone()).await.unwrap_err();
        assert!(e.is_temporary() && e.hint().is_some(), "{e}");
        // The idle connection of the other pool leads to the same server.
        assert!(store.exists(&key(1)).await.unwrap());
        store.put(&key(1), chunk).await.unwrap_or_else(|e| panic!("{refusal}: {e}"));
        assert_eq!(connections.load(Ordering::SeqCst), 4, "{refusal}");
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_while_it_connects_leaves_the_next_one_right() {
    let connections = Arc::new(AtomicUsize::new(0));
    let port = fake::listen({
        let connections = connections.clone();
        move |stream| {
            // The first connection is the one of `open`.
            let is_silent = (1..4).contains(&connections.fetch_add(1, Ordering::SeqCst));
            fake::answer(stream, move |words| {
                (!is_silent).then(|| match words[0].as_str() {
                    "HELLO" => b"%1\r\n+proto\r\n:3\r\n".to_vec(),
                    _ => b"$1\r\nx\r\n".to_vec(),
                })
            });
        }
    });
    let store = connectors::open(&format!("resp://127.0.0.1:{port}?timeout_ms=1000")).await.unwrap();
    let (one, two, three) = (key(1), key(2), key(3));
    let mut dropped = [store.get(&one), store.get(&two), store.get(&three)].map(Box::pin);
    while connections.load(Ordering::SeqCst) < 4 {
        for get in &mut dropped {
            assert!(futures::poll!(get).is_pending());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(dropped);
    assert_eq!(store.get(&key(1)).await.unwrap().as_deref(), Some(&b"x"[..]));
}
