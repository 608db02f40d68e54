//! The network cuts, stalls, splits and corrupts.

use std::time::{Duration, Instant};

use connectors::{Error, ErrorKind, MemoryObjMut};
use futures::StreamExt;
use futures::future::join_all;
use kvconn_redis_server::{Corruption, Fault, Proxy, RedisServer, fake};

use crate::store::{Kind, Store, is_lost, key};

const MIB: usize = 1 << 20;

async fn behind_proxy(kind: Kind, options: &str) -> (RedisServer, Proxy, Store) {
    let server = RedisServer::start(&[]);
    let proxy = Proxy::start(server.address()).await;
    let store = Store::open(&format!("{}{options}", proxy.url(kind.scheme))).await;
    (server, proxy, store)
}

pub(crate) async fn a_reply_that_is_cut_is_an_error_and_the_next_call_is_right(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind, "").await;
    for n in 0..8 {
        store.put(n, 1, MIB).await.unwrap();
    }
    // Cuts within a length, a payload, and its last bytes.
    for bytes in [1, 3, 9, 10, 1000, 500_000, MIB as u64, MIB as u64 + 10, MIB as u64 + 11] {
        let before = proxy.struck();
        proxy.replies(Fault::CutAfter(bytes));
        is_lost(store.get(1).await);
        assert!(proxy.struck() > before);
        proxy.heal();
        assert_eq!(store.get(1).await.unwrap(), Some(1), "after a cut behind {bytes} bytes");
    }
    proxy.replies(Fault::CutAfter(3 * MIB as u64 / 2));
    for answer in store.batched_get(&[0, 1, 2, 3, 4, 5, 6, 7]).await {
        assert!(!matches!(answer, Ok(None)), "a stored chunk is not a miss");
    }
    let mut dst = MemoryObjMut::zeroed(MIB);
    proxy.replies(Fault::CutAfter(MIB as u64 / 2));
    is_lost(store.connector.get_into(&key(1), &mut dst).await);
    proxy.heal();
    assert_eq!(store.connector.get_into(&key(1), &mut dst).await.unwrap(), Some(MIB));
    store.is_right().await;
    store.leaks_nothing().await;
}

pub(crate) async fn a_request_that_is_cut_stores_the_old_chunk_or_none(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind, "").await;
    store.put(1, 1, MIB).await.unwrap();
    for bytes in [1, 20, 60, 1000, 500_000, MIB as u64] {
        proxy.requests(Fault::CutAfter(bytes));
        is_lost(store.put(1, 2, MIB).await);
        is_lost(store.put(2, 2, MIB).await);
        proxy.heal();
        store.is_back().await;
        let (old, none) = (store.get(1).await.unwrap(), store.get(2).await.unwrap());
        assert!(matches!(old, Some(1) | None) && none.is_none(), "{old:?}, {none:?} after a cut behind {bytes} bytes");
    }
    store.is_right().await;
    store.leaks_nothing().await;
}

pub(crate) async fn a_stalled_reply_is_a_timeout(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind, "?io_timeout_ms=1000&connect_timeout_ms=1000").await;
    store.put(1, 1, MIB).await.unwrap();
    store.put(4, 4, MIB).await.unwrap();
    for _ in 0..2 {
        proxy.replies(Fault::Stall);
        is_lost(store.get(1).await);
        is_lost(store.put(2, 1, MIB).await);
        is_lost(store.connector.exists(&key(1)).await);
        is_lost(store.connector.ping().await);
        for answer in store.batched_get(&[1, 2, 3]).await {
            is_lost(answer);
        }
        // The stalled answers arrive now. None may be taken for a new answer.
        proxy.heal();
        store.is_back().await;
        assert_eq!(store.get(4).await.unwrap(), Some(4));
    }
    store.is_right().await;
    store.leaks_nothing().await;
}

pub(crate) async fn bytes_that_come_one_by_one_are_the_same_chunks(kind: Kind) {
    let server = RedisServer::start(&[]);
    let proxy = Proxy::start(server.address()).await;
    proxy.requests(Fault::SingleBytes);
    proxy.replies(Fault::SingleBytes);
    // A busy machine carries few single bytes a second.
    let store = Store::open(&format!("{}?io_timeout_ms=60000", proxy.url(kind.scheme))).await;
    for n in 0..4 {
        store.put(n, n, 3000).await.unwrap();
    }
    let found: Vec<_> = store.batched_get(&[0, 1, 7, 2, 3]).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(found, [Some(0), Some(1), None, Some(2), Some(3)]);
    let keys: Vec<_> = [0, 7, 3].map(key).into();
    let there: Vec<_> = store.connector.batched_exists(&keys).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(there, [true, false, true]);
    // Long enough for a low-water mark.
    proxy.requests(Fault::Pass);
    store.put(4, 4, 200_000).await.unwrap();
    assert_eq!(store.get(4).await.unwrap(), Some(4));
    proxy.heal();
    store.is_right().await;
    store.leaks_nothing().await;
}

pub(crate) async fn bytes_that_come_late_are_the_same_chunks(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind, "").await;
    proxy.requests(Fault::Delay(Duration::from_millis(5)));
    proxy.replies(Fault::Delay(Duration::from_millis(5)));
    for n in 0..4 {
        store.put(n, n, 300_000).await.unwrap();
    }
    let found: Vec<_> = store.batched_get(&[3, 2, 7, 1]).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(found, [Some(3), Some(2), None, Some(1)]);
    store.leaks_nothing().await;
}

/// Each part of a large chunk arrives within the timeout, and the whole chunk takes many times longer.
pub(crate) async fn a_reply_that_trickles_is_read_and_one_that_stops_is_a_timeout(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind, "?io_timeout_ms=1000").await;
    store.put(1, 1, 2 * MIB).await.unwrap();
    proxy.replies(Fault::Delay(Duration::from_millis(100)));
    let begin = Instant::now();
    assert_eq!(store.get(1).await.unwrap(), Some(1));
    assert!(begin.elapsed() > Duration::from_secs(1), "the network was slow");
    // A call that waits for the only connection waits longer than the timeout, and succeeds.
    let one = format!("{}?io_timeout_ms=1000&connect_timeout_ms=1000&connections=1", proxy.url(kind.scheme));
    let narrow = Store::open(&one).await;
    let (first, second) = tokio::join!(narrow.get(1), narrow.get(1));
    assert_eq!((first.unwrap(), second.unwrap()), (Some(1), Some(1)));
    let stop = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        proxy.replies(Fault::Stall);
    };
    let (got, ()) = tokio::join!(store.get(1), stop);
    assert_eq!(got.unwrap_err().kind(), ErrorKind::Timeout);
    proxy.heal();
    store.is_right().await;
    store.leaks_nothing().await;
}

/// Each byte arrives within the timeout, so only the total ends a call.
pub(crate) async fn a_byte_now_and_then_is_a_timeout(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind, "?io_timeout_ms=500&connect_timeout_ms=500").await;
    for n in 0..64 {
        store.put(n, 1, 100_000).await.unwrap();
    }
    let is_slow = |answer: Result<(), Error>| {
        let e = answer.expect_err("the server sends a byte now and then");
        assert!(matches!(e.kind(), ErrorKind::Timeout | ErrorKind::Unavailable) && e.is_temporary(), "{e:?}");
    };
    let numbers: Vec<u64> = (0..64).collect();
    let keys: Vec<_> = numbers.iter().map(|&n| key(n)).collect();
    let begin = Instant::now();
    for round in 0..2 {
        proxy.replies(Fault::Drip(Duration::from_millis(100)));
        is_slow(store.get(1).await.map(drop));
        is_slow(store.put(2, 1, 100_000).await);
        is_slow(store.connector.exists(&key(1)).await.map(drop));
        is_slow(store.connector.ping().await);
        is_slow(store.connector.remove(&key(99)).await.map(drop));
        is_slow(store.connector.list("").next().await.expect("a listing that fails says so").map(drop));
        store.batched_get(&numbers).await.into_iter().for_each(|answer| is_slow(answer.map(drop)));
        // The first answers of a batch may be whole.
        assert!(store.connector.batched_exists(&keys).await.iter().any(Result::is_err));
        proxy.heal();
        proxy.requests(Fault::Drip(Duration::from_millis(100)));
        is_slow(store.put(3, 1, 64 * MIB).await);
        proxy.heal();
        store.is_back().await;
        assert_eq!(store.get(1).await.unwrap(), Some(1), "round {round}");
    }
    // Byte by byte, the first chunk alone would take hours.
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    store.is_right().await;
    store.leaks_nothing().await;
}

/// Messages out of band are bytes, but no reply.
pub(crate) async fn messages_and_no_reply_are_an_error(kind: Kind) {
    for message in [">2\r\n+message\r\n+text\r\n", ">0\r\n", "|1\r\n+ttl\r\n:3\r\n"] {
        let port = fake::listen(move |mut stream| {
            use std::io::{Read, Write};
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"%1\r\n+proto\r\n:3\r\n");
            let _ = stream.read(&mut [0; 4096]);
            while stream.write_all(message.repeat(1000).as_bytes()).is_ok() {}
        });
        let store = Store::open(&format!("{}://127.0.0.1:{port}", kind.scheme)).await;
        store.get(1).await.map(drop).expect_err("messages are not a chunk");
        store.connector.exists(&key(1)).await.map(drop).expect_err("messages are not a number");
    }
}

pub(crate) async fn a_corrupt_length_is_an_error_and_never_a_chunk(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind, "?io_timeout_ms=1000").await;
    for n in 0..4 {
        store.put(n, 1, 100_000).await.unwrap();
    }
    for corruption in Corruption::ALL {
        let before = proxy.struck();
        proxy.replies(Fault::Corrupt(corruption));
        let e = store.get(1).await.expect_err("the length is wrong");
        assert!(proxy.struck() > before, "{corruption:?}");
        assert!(!e.message().is_empty(), "{corruption:?}");
        let mut dst = MemoryObjMut::zeroed(200_000);
        store.connector.get_into(&key(2), &mut dst).await.expect_err("the length is wrong");
        assert!(!dst.is_taken(), "{corruption:?}: the memory is back after an error");
        proxy.heal();
        for n in 0..4 {
            assert_eq!(store.get(n).await.unwrap(), Some(1), "after {corruption:?}");
        }
    }
    store.is_right().await;
    store.leaks_nothing().await;
}

pub(crate) async fn corrupt_lengths_in_a_batch_are_errors_and_the_next_batch_is_right(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind, "?io_timeout_ms=1000&connections=2").await;
    let numbers: Vec<u64> = (0..24).collect();
    for &n in &numbers {
        store.put(n, 1, 50_000).await.unwrap();
    }
    for corruption in Corruption::ALL {
        proxy.replies(Fault::Corrupt(corruption));
        // `batched_get` checks the bytes of each chunk.
        let answers = store.batched_get(&numbers).await;
        assert!(
            answers.iter().all(|answer| !matches!(answer, Ok(None))),
            "a stored chunk is not a miss: {corruption:?}"
        );
        assert!(answers.iter().any(Result::is_err), "{corruption:?}");
        proxy.heal();
        for (n, answer) in store.batched_get(&numbers).await.into_iter().enumerate() {
            assert_eq!(answer.unwrap(), Some(1), "{n} after {corruption:?}");
        }
    }
    store.is_right().await;
    store.leaks_nothing().await;
}

pub(crate) async fn one_corrupt_length_in_a_batch_costs_one_chunk(kind: Kind) {
    let (_server, proxy, store) = behind_proxy(kind, "?io_timeout_ms=1000&connections=2").await;
    let numbers: Vec<u64> = (0..24).collect();
    for &n in &numbers {
        store.put(n, 1, 50_000).await.unwrap();
    }
    for corruption in Corruption::ALL {
        let before = proxy.struck();
        proxy.replies(Fault::CorruptNext(corruption));
        let answers = store.batched_get(&numbers).await;
        assert_eq!(proxy.struck(), before + 1);
        let wrong: Vec<_> = answers.iter().filter(|answer| !matches!(answer, Ok(Some(1)))).collect();
        assert!(matches!(wrong[..], [Err(_)]), "{corruption:?}: {wrong:?}");
    }
    proxy.heal();
    store.is_right().await;
    store.leaks_nothing().await;
}

/// A second remove would answer `false`.
pub(crate) async fn a_remove_whose_answer_is_lost_is_not_repeated(kind: Kind) {
    let (server, proxy, store) = behind_proxy(kind, "").await;
    for n in 1..=3 {
        store.put(n, 1, 1000).await.unwrap();
        // Uses the connection first, because a connection that was dead before the call is replaced.
        assert!(store.connector.exists(&key(n)).await.unwrap());
        let before = proxy.struck();
        let heal = async {
            proxy.strikes(before).await;
            proxy.heal();
        };
        proxy.replies(Fault::CutAfter(0));
        let one = key(n);
        let (removed, ()) = tokio::join!(store.connector.remove(&one), heal);
        is_lost(removed);
        assert_eq!(store.get(n).await.unwrap(), None, "the server received it");
        let asked = server.cli(&["INFO", "commandstats"]);
        let asked = String::from_utf8_lossy(asked.bytes().expect("a text")).into_owned();
        assert!(asked.contains(&format!("cmdstat_unlink:calls={n},")), "{asked}");
    }
    store.is_right().await;
}

/// Calls that wait for a connection fail with the timeout of the calls before them.
pub(crate) async fn a_stopped_server_costs_few_connections(kind: Kind) {
    const CONNECTIONS: usize = 4;
    let (_server, proxy, store) =
        behind_proxy(kind, &format!("?io_timeout_ms=1000&connect_timeout_ms=1000&connections={CONNECTIONS}")).await;
    for n in 0..64 {
        store.put(n, 1, 1000).await.unwrap();
    }
    let before = proxy.accepted();
    proxy.replies(Fault::Stall);
    let gets = (0..64).map(|n| store.get(n));
    join_all(gets).await.into_iter().for_each(is_lost);
    let attempts = proxy.accepted() - before;
    assert!(attempts <= CONNECTIONS, "64 calls made {attempts} new connections to a server that does not answer");
    proxy.heal();
    store.is_right().await;
    store.leaks_nothing().await;
}

/// Each call that waits for a connection would try to connect, too.
pub(crate) async fn a_server_that_refuses_costs_few_connections(kind: Kind) {
    const CONNECTIONS: usize = 4;
    let (_server, proxy, store) = behind_proxy(kind, &format!("?connections={CONNECTIONS}")).await;
    store.put(1, 1, 1000).await.unwrap();
    // All connections are in use when the server goes away.
    join_all((0..64).map(|_| store.get(1))).await.into_iter().for_each(|got| assert_eq!(got.unwrap(), Some(1)));
    proxy.replies(Fault::CutAfter(0));
    let before = proxy.accepted();
    let gets = (0..64).map(|_| store.get(1));
    join_all(gets).await.into_iter().for_each(is_lost);
    let attempts = proxy.accepted() - before;
    assert!(attempts <= CONNECTIONS, "64 calls made {attempts} connections to a server that refuses them");
    // Of calls that come again at once, one connects in 20 ms or longer. The others fail at once.
    let (before, begin) = (proxy.accepted(), Instant::now());
    let busy = (0..CONNECTIONS).map(async |_| {
        for _ in 0..500 {
            is_lost(store.get(1).await);
        }
    });
    join_all(busy).await;
    assert!(begin.elapsed() < Duration::from_secs(8), "2000 calls took {:?}", begin.elapsed());
    let rounds = begin.elapsed().as_millis() as usize / 20 + 1;
    let attempts = proxy.accepted() - before;
    assert!(attempts <= rounds, "{attempts} connections in {:?}", begin.elapsed());
    proxy.heal();
    store.is_back().await;
    store.is_right().await;
    store.leaks_nothing().await;
}

/// Each call tries once more on a new connection, all of them within the time of one.
pub(crate) async fn calls_that_connect_again_do_not_wait_for_each_other(kind: Kind) {
    const CONNECTIONS: usize = 8;
    let (_server, proxy, store) = behind_proxy(kind, &format!("?io_timeout_ms=2000&connections={CONNECTIONS}")).await;
    store.put(1, 1, 1000).await.unwrap();
    // All connections were in use before, so each call is asked once more.
    proxy.replies(Fault::Delay(Duration::from_millis(50)));
    join_all((0..CONNECTIONS).map(|_| store.get(1)))
        .await
        .into_iter()
        .for_each(|got| assert_eq!(got.unwrap(), Some(1)));
    proxy.replies(Fault::Stall);
    let begin = Instant::now();
    let gets = join_all((0..CONNECTIONS).map(|_| store.get(1)));
    let cut = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.cut();
    };
    futures::join!(gets, cut).0.into_iter().for_each(is_lost);
    assert!(begin.elapsed() < Duration::from_secs(7), "{CONNECTIONS} calls took {:?}", begin.elapsed());
    proxy.heal();
    store.is_back().await;
    store.is_right().await;
}
