//! URLs, options, and servers of another kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use connectors::{Connector, ErrorKind, LMCacheEngineConfig, MemoryObj};

use kvconn_redis_server::{RedisServer, fake};

use crate::key;

async fn refused(url: &str) -> connectors::Error {
    connectors::open(url).await.expect_err("the store does not open")
}

#[tokio::test]
async fn a_server_of_another_kind_is_refused_with_its_answer() {
    let http = fake::listen(|mut stream| {
        use std::io::{Read, Write};
        let _ = stream.read(&mut [0; 100]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n\x1b[31m");
        let _ = stream.read(&mut [0; 100]);
    });
    let e = refused(&format!("resp://127.0.0.1:{http}")).await;
    assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::Unavailable, false));
    let text = e.to_string();
    assert!(text.contains(&format!("127.0.0.1:{http} is not a RESP server")), "{text}");
    assert!(text.contains("HTTP/1.1 400 Bad Request") && !text.contains(char::is_control), "{text}");

    let hangs_up = fake::listen(drop);
    let e = refused(&format!("resp://127.0.0.1:{hangs_up}")).await;
    assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::Unavailable, true));

    let silent = fake::answering(|_| None);
    let e = refused(&format!("resp://127.0.0.1:{silent}?connect_timeout_ms=50")).await;
    assert_eq!(e.kind(), ErrorKind::Timeout);
    assert!(e.to_string().contains(&format!("127.0.0.1:{silent} did not answer")), "{e}");
}

#[tokio::test]
async fn an_answer_of_another_kind_is_shown_as_text_without_the_password() {
    for (answer, shown) in [
        ("+yes, hunter2\r\n", "text that holds the password"),
        ("+maybe\r\n", "`maybe`"),
        ("%1\r\n+you\r\n+hunter2\r\n", "`a map`"),
        (":1\r\n", "`a value that is not text`"),
    ] {
        let port = fake::answering(move |_| Some(answer.into()));
        let e = refused(&format!("resp://u:hunter2@127.0.0.1:{port}")).await;
        assert!(e.to_string().contains(shown) && !format!("{e:?}").contains("hunter2"), "{e:?}");
    }
}

#[tokio::test]
async fn a_closed_port_is_unavailable() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let e = refused(&format!("resp://127.0.0.1:{port}")).await;
    assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::Unavailable, true));
    let e = refused("resp://no-such-host.invalid:6379").await;
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
}

#[tokio::test]
async fn an_old_server_is_greeted_in_resp2_and_no_error_shows_the_password() {
    let old = |knows_password: bool| {
        fake::answering(move |words| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            Some(
                match words[..] {
                    // Answers as redis 5 does.
                    ["HELLO", ..] => {
                        format!(
                            "-ERR unknown command `HELLO`, with args beginning with: `{}`\r\n",
                            words[1..].join("`, `")
                        )
                    }
                    ["AUTH", "hunter2"] if knows_password => "+OK\r\n".into(),
                    ["AUTH", ..] => format!("-ERR invalid password {}\r\n", words[1..].join(" ")),
                    ["CLIENT", ..] => "-ERR unknown command\r\n".into(),
                    ["SELECT", "3"] => "+OK\r\n".into(),
                    ["STRLEN", ..] => ":0\r\n".into(),
                    _ => "+PONG\r\n".into(),
                }
                .into_bytes(),
            )
        })
    };
    let store = connectors::open(&format!("resp://:hunter2@127.0.0.1:{}/3", old(true))).await.unwrap();
    assert!(!store.exists(&key(1)).await.unwrap());

    let e = refused(&format!("resp://:hunter2@127.0.0.1:{}", old(false))).await;
    assert_eq!(e.kind(), ErrorKind::Denied);
    assert!(!format!("{e} {e:?}").contains("hunter2"), "{e:?}");

    let e = refused(&format!("resp://:hunter2@127.0.0.1:{}?protocol=3", old(true))).await;
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(!format!("{e} {e:?}").contains("hunter2"), "{e:?}");
}

#[tokio::test]
async fn a_server_that_echoes_is_refused() {
    let echo = fake::listen(|mut stream| {
        let mut copy = stream.try_clone().expect("a second handle");
        let _ = std::io::copy(&mut copy, &mut stream);
    });
    for protocol in ["auto", "2", "3"] {
        let e = refused(&format!("resp://127.0.0.1:{echo}?protocol={protocol}")).await;
        assert_eq!((e.kind(), e.is_temporary()), (ErrorKind::Unavailable, false), "{e}");
        let e = refused(&format!("resp://:hunter2@127.0.0.1:{echo}?protocol={protocol}")).await;
        assert!(!format!("{e} {e:?}").contains("hunt"), "{e:?}");
    }
}

#[tokio::test]
async fn only_ok_is_a_success() {
    let port = fake::answering(|words| match words[0].as_str() {
        "HELLO" => Some(b"%1\r\n+proto\r\n:3\r\n".to_vec()),
        "SET" => Some(b"$-1\r\n".to_vec()),
        _ => Some(b":1\r\n".to_vec()),
    });
    let store = connectors::open(&format!("resp://127.0.0.1:{port}")).await.unwrap();
    let chunk = MemoryObj::from(b"chunk".to_vec());
    assert_eq!(store.put(&key(1), chunk.clone()).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let answer = store.batched_put(&[(key(1), chunk)]).await.remove(0);
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(store.ping().await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn an_array_as_the_answer_to_get_is_never_taken_for_the_next_chunk() {
    let port = fake::answering(|words| match (words[0].as_str(), words.last().map(String::as_str)) {
        ("HELLO", _) => Some(b"%1\r\n+proto\r\n:3\r\n".to_vec()),
        ("GET", Some("org/model@1@0@1@bfloat16")) => Some(b"*2\r\n$1\r\na\r\n$1\r\nb\r\n".to_vec()),
        ("GET", _) => Some(b"$5\r\nright\r\n".to_vec()),
        other => panic!("{other:?}"),
    });
    let store = connectors::open(&format!("resp://127.0.0.1:{port}?connections=1")).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(store.get(&key(2)).await.unwrap().as_deref(), Some(&b"right"[..]));
    let answers = store.batched_get(&[key(2), key(1), key(3), key(4)]).await;
    for (n, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(chunk) => assert!(n != 1 && chunk.as_deref() == Some(&b"right"[..])),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt),
        }
    }
}

#[tokio::test]
async fn a_reply_that_cannot_be_read_costs_one_key_of_a_batch() {
    let port = fake::answering(|words| match (words[0].as_str(), words.last().map(String::as_str)) {
        ("HELLO", _) => Some(b"%1\r\n+proto\r\n:3\r\n".to_vec()),
        ("STRLEN", Some("org/model@1@0@1@bfloat16")) => Some(b"not a reply\r\n".to_vec()),
        ("STRLEN", _) => Some(b":1\r\n".to_vec()),
        other => panic!("{other:?}"),
    });
    let store = connectors::open(&format!("resp://127.0.0.1:{port}")).await.unwrap();
    let answers = store.batched_exists(&[key(2), key(1), key(3)]).await;
    let kinds: Vec<_> = answers.into_iter().map(|answer| answer.map_err(|e| e.kind())).collect();
    assert_eq!(kinds, [Ok(true), Err(ErrorKind::Corrupt), Ok(true)]);
}

#[tokio::test]
async fn a_server_that_sends_no_replies_costs_a_batch_few_connections() {
    let greetings = Arc::new(AtomicUsize::new(0));
    let port = fake::answering({
        let greetings = greetings.clone();
        move |words| match words[0].as_str() {
            "HELLO" => {
                greetings.fetch_add(1, Ordering::SeqCst);
                Some(b"%1\r\n+proto\r\n:3\r\n".to_vec())
            }
            _ => Some(b"not a reply\r\n".to_vec()),
        }
    });
    let store = connectors::open(&format!("resp://127.0.0.1:{port}?connections=2")).await.unwrap();
    let keys: Vec<_> = (0..500).map(key).collect();
    assert!(store.batched_exists(&keys).await.into_iter().all(|answer| answer.is_err()));
    assert!(store.batched_get(&keys).await.into_iter().all(|answer| answer.is_err()));
    let connections = greetings.load(Ordering::SeqCst);
    assert!(connections <= 30, "1000 keys cost {connections} connections");
}

#[tokio::test]
async fn small_operations_do_not_wait_behind_a_chunk() {
    let port = fake::answering(|words| match words[0].as_str() {
        "HELLO" => Some(b"%1\r\n+proto\r\n:3\r\n".to_vec()),
        "STRLEN" => Some(b":1\r\n".to_vec()),
        // A chunk that starts and does not end.
        "GET" => Some(b"$1000000\r\nbytes".to_vec()),
        other => panic!("{other}"),
    });
    let store = connectors::open(&format!("resp://127.0.0.1:{port}?connections=1")).await.unwrap();
    let (one, two) = (key(1), key(2));
    let mut stuck = [store.get(&one), store.get(&two)].map(Box::pin);
    for _ in 0..100 {
        for get in &mut stuck {
            assert!(futures::poll!(get).is_pending());
        }
        assert!(store.exists(&one).await.unwrap());
    }
}

#[tokio::test]
async fn addresses_of_ipv6_are_served() {
    let server = RedisServer::start(&[]);
    let store = connectors::open(&format!("resp://[::1]:{}", server.port())).await.unwrap();
    store.ping().await.unwrap();
}

#[tokio::test]
async fn user_password_and_database_come_from_the_url_or_from_lmcaches_names() {
    let server = RedisServer::start(&["--user", "a@b", "on", ">p:w/%2F", "~*", "+@all", "--requirepass", "other"]);
    let stores = [
        connectors::open(&format!("resp://a%40b:p%3Aw%2F%252F@127.0.0.1:{}/5", server.port())).await.unwrap(),
        connectors::builder(&format!("{}?database=5", server.url("resp")))
            .config(
                LMCacheEngineConfig::default()
                    .with_extra_config("username", "a@b")
                    .with_extra_config("password", "p:w/%2F")
                    .with_extra_config("resp_num_threads", 3),
            )
            .open()
            .await
            .unwrap(),
        connectors::open(&format!("resp://:other@127.0.0.1:{}/5?protocol=2", server.port())).await.unwrap(),
        connectors::open(&format!("resp://default:other@127.0.0.1:{}", server.port())).await.unwrap(),
    ];
    stores[0].put(&key(1), MemoryObj::from(vec![7])).await.unwrap();
    let seen = |store: &Connector| {
        let store = store.clone();
        async move { store.exists(&key(1)).await.unwrap() }
    };
    assert!(seen(&stores[1]).await && seen(&stores[2]).await);
    assert!(!seen(&stores[3]).await, "another database");
}

#[tokio::test]
async fn wrong_urls_and_options_say_what_to_write() {
    for (url, kind, says) in [
        ("resp://h:1/x", ErrorKind::InvalidUrl, "the path of `resp://h:1/***` is not the number of a database"),
        ("resp://", ErrorKind::InvalidUrl, "names no server"),
        ("resp://a:1,b:2", ErrorKind::InvalidUrl, "names 2 servers, and this store takes one"),
        ("resp://a:1,a:1?cluster=true", ErrorKind::InvalidUrl, "names the node a:1 twice"),
        (
            "resp://a:1,u:p@b:1?cluster=true",
            ErrorKind::InvalidUrl,
            "`resp://***@b:1?cluster=true` has a comma before its `@`",
        ),
        ("resp://a:1,b:1/3?cluster=true", ErrorKind::InvalidOption, "a cluster has no database 3"),
        ("resp://h:1?refresh_ttl=true", ErrorKind::InvalidOption, "`refresh_ttl` needs `ttl_sec`"),
        ("resp://h:1?ttl_sec=0", ErrorKind::InvalidOption, "`ttl_sec`: 0 is not between 1 and"),
        ("resp://u:%FF@h:1", ErrorKind::InvalidUrl, "percent-decoded, it is not UTF-8"),
        ("resp://h:1?save_chunk_meta=true", ErrorKind::InvalidOption, "the chunk's bytes and nothing else"),
        ("resp://h:1?protocol=4", ErrorKind::InvalidOption, "`auto`, `2` or `3`"),
        ("resp://h:1?connections=0", ErrorKind::InvalidOption, "`connections`: 0"),
        ("resp://h:1?io_timeout_ms=0", ErrorKind::InvalidOption, "`io_timeout_ms`: 0"),
        ("resp://h:1?max_value_bytes=536870913", ErrorKind::InvalidOption, "`max_value_bytes`: 536870913"),
        ("resp://h:1?client_name=a%20b", ErrorKind::InvalidOption, "`client_name`"),
        (
            "resp://h:1?connections=2&min_idle=3",
            ErrorKind::InvalidOption,
            "`min_idle`: 3 is more than the 2 `connections`",
        ),
        ("resp://h:1?min_idle_conns=3", ErrorKind::InvalidOption, "did you mean `min_idle`"),
        ("resp://h:1?conections=2", ErrorKind::InvalidOption, "did you mean `connections`"),
    ] {
        let e = refused(url).await;
        assert!(e.kind() == kind && e.to_string().contains(says), "{url}: {e}");
    }
    let config = LMCacheEngineConfig::default().with_extra_config("save_chunk_meta", true);
    let e = connectors::builder("resp://h:1").config(config).open().await.unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidOption && e.to_string().contains("save_chunk_meta"), "{e}");
}

/// Counts the data commands of a server that treats them by `fate`, which knows how many its connection had before.
fn fated(fate: fn(usize) -> Fate) -> (u16, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let port = fake::listen({
        let asked = asked.clone();
        move |stream| {
            let (asked, socket) = (asked.clone(), stream.try_clone().expect("a second handle"));
            let mut before = 0;
            fake::answer(stream, move |words| {
                let answer: &[u8] = match words[0].as_str() {
                    "HELLO" => return Some(b"%1\r\n+proto\r\n:3\r\n".to_vec()),
                    "GET" => b"$1\r\nx\r\n",
                    "SET" => b"+OK\r\n",
                    _ => b":1\r\n",
                };
                asked.fetch_add(1, Ordering::SeqCst);
                let fate = fate(before);
                before += 1;
                match fate {
                    Fate::Answers => Some(answer.to_vec()),
                    Fate::IsSilent => None,
                    Fate::HangsUp => {
                        socket.shutdown(std::net::Shutdown::Both).expect("it was open");
                        None
                    }
                }
            });
        }
    });
    (port, asked)
}

enum Fate {
    Answers,
    IsSilent,
    HangsUp,
}

#[tokio::test]
async fn a_call_is_asked_once_more_only_if_a_used_connection_broke() {
    let chunk = MemoryObj::from(vec![b'x']);
    let asks = async |port: u16, asked: &AtomicUsize, calls: &[&str]| {
        let store = connectors::open(&format!("resp://127.0.0.1:{port}?io_timeout_ms=1000")).await.unwrap();
        let mut last = Ok(());
        for call in calls {
            last = match *call {
                "get" => store.get(&key(1)).await.map(drop),
                "put" => store.put(&key(1), chunk.clone()).await,
                "exists" => store.exists(&key(1)).await.map(drop),
                "remove" => store.remove(&key(1)).await.map(drop),
                other => panic!("{other}"),
            };
        }
        (last.map_err(|e| e.kind()), asked.swap(0, Ordering::SeqCst))
    };
    // A server that hangs up on the second command of each connection.
    let (port, asked) = fated(|before| if before == 0 { Fate::Answers } else { Fate::HangsUp });
    assert_eq!(asks(port, &asked, &["get", "get"]).await, (Ok(()), 3));
    assert_eq!(asks(port, &asked, &["put", "put"]).await, (Ok(()), 3));
    assert_eq!(asks(port, &asked, &["exists", "exists"]).await, (Ok(()), 3));
    assert_eq!(asks(port, &asked, &["exists", "remove"]).await, (Err(ErrorKind::Unavailable), 2), "never a removal");
    // On the first one: the connection of a call was new.
    let (port, asked) = fated(|_| Fate::HangsUp);
    assert_eq!(asks(port, &asked, &["get"]).await, (Err(ErrorKind::Unavailable), 1));
    // A timeout of kvconn's own.
    let (port, asked) = fated(|before| if before == 0 { Fate::Answers } else { Fate::IsSilent });
    assert_eq!(asks(port, &asked, &["get", "get"]).await, (Err(ErrorKind::Timeout), 2));
    assert_eq!(asks(port, &asked, &["put", "put"]).await, (Err(ErrorKind::Timeout), 2));
}

#[tokio::test]
async fn layerwise_mode_needs_a_store_that_keeps_layouts() {
    let server = RedisServer::start(&[]);
    let config = LMCacheEngineConfig::from_yaml("use_layerwise: true").unwrap();
    for scheme in ["resp", "valkey"] {
        let opened = connectors::builder(&server.url(scheme)).config(config.clone()).open().await;
        let e = opened.expect_err("no room for a layout");
        assert!(e.kind() == ErrorKind::InvalidOption && e.hint().is_some_and(|hint| hint.contains("redis://")), "{e}");
    }
    connectors::builder(&server.url("redis")).config(config).open().await.expect("`redis` has headers");
}
