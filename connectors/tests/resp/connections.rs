//! Connections that kvconn opens at the same time, and ahead of the calls that use them. The chunks in flight on them.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use connectors::{CacheKey, MemoryObj, MemoryObjMut};
use kvconn_redis_server::{RedisServer, fake};

use crate::key;

/// A server that greets the first connection at once, and the others only when `together` of them wait for it. Its port, and
/// the number of greetings.
fn greets_together(together: usize) -> (u16, Arc<AtomicUsize>) {
    let (greeted, waiting) = (Arc::new(AtomicUsize::new(0)), Arc::new((Mutex::new(0), Condvar::new())));
    let port = fake::answering({
        let greeted = greeted.clone();
        move |words| match words[0].as_str() {
            "HELLO" => {
                if greeted.fetch_add(1, Ordering::SeqCst) > 0 {
                    let (count, came) = &*waiting;
                    let mut count = count.lock().expect("no thread panicked");
                    *count += 1;
                    came.notify_all();
                    drop(came.wait_while(count, |count| *count < together));
                }
                Some(b"%1\r\n+proto\r\n:3\r\n".to_vec())
            }
            "GET" => Some(b"$1\r\nx\r\n".to_vec()),
            other => panic!("{other}"),
        }
    });
    (port, greeted)
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// One run of several opens this number of connections. On a busy machine, a call that waits for over 100 ms opens one more.
async fn opens_exactly(expected: usize, mut run: impl AsyncFnMut() -> usize) {
    let mut opened = Vec::new();
    for _ in 0..10 {
        opened.push(run().await);
        if opened.ends_with(&[expected]) {
            return;
        }
    }
    panic!("{opened:?} connections were opened, and never {expected}");
}

fn keys(n: usize) -> Vec<CacheKey> {
    (0..n).map(key).collect()
}

/// The number of kvconn's connections to the server.
fn connections(server: &RedisServer) -> usize {
    let list = server.cli(&["CLIENT", "LIST"]);
    let list = String::from_utf8_lossy(list.bytes().expect("a text")).into_owned();
    list.lines().filter(|line| line.contains("name=kvconn")).count()
}

#[tokio::test]
async fn a_batch_opens_its_connections_at_the_same_time() {
    let (port, greeted) = greets_together(6);
    let store = connectors::open(&format!("resp://127.0.0.1:{port}?connections=6")).await.unwrap();
    assert_eq!(greeted.load(Ordering::SeqCst), 1, "without `min_idle`, `open` only checks that the server answers");
    let read = store.batched_get(&keys(6)).await;
    assert!(read.into_iter().all(|chunk| chunk.unwrap().is_some()));
    assert_eq!(greeted.load(Ordering::SeqCst), 7);
}

#[tokio::test]
async fn min_idle_opens_connections_at_the_same_time_and_a_batch_uses_them() {
    opens_exactly(5, async || {
        let (port, greeted) = greets_together(4);
        let store = connectors::open(&format!("resp://127.0.0.1:{port}?connections=4&min_idle=4")).await.unwrap();
        until("four connections wait for the greeting", || greeted.load(Ordering::SeqCst) == 5).await;
        for _ in 0..3 {
            let read = store.batched_get(&keys(64)).await;
            assert!(read.into_iter().all(|chunk| chunk.unwrap().is_some()));
        }
        greeted.load(Ordering::SeqCst)
    })
    .await;
}

#[tokio::test]
async fn a_call_during_the_opening_takes_the_first_connection_that_is_ready() {
    opens_exactly(3, async || {
        let (port, greeted) = greets_together(2);
        let store = connectors::open(&format!("resp://127.0.0.1:{port}?connections=2&min_idle=2")).await.unwrap();
        // The task that opens them may not have run yet.
        assert!(store.get(&key(1)).await.unwrap().is_some());
        assert!(store.batched_get(&keys(64)).await.into_iter().all(|chunk| chunk.unwrap().is_some()));
        greeted.load(Ordering::SeqCst)
    })
    .await;
}

/// Ends all connections and calls `call`, until the store then has the expected number of connections.
///
/// On a busy machine, the server may end a connection whose greeting kvconn has not read. kvconn then opens no other ahead
/// until a call needs one.
async fn opens_again(server: &RedisServer, expected: usize, mut call: impl AsyncFnMut()) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while Instant::now() < deadline {
        server.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        call().await;
        let again = Instant::now() + Duration::from_secs(2);
        while Instant::now() < again {
            if connections(server) == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    panic!("{} connections are open, and not {expected}", connections(server));
}

#[tokio::test]
async fn connections_that_the_server_closed_are_opened_again_with_the_next_one() {
    let server = RedisServer::start(&[]);
    let store = connectors::open(&(server.url("resp") + "?connections=5&min_idle=3")).await.unwrap();
    until("three are idle", || connections(&server) == 4).await;
    for _ in 0..2 {
        // One connection for chunks, one for everything else, and three that are idle.
        opens_again(&server, 5, async || {
            store.put(&key(1), MemoryObj::from(vec![1])).await.unwrap();
            assert!(store.exists(&key(1)).await.unwrap());
        })
        .await;
        opens_again(&server, 4, async || assert!(store.exists(&key(1)).await.unwrap())).await;
    }
    store.close().await.unwrap();
    until("the connections end", || connections(&server) == 0).await;
}

/// The idle connection looked alive until the call used it.
#[tokio::test]
async fn a_call_whose_connection_breaks_opens_others_ahead_again() {
    let (greeted, gets) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let port = fake::listen({
        let greeted = greeted.clone();
        move |stream| {
            let socket = stream.try_clone().expect("a socket can be cloned");
            fake::answer(stream, |words| match words[0].as_str() {
                "HELLO" => {
                    greeted.fetch_add(1, Ordering::SeqCst);
                    Some(b"%1\r\n+proto\r\n:3\r\n".to_vec())
                }
                "GET" if gets.fetch_add(1, Ordering::SeqCst) == 0 => {
                    socket.shutdown(std::net::Shutdown::Both).expect("the socket is open");
                    None
                }
                _ => Some(b"$1\r\nx\r\n".to_vec()),
            });
        }
    });
    let store = connectors::open(&format!("resp://127.0.0.1:{port}?connections=4&min_idle=2")).await.unwrap();
    until("two are idle beside the small one", || greeted.load(Ordering::SeqCst) == 3).await;
    assert!(store.get(&key(1)).await.unwrap().is_some());
    until("one took the broken one's place, and one was opened ahead", || greeted.load(Ordering::SeqCst) == 5).await;
}

#[tokio::test]
async fn a_server_that_refuses_connections_ahead_serves_the_calls() {
    let server = RedisServer::start(&["--maxclients", "4"]);
    let mut admin = server.client();
    let store = connectors::open(&(server.url("resp") + "?min_idle=8")).await.unwrap();
    let items: Vec<_> = keys(32).into_iter().map(|key| (key, MemoryObj::from(vec![1; 100_000]))).collect();
    assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
    assert!(store.batched_get(&keys(32)).await.into_iter().all(|chunk| chunk.unwrap().is_some()));
    let list = admin.command(&["CLIENT", "LIST"]).expect("the server answers");
    assert!(list.bytes().is_some(), "{list:?}");
}

/// A server holds the whole answer to each `GET` in its memory.
#[tokio::test]
async fn a_batch_of_large_chunks_has_16_mib_in_flight_and_at_least_two_chunks() {
    for (mib, most) in [(4, 4), (16, 2), (32, 2)] {
        let (asked, peak) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let port = fake::answering({
            let peak = peak.clone();
            move |words| match words[0].as_str() {
                "HELLO" => Some(b"%1\r\n+proto\r\n:3\r\n".to_vec()),
                "GET" => {
                    peak.fetch_max(asked.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // Time for the other connections to ask.
                    std::thread::sleep(Duration::from_millis(200));
                    asked.fetch_sub(1, Ordering::SeqCst);
                    // The batch counts on chunks of the memory's size.
                    Some(b"$1\r\nx\r\n".to_vec())
                }
                other => panic!("{other}"),
            }
        });
        let store = connectors::open(&format!("resp://127.0.0.1:{port}")).await.unwrap();
        let mut requests: Vec<_> =
            keys(12).into_iter().map(|key| (key, MemoryObjMut::from(vec![0; mib << 20]))).collect();
        assert!(store.batched_get_into(&mut requests).await.into_iter().all(|read| read.unwrap() == Some(1)));
        assert_eq!(peak.load(Ordering::SeqCst), most, "chunks of {mib} MiB");
    }
}

/// Chunks of 1 KiB have a wide window. The long chunks behind them have 16 MiB.
#[tokio::test]
async fn long_chunks_behind_many_short_ones_come_one_after_the_other() {
    const SHORT: usize = 64;
    let peak = Arc::new(AtomicUsize::new(0));
    let port = fake::listen({
        let peak = peak.clone();
        move |mut stream| {
            let (mut got, mut answered, mut some) = (String::new(), 0, [0; 4096]);
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            loop {
                match stream.read(&mut some) {
                    Ok(0) => return,
                    Ok(n) => got += str::from_utf8(&some[..n]).unwrap(),
                    // The client sends no further request before it has an answer.
                    Err(_) => {
                        let asked = got.matches("GET\r\n").count();
                        let answers = if asked <= SHORT { asked - answered } else { usize::from(asked > answered) };
                        peak.fetch_max(asked - answered.max(SHORT).min(asked), Ordering::SeqCst);
                        answered += answers;
                        stream.write_all(&b"$1\r\nx\r\n".repeat(answers)).unwrap();
                    }
                }
                if got.contains("HELLO") {
                    got.clear();
                    stream.write_all(b"%1\r\n+proto\r\n:3\r\n").unwrap();
                }
            }
        }
    });
    let store = connectors::open(&format!("resp://127.0.0.1:{port}?connections=1")).await.unwrap();
    let memory = |n| MemoryObjMut::from(vec![0; if n < SHORT { 1 << 10 } else { 16 << 20 }]);
    let mut requests: Vec<_> = keys(SHORT + 8).into_iter().enumerate().map(|(n, key)| (key, memory(n))).collect();
    assert!(store.batched_get_into(&mut requests).await.into_iter().all(|read| read.unwrap() == Some(1)));
    assert_eq!(peak.load(Ordering::SeqCst), 1);
}
