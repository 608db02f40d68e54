//! Tests of the harness itself.

use std::time::Duration;

use kvconn_redis_server::{Client, RedisServer, Reply};

fn ok() -> Reply {
    Reply::Simple("OK".into())
}

#[test]
fn the_started_server_answers_on_tcp_and_on_its_socket() {
    let server = RedisServer::start(&["--maxmemory", "7mb"]);
    assert_eq!(server.cli(&["SET", "key", "value"]), ok());
    let mut tcp = Client::tcp(server.address()).expect("it listens on TCP");
    assert_eq!(tcp.command(&["GET", "key"]).unwrap().bytes(), Some(&b"value"[..]));
    let limit = Reply::Array(vec![Reply::Bulk(Some(b"maxmemory".into())), Reply::Bulk(Some(b"7340032".into()))]);
    assert_eq!(tcp.command(&["CONFIG", "GET", "maxmemory"]).unwrap(), limit);
    if let Some(address) = server.address_v6() {
        let mut v6 = Client::tcp(address).expect("it listens on IPv6");
        assert_eq!(v6.command(&["GET", "key"]).unwrap().bytes(), Some(&b"value"[..]));
    }
    let info = server.cli(&["INFO", "server"]);
    let info = String::from_utf8_lossy(info.bytes().expect("INFO is text")).into_owned();
    assert!(info.contains(&format!("process_id:{}\r\n", server.pid())), "{info}");
}

#[test]
fn many_servers_run_side_by_side() {
    let start = |n: usize| {
        std::thread::spawn(move || {
            let server = RedisServer::start(&[]);
            server.cli(&["SET", "n", &n.to_string()]);
            server
        })
    };
    let started: Vec<_> = (0..8).map(start).collect();
    let servers: Vec<_> = started.into_iter().map(|thread| thread.join().expect("it starts")).collect();
    for (n, server) in servers.iter().enumerate() {
        let mut client = Client::tcp(server.address()).unwrap();
        assert_eq!(client.command(&["GET", "n"]).unwrap().bytes(), Some(n.to_string().as_bytes()));
    }
}

#[test]
fn a_killed_server_ends_and_restarts_empty_on_the_same_port() {
    let mut server = RedisServer::start(&["--requirepass", "secret"]);
    server.cli(&["SET", "key", "value"]);
    let (address, pid) = (server.address(), server.pid());
    server.kill9();
    assert!(Client::tcp(address).is_err());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    server.restart();
    assert_eq!((server.address(), server.cli(&["GET", "key"])), (address, Reply::Bulk(None)));
    assert_ne!(server.pid(), pid);
}

#[test]
fn a_stopped_server_does_not_answer_until_it_continues() {
    let server = RedisServer::start(&[]);
    let mut socket = std::net::TcpStream::connect(server.address()).expect("it listens");
    server.stop_signal();
    std::io::Write::write_all(&mut socket, b"PING\r\n").expect("the kernel takes it");
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
    let mut answer = [0; 7];
    std::io::Read::read_exact(&mut socket, &mut answer).expect_err("the stopped server does not answer");
    server.cont();
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
    std::io::Read::read_exact(&mut socket, &mut answer).expect("it answers now");
    assert_eq!(&answer, b"+PONG\r\n");
}

#[test]
fn arguments_set_passwords_and_users() {
    let args = ["--requirepass", "secret", "--user", "reader", "on", ">few", "~*", "+get"];
    let server = RedisServer::start(&args);
    let mut client = Client::tcp(server.address()).unwrap();
    assert!(matches!(client.command(&["GET", "k"]).unwrap(), Reply::Error(e) if e.starts_with("NOAUTH")));
    assert_eq!(client.command(&["AUTH", "reader", "few"]).unwrap(), ok());
    assert_eq!(client.command(&["GET", "k"]).unwrap(), Reply::Bulk(None));
    assert!(matches!(client.command(&["SET", "k", "v"]).unwrap(), Reply::Error(e) if e.starts_with("NOPERM")));
}

#[test]
#[should_panic(expected = "Bad directive")]
fn a_wrong_argument_gives_the_servers_error() {
    RedisServer::start(&["--no-such-option", "1"]);
}

#[test]
fn a_server_outlives_the_thread_that_started_it() {
    let server = std::thread::spawn(|| RedisServer::start(&[])).join().expect("it starts");
    assert_eq!(server.cli(&["PING"]), Reply::Simple("PONG".into()));
}
