//! Chunks with a half that is missing, or that belongs to another version.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use connectors::{ErrorKind, MemoryObj, MemoryObjMut};
use kvconn_redis_server::{RedisServer, fake};

use super::{header, key, keys, kv, kv_bytes, metadata, names, open, raw, set};

#[tokio::test]
async fn a_chunk_without_its_bytes_is_a_miss_and_its_header_is_removed() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    let mut memory = [(key(1), MemoryObjMut::zeroed(1000))];
    for how in ["get", "batched_get", "batched_get_into"] {
        store.put(&key(1), kv(5, 1)).await.unwrap();
        server.cli(&["DEL", &kv_bytes(&key(1))]);
        assert!(!store.exists(&key(1)).await.unwrap());
        assert_eq!(store.batched_contains(&[key(1)]).await.unwrap(), 0);
        assert!(keys(&store, "").await.is_empty());
        assert_eq!(names(&server), [metadata(&key(1))], "only a get removes it");
        match how {
            "get" => assert_eq!(store.get(&key(1)).await.unwrap(), None),
            "batched_get" => {
                let [one] = store.batched_get(&[key(1)]).await.try_into().expect("one answer");
                assert_eq!(one.unwrap(), None);
            }
            _ => {
                let [one] = store.batched_get_into(&mut memory).await.try_into().expect("one answer");
                assert_eq!((one.unwrap(), memory[0].1.is_taken()), (None, false));
            }
        }
        assert!(names(&server).is_empty(), "{how}");
    }
}

#[tokio::test]
async fn bytes_without_a_header_are_a_miss_and_left_alone_while_lmcache_may_be_writing() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    set(&server, &kv_bytes(&key(1)), &kv(5, 1));
    assert_eq!(store.get(&key(1)).await.unwrap(), None);
    assert!(!store.exists(&key(1)).await.unwrap());
    // LMCache's second step.
    set(&server, &metadata(&key(1)), &header(&kv(5, 1)));
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(5, 1)));

    let hasty = open(&format!("{}?orphan_grace_sec=0", server.url("redis"))).await;
    server.cli(&["DEL", &metadata(&key(1))]);
    assert_eq!(hasty.get(&key(1)).await.unwrap(), None);
    assert!(names(&server).is_empty());
}

#[tokio::test]
async fn remove_deletes_a_half_but_does_not_count_it() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    set(&server, &kv_bytes(&key(1)), b"bytes");
    assert!(!store.remove(&key(1)).await.unwrap());
    assert!(names(&server).is_empty());
    store.put(&key(2), kv(1, 1)).await.unwrap();
    let answers = store.batched_remove(&[key(1), key(2), key(2)]).await;
    let answers: Vec<bool> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, [false, true, false]);
}

#[tokio::test]
async fn a_user_without_the_right_to_remove_leaves_the_half_and_gets_a_miss() {
    for rights in [&["+mget", "+hello"][..], &["+mget", "+eval"], &["+mget", "+strlen"]] {
        let args = [&["--user", "reader", "on", ">few", "~*"][..], rights].concat();
        let server = RedisServer::start(&args);
        set(&server, &metadata(&key(1)), &header(&kv(5, 1)));
        let url = format!("redis://reader:few@{}?orphan_grace_sec=0", server.address());
        let store = open(&url).await;
        assert_eq!(store.get(&key(1)).await.unwrap(), None, "{rights:?}");
        assert_eq!(names(&server), [metadata(&key(1))], "{rights:?}");
    }
}

/// Each put is found whole right after it, while readers remove halves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_halves_never_removes_a_new_chunk() {
    let server = RedisServer::start(&[]);
    let url = format!("{}?orphan_grace_sec=0", server.url("redis"));
    let (writer, reader) = (open(&url).await, open(&url).await);
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (reader, done) = (reader.clone(), done.clone());
            tokio::spawn(async move {
                let mut misses = 0;
                while !done.load(Ordering::SeqCst) {
                    match reader.get(&key(1)).await.unwrap() {
                        None => misses += 1,
                        Some(chunk) => assert_eq!(chunk, kv(5, 1)),
                    }
                }
                misses
            })
        })
        .collect();
    let mut evictor = server.client();
    for n in 0..2000 {
        let half = if n % 2 == 0 { kv_bytes(&key(1)) } else { metadata(&key(1)) };
        evictor.command(&["DEL", &half]).expect("the server answers");
        writer.put(&key(1), kv(5, 1)).await.unwrap();
        assert_eq!(writer.get(&key(1)).await.unwrap(), Some(kv(5, 1)), "put {n}");
    }
    done.store(true, Ordering::SeqCst);
    let mut misses = 0;
    for reader in readers {
        misses += reader.await.expect("no call panics");
    }
    assert!(misses > 0, "no reader saw a half");
}

#[tokio::test]
async fn a_header_of_another_version_is_corrupt_and_costs_one_answer() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    store.put(&key(1), kv(5, 1)).await.unwrap();
    store.put(&key(2), kv(5, 2)).await.unwrap();
    set(&server, &kv_bytes(&key(1)), &kv(6, 1));
    let e = store.get(&key(1)).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Corrupt && e.to_string().contains("480") && e.to_string().contains("576"), "{e}");
    let mut memory = MemoryObjMut::zeroed(1000);
    assert_eq!(store.get_into(&key(1), &mut memory).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!memory.is_taken() && memory.capacity() == 1000);
    let answers = store.batched_get(&[key(2), key(1), key(3), key(2)]).await;
    let kinds: Vec<_> =
        answers.iter().map(|a| a.as_ref().map(Option::is_some).map_err(connectors::Error::kind)).collect();
    assert_eq!(kinds, [Ok(true), Err(ErrorKind::Corrupt), Ok(false), Ok(true)]);

    // LMCache's second step makes the chunk whole.
    set(&server, &metadata(&key(1)), &header(&kv(6, 1)));
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(6, 1)));
}

#[tokio::test]
async fn a_writer_in_two_steps_never_gives_a_torn_chunk() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut client = server.client();
    let writer = std::thread::spawn({
        let done = done.clone();
        move || {
            let versions: [MemoryObj; 2] = [kv(5, 1), kv(6, 2)];
            for chunk in versions.iter().cycle().take_while(|_| !done.load(Ordering::SeqCst)) {
                let steps = [(kv_bytes(&key(1)), chunk.to_vec()), (metadata(&key(1)), header(chunk))];
                for (name, value) in steps {
                    client.command(&[b"SET", name.as_bytes(), &value]).expect("the server answers");
                }
            }
        }
    });
    let mut hits = 0;
    for _ in 0..500 {
        // `Corrupt` if both reads come between two steps.
        match store.get(&key(1)).await {
            Ok(Some(chunk)) => {
                assert!(chunk == kv(5, 1) || chunk == kv(6, 2), "{chunk:?}");
                hits += 1;
            }
            Ok(None) => {}
            Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}"),
        }
    }
    done.store(true, Ordering::SeqCst);
    writer.join().expect("the writer writes");
    assert!(hits > 0);
}

#[tokio::test]
async fn bytes_that_are_not_a_header_are_corrupt() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    store.put(&key(1), kv(5, 1)).await.unwrap();
    for header in [&b""[..], b"x", &[9; 28], &[0xff; 28], &[1; 100_000]] {
        set(&server, &metadata(&key(1)), header);
        let e = store.get(&key(1)).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}");
    }
    store.put(&key(1), kv(5, 1)).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(5, 1)));
}

#[tokio::test]
async fn a_value_of_another_type_is_corrupt_in_either_place_and_a_put_replaces_it() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    let (header, bytes) = (metadata(&key(1)), kv_bytes(&key(1)));
    for wrong in [&[&header][..], &[&bytes], &[&header, &bytes]] {
        store.put(&key(1), kv(5, 1)).await.unwrap();
        for name in wrong {
            server.cli(&["DEL", name]);
            server.cli(&["RPUSH", name, "not", "a chunk"]);
        }
        let e = store.get(&key(1)).await.unwrap_err();
        assert!(e.kind() == ErrorKind::Corrupt && e.to_string().contains("WRONGTYPE"), "{wrong:?}: {e}");
        let answers = store.batched_get(&[key(1), key(2)]).await;
        assert!(answers[0].is_err() && matches!(answers[1], Ok(None)), "{wrong:?}: {answers:?}");
        assert_eq!(names(&server).len(), 2, "{wrong:?}: nothing is removed");
    }
    store.put(&key(1), kv(5, 1)).await.unwrap();
    assert_eq!(raw(&server, &bytes).unwrap(), &*kv(5, 1));
}

/// A server on which LMCache is between its two steps during the first `torn` reads: new bytes, old header.
fn between_two_steps(torn: usize) -> (u16, Arc<AtomicUsize>) {
    let reads = Arc::new(AtomicUsize::new(0));
    let (counted, old, new) = (reads.clone(), kv(2, 1), kv(5, 2));
    let port = fake::answering(move |words| {
        Some(match words[0].as_str() {
            "HELLO" => b"%1\r\n+proto\r\n:3\r\n".to_vec(),
            "MGET" => {
                let header = header(if counted.fetch_add(1, Ordering::SeqCst) < torn { &old } else { &new });
                let mut answer = format!("*2\r\n${}\r\n", header.len()).into_bytes();
                answer.extend(header);
                answer.extend(format!("\r\n${}\r\n", new.len()).into_bytes());
                answer.extend_from_slice(&new);
                answer.extend(b"\r\n");
                answer
            }
            other => panic!("the store asks for {other}"),
        })
    });
    (port, reads)
}

#[tokio::test]
async fn a_chunk_whose_header_comes_after_its_bytes_is_read_again() {
    let expected = kv(5, 2);
    for how in ["get", "get_into", "batched_get", "batched_get_into"] {
        let (port, reads) = between_two_steps(1);
        let store = open(&format!("redis://127.0.0.1:{port}")).await;
        let mut memory = [(key(1), MemoryObjMut::zeroed(expected.len()))];
        let got = match how {
            "get" => store.get(&key(1)).await.unwrap().map(|chunk| chunk.to_vec()),
            "get_into" => store.get_into(&key(1), &mut memory[0].1).await.unwrap().map(|_| memory[0].1.to_vec()),
            "batched_get" => store.batched_get(&[key(1)]).await.remove(0).unwrap().map(|chunk| chunk.to_vec()),
            _ => store.batched_get_into(&mut memory).await.remove(0).unwrap().map(|_| memory[0].1.to_vec()),
        };
        assert_eq!((got.as_deref(), reads.load(Ordering::SeqCst)), (Some(&expected[..]), 2), "{how}");
    }
}

#[tokio::test]
async fn a_chunk_that_stays_torn_is_corrupt_after_two_reads() {
    let (port, reads) = between_two_steps(usize::MAX);
    let store = open(&format!("redis://127.0.0.1:{port}")).await;
    assert_eq!(store.get(&key(1)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(store.batched_get(&[key(1)]).await.remove(0).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(reads.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn bytes_of_a_key_that_was_whole_in_between_are_not_an_orphan() {
    let server = RedisServer::start(&[]);
    let store = open(&format!("{}?orphan_grace_sec=1", server.url("redis"))).await;
    let begin = std::time::Instant::now();
    // A get comes between LMCache's two steps.
    set(&server, &kv_bytes(&key(1)), &kv(5, 1));
    assert_eq!(store.get(&key(1)).await.unwrap(), None);
    set(&server, &metadata(&key(1)), &header(&kv(5, 1)));
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(5, 1)));
    // The grace is over. The server evicted the chunk, and LMCache writes it again.
    tokio::time::sleep_until((begin + std::time::Duration::from_millis(1001)).into()).await;
    server.cli(&["DEL", &kv_bytes(&key(1)), &metadata(&key(1))]);
    set(&server, &kv_bytes(&key(1)), &kv(5, 2));
    assert_eq!(store.get(&key(1)).await.unwrap(), None);
    set(&server, &metadata(&key(1)), &header(&kv(5, 2)));
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(kv(5, 2)), "kvconn removed bytes that LMCache was writing");
}

#[tokio::test]
async fn halves_of_different_lengths_do_not_exist() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    for n in 1..=3 {
        store.put(&key(n), kv(5, 1)).await.unwrap();
    }
    set(&server, &kv_bytes(&key(2)), b"short");
    assert_eq!(store.get(&key(2)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!store.exists(&key(2)).await.unwrap());
    assert_eq!(store.batched_contains(&[key(1), key(2), key(3)]).await.unwrap(), 1);
    server.cli(&["DEL", &kv_bytes(&key(2))]);
    server.cli(&["LPUSH", &kv_bytes(&key(2)), "x"]);
    assert!(!store.exists(&key(2)).await.unwrap());
}

#[tokio::test]
async fn an_empty_chunk_of_another_program_is_a_miss() {
    let server = RedisServer::start(&[]);
    let store = open(&server.url("redis")).await;
    server.cli(&["SET", &metadata(&key(1)), &"\0".repeat(28)]);
    server.cli(&["SET", &kv_bytes(&key(1)), ""]);
    store.put(&key(2), kv(5, 1)).await.unwrap();
    assert!(!store.exists(&key(1)).await.unwrap());
    assert_eq!(store.get(&key(1)).await.unwrap(), None);
    let [empty, whole] = store.batched_get(&[key(1), key(2)]).await.try_into().expect("two answers");
    assert_eq!((empty.unwrap(), whole.unwrap()), (None, Some(kv(5, 1))));
    let mut memory = MemoryObjMut::zeroed(1000);
    assert_eq!(store.get_into(&key(1), &mut memory).await.unwrap(), None);
}
