//! Sentinels that disagree, and masters that were replaced and still take writes. Fake sentinels name real masters.

use std::io::Write;
use std::sync::{Arc, Mutex};

use kvconn_redis_server::{RedisServer, fake};

use crate::checked::{until, within};
use crate::{connections, get, open, put};

/// The answers of a fake sentinel.
#[derive(Clone)]
struct Says {
    host: &'static str,
    port: u16,
    epoch: u64,
}

/// A sentinel that answers as the test says, and announces each change to its subscribers.
struct FakeSentinel {
    port: u16,
    says: Arc<Mutex<Says>>,
    subscribers: Arc<Mutex<Vec<std::net::TcpStream>>>,
}

fn bulks(texts: &[&str]) -> String {
    let each = texts.iter().map(|text| format!("${}\r\n{text}\r\n", text.len()));
    format!("*{}\r\n{}", texts.len(), each.collect::<String>())
}

impl FakeSentinel {
    fn start(says: Says) -> Self {
        let (says, subscribers) = (Arc::new(Mutex::new(says)), Arc::<Mutex<Vec<std::net::TcpStream>>>::default());
        let port = fake::listen({
            let (says, subscribers) = (says.clone(), subscribers.clone());
            move |stream| {
                let other = stream.try_clone().expect("a socket can be cloned");
                fake::answer(stream, |words| {
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    let Says { host, port, epoch } = says.lock().unwrap().clone();
                    let (port, epoch) = (port.to_string(), epoch.to_string());
                    let answer = match words[..] {
                        ["PING"] => "+PONG\r\n".to_owned(),
                        ["CLIENT", ..] => "+OK\r\n".to_owned(),
                        ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", _] => bulks(&[host, &port]),
                        ["SENTINEL", "MASTER", name] => bulks(&["name", name, "config-epoch", &epoch]),
                        ["SENTINEL", ..] => "*0\r\n".to_owned(),
                        ["SUBSCRIBE", ..] => {
                            subscribers.lock().unwrap().push(other.try_clone().expect("a socket can be cloned"));
                            let one =
                                |name: &&str| format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{name}\r\n:1\r\n", name.len());
                            words[1..].iter().map(one).collect()
                        }
                        _ => format!("-ERR unknown command '{}'\r\n", words[0]),
                    };
                    Some(answer.into_bytes())
                });
            }
        });
        Self { port, says, subscribers }
    }

    fn url(&self) -> String {
        format!("redis-sentinel://127.0.0.1:{}", self.port)
    }

    fn switch(&self, says: Says) {
        let old = std::mem::replace(&mut *self.says.lock().unwrap(), says.clone());
        let message = format!("redismaster {} {} {} {}", old.host, old.port, says.host, says.port);
        let bytes = bulks(&["message", "+switch-master", &message]).into_bytes();
        self.subscribers.lock().unwrap().retain_mut(|subscriber| subscriber.write_all(&bytes).is_ok());
    }

    async fn has_subscriber(&self) {
        until("the store subscribes", async || !self.subscribers.lock().unwrap().is_empty()).await;
    }
}

fn at(server: &RedisServer, epoch: u64) -> Says {
    Says { host: "127.0.0.1", port: server.port(), epoch }
}

fn values(server: &RedisServer) -> i64 {
    server.cli(&["DBSIZE"]).integer().expect("a number")
}

/// Both servers say that they are masters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_master_that_still_takes_writes_gets_none() {
    within(async {
        let (old, new) = (RedisServer::start(&[]), RedisServer::start(&[]));
        let sentinel = FakeSentinel::start(at(&old, 1));
        let behind = FakeSentinel::start(at(&old, 1));
        let store = open(&format!("{},127.0.0.1:{}", sentinel.url(), behind.port)).await;
        put(&store, 1, 1).await.unwrap();
        assert_eq!(values(&old), 2);
        sentinel.has_subscriber().await;
        behind.has_subscriber().await;
        sentinel.switch(at(&new, 2));
        until("the store leaves the old master", async || connections(&old) == 0).await;
        put(&store, 2, 1).await.unwrap();
        // A sentinel that missed the failover does not move the store back to the old master.
        behind.switch(at(&old, 1));
        new.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        for n in 3..50 {
            put(&store, n, 1).await.unwrap();
        }
        assert_eq!((values(&old), values(&new)), (2, 2 * 48));
        assert_eq!(get(&store, 2).await.unwrap(), Some(1));
    })
    .await;
}

/// An operator removed the service from the sentinels and added it again: they count from 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_count_anew_are_believed_once_they_agree() {
    within(async {
        let (mut old, new) = (RedisServer::start(&[]), RedisServer::start(&[]));
        let sentinel = FakeSentinel::start(at(&old, 7));
        let store = open(&sentinel.url()).await;
        put(&store, 1, 1).await.unwrap();
        *sentinel.says.lock().unwrap() = at(&new, 0);
        old.kill9();
        until("the store follows", async || put(&store, 1, 2).await.is_ok()).await;
        assert_eq!(values(&new), 2);
    })
    .await;
}

#[tokio::test]
async fn a_sentinel_names_the_master_by_host_name_or_ipv6_address() {
    let server = RedisServer::start(&[]);
    let hosts = if server.address_v6().is_some() { &["localhost", "::1"][..] } else { &["localhost"] };
    for host in hosts {
        let sentinel = FakeSentinel::start(Says { host, port: server.port(), epoch: 1 });
        let store = open(&sentinel.url()).await;
        put(&store, 1, 1).await.unwrap();
        assert_eq!(get(&store, 1).await.unwrap(), Some(1));
    }
}

/// The first sentinel answers nothing, and the second one refuses connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_without_an_answer_are_skipped() {
    within(async {
        let server = RedisServer::start(&[]);
        let silent = fake::listen(|stream| {
            std::thread::park();
            drop(stream);
        });
        let closed = RedisServer::start(&[]).port();
        let sentinel = FakeSentinel::start(at(&server, 1));
        let hosts = format!("127.0.0.1:{silent},127.0.0.1:{closed},127.0.0.1:{}", sentinel.port);
        let store = open(&format!("redis-sentinel://{hosts}?connect_timeout_ms=20000")).await;
        put(&store, 1, 1).await.unwrap();
    })
    .await;
}
