//! The values on the server.

use std::sync::Arc;

use connectors::{Dtype, ErrorKind, LMCacheMetadata, LayerGroup, ListEntry, MemoryObj};
use futures::TryStreamExt;

use kvconn_redis_server::{RedisServer, fake};

use crate::key;

#[tokio::test]
async fn the_value_is_the_chunks_bytes_under_the_keys_text() {
    let server = RedisServer::start(&[]);
    let store = connectors::open(&server.url("resp")).await.unwrap();
    let object: connectors::CacheKey = "org/m@00000100@0@1f2e@salt".parse().unwrap();
    for key in [key(1), object] {
        store.put(&key, MemoryObj::from(b"\r\n\0chunk".to_vec())).await.unwrap();
        assert_eq!(server.cli(&["GET", key.as_str()]).bytes(), Some(&b"\r\n\0chunk"[..]));
        assert_eq!(server.cli(&["TTL", key.as_str()]).integer(), Some(-1));
    }
    server.cli(&["SET", key(2).as_str(), "written by another"]);
    assert_eq!(store.get(&key(2)).await.unwrap().as_deref(), Some(&b"written by another"[..]));
}

#[tokio::test]
async fn the_length_of_a_partial_chunk_gives_its_tokens() {
    let server = RedisServer::start(&[]);
    let group = LayerGroup { kv_size: 2, num_layers: 3, hidden_dim: 8, dtype: Dtype::Bfloat16 };
    let metadata = Arc::new(LMCacheMetadata::new("opt", 1, 0, 256, &[group]).unwrap());
    let token = metadata.chunk_layout().token_bytes;
    let store = connectors::builder(&server.url("resp")).metadata(metadata).open().await.unwrap();
    for tokens in [1, 17, 256] {
        server.cli(&["SET", key(1).as_str(), &"x".repeat(tokens * token)]);
        let chunk = store.get(&key(1)).await.unwrap().unwrap();
        assert_eq!(
            (&chunk.layout().shape()[..], chunk.layout().dtype()),
            (&[2, 3, tokens, 8][..], Some(Dtype::Bfloat16))
        );
    }
    for wrong in [0, 1, token + 1, 257 * token] {
        server.cli(&["SET", key(1).as_str(), &"x".repeat(wrong)]);
        for answer in [store.get(&key(1)).await, store.batched_get(&[key(1)]).await.remove(0)] {
            assert_eq!(answer.unwrap_err().kind(), ErrorKind::Corrupt, "{wrong} bytes");
        }
        assert!(!store.exists(&key(1)).await.unwrap(), "{wrong} bytes are not a chunk");
        // The connection skipped the value.
        assert_eq!(store.get(&key(2)).await.unwrap(), None);
    }
    let e = store.put(&key(1), MemoryObj::from(vec![0; token + 1])).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_listing_takes_the_prefix_literally_and_leaves_other_names_out() {
    let server = RedisServer::start(&[]);
    let store = connectors::open(&server.url("resp")).await.unwrap();
    for name in ["a*b@1@0@1@half", "axb@1@0@1@half", "a*b", "a*b@1@0@1@halfmetadata", "a*b@1@0@1@half@00"] {
        server.cli(&["SET", name, "x"]);
    }
    let found: Vec<_> = store.list("a*").try_collect().await.unwrap();
    assert_eq!(found.iter().map(|key| key.as_str()).collect::<Vec<_>>(), ["a*b@1@0@1@half"]);
}

#[tokio::test]
async fn a_thousand_keys_are_asked_in_a_few_writes() {
    let server = RedisServer::start(&[]);
    let store = connectors::open(&server.url("resp")).await.unwrap();
    let keys: Vec<_> = (0..1000).map(key).collect();
    server.cli(&["CONFIG", "RESETSTAT"]);
    assert!(store.batched_exists(&keys).await.iter().all(|answer| matches!(answer, Ok(false))));
    let stats = String::from_utf8(server.cli(&["INFO", "all"]).bytes().expect("a text").to_vec()).unwrap();
    let stat = |name: &str| -> u64 {
        let line = stats.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
        line.trim().split(',').next().unwrap().parse().unwrap()
    };
    assert_eq!(stat("cmdstat_strlen:calls="), 1000);
    // Redis reads 16 KiB at a time.
    let bytes: usize = keys.iter().map(|key| key.as_str().len() + 40).sum();
    assert!(stat("total_reads_processed:") as usize <= 8 + bytes.div_ceil(16 << 10), "{stats}");
}

#[tokio::test]
async fn a_listing_gives_the_length_of_each_value() {
    let server = RedisServer::start(&[]);
    let store = connectors::open(&server.url("resp")).await.unwrap();
    for (n, len) in [(1, 10), (2, 5000)] {
        store.put(&key(n), MemoryObj::from(vec![1; len])).await.unwrap();
    }
    server.cli(&["LPUSH", key(3).as_str(), "not a string"]);
    let page = store.list_page("", None, 9).await.unwrap();
    let found: Vec<_> = page.entries.iter().map(|entry| (entry.key.clone(), entry.size, entry.modified)).collect();
    assert_eq!(found, [(key(1), Some(10), None), (key(2), Some(5000), None), (key(3), None, None)]);
}

#[tokio::test]
async fn a_name_that_the_server_gives_twice_is_listed_once() {
    // As a server does whose table shrinks between two pages.
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let page = move |next: &str, keys: [usize; 3]| {
        let names: String = keys.into_iter().map(|n| bulk(key(n).as_str())).collect();
        format!("*2\r\n{}*3\r\n{names}", bulk(next))
    };
    let port = fake::answering(move |words| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let answer = match words[..] {
            ["HELLO", ..] => "%1\r\n+proto\r\n:3\r\n".into(),
            ["SCAN", "0", ..] => page("3", [1, 2, 3]),
            ["SCAN", "3", ..] => page("1", [2, 3, 4]),
            ["SCAN", ..] => page("0", [1, 4, 5]),
            ["STRLEN", ..] => ":9\r\n".into(),
            _ => "+OK\r\n".into(),
        };
        Some(answer.into_bytes())
    });
    let store = connectors::open(&format!("resp://127.0.0.1:{port}")).await.unwrap();
    let expected: Vec<_> = (1..=5).map(key).collect();
    assert_eq!(store.list("").try_collect::<Vec<_>>().await.unwrap(), expected);
    let entries: Vec<ListEntry> = store.list_entries("").try_collect().await.unwrap();
    assert!(entries.iter().all(|entry| entry.size == Some(9)));
    assert_eq!(entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_long_lookup_stops_soon_after_its_first_miss() {
    let server = RedisServer::start(&[]);
    let store = connectors::open(&server.url("resp")).await.unwrap();
    let keys: Vec<_> = (0..10_000).map(key).collect();
    store.put(&keys[0], MemoryObj::from(vec![1; 9])).await.unwrap();
    server.cli(&["CONFIG", "RESETSTAT"]);
    assert_eq!(store.batched_contains(&keys).await.unwrap(), 1);
    assert_eq!(store.get_prefix(&keys[..64]).await.unwrap().len(), 1);
    let stats = String::from_utf8(server.cli(&["INFO", "commandstats"]).bytes().expect("a text").to_vec()).unwrap();
    assert!(stats.contains("cmdstat_strlen:calls=320,") && stats.contains("cmdstat_get:calls=1,"), "{stats}");
}

#[tokio::test]
async fn a_server_that_refuses_unlink_removes_by_del() {
    let rights = ["--user", "u", "on", ">pw", "~*", "+@all", "-unlink"];
    for (args, user) in [(&["--rename-command", "UNLINK", ""][..], ""), (&rights, "u:pw@")] {
        let server = RedisServer::start(args);
        let store = connectors::open(&format!("resp://{user}{}", server.address())).await.unwrap();
        for _ in 0..2 {
            store.put(&key(1), MemoryObj::from(vec![1])).await.unwrap();
            assert!(store.remove(&key(1)).await.unwrap());
            let gone: Vec<_> = store.batched_remove(&[key(1), key(2)]).await.into_iter().map(Result::unwrap).collect();
            assert_eq!(gone, [false, false]);
        }
    }
    let server = RedisServer::start(&["--user", "u", "on", ">pw", "~*", "+@all", "-unlink", "-del"]);
    let store = connectors::open(&format!("resp://u:pw@{}", server.address())).await.unwrap();
    assert_eq!(store.remove(&key(1)).await.unwrap_err().kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_namespace_stands_before_the_keys_text() {
    let server = RedisServer::start(&[]);
    let [a, b] = ["a", "b"].map(|namespace| format!("{}?namespace={namespace}", server.url("resp")));
    let (a, b) = (connectors::open(&a).await.unwrap(), connectors::open(&b).await.unwrap());
    a.put(&key(1), MemoryObj::from(vec![1])).await.unwrap();
    assert_eq!(server.cli(&["GET", &format!("a:{}", key(1))]).bytes(), Some(&[1][..]));
    assert!(b.get(&key(1)).await.unwrap().is_none() && !b.remove(&key(1)).await.unwrap());
    let listed: Vec<_> = a.list("org").try_collect().await.unwrap();
    assert_eq!(listed, [key(1)]);
    assert_eq!(b.list("").try_collect::<Vec<_>>().await.unwrap(), []);
    assert!(a.remove(&key(1)).await.unwrap());
}

#[tokio::test]
async fn a_key_prefix_stands_before_the_keys_text_and_behind_the_namespace() {
    let server = RedisServer::start(&[]);
    let url = server.url("resp");
    for (options, name) in [
        ("?key_prefix=team", format!("team@{}", key(1))),
        ("?namespace=a&key_prefix=team", format!("a:team@{}", key(1))),
        ("?key_prefix=%7Bx%7D:*-%C3%B6", format!("{{x}}:*-ö@{}", key(1))),
    ] {
        let store = connectors::open(&format!("{url}{options}")).await.unwrap();
        store.put(&key(1), MemoryObj::from(vec![7])).await.unwrap();
        assert_eq!(server.cli(&["GET", &name]).bytes(), Some(&[7][..]), "{options}");
        assert_eq!(store.list("org").try_collect::<Vec<_>>().await.unwrap(), [key(1)]);
        assert!(store.list("team").try_collect::<Vec<_>>().await.unwrap().is_empty());
        assert_eq!(store.get(&key(1)).await.unwrap().as_deref(), Some(&[7][..]));
        assert!(store.remove(&key(1)).await.unwrap());
        assert_eq!(server.cli(&["EXISTS", &name]).integer(), Some(0), "{options}");
    }
    let e = connectors::open(&format!("{url}?key_prefix=a%40b")).await.unwrap_err();
    assert!(e.kind() == ErrorKind::InvalidOption && e.to_string().contains("`key_prefix` holds an `@`"), "{e}");
}

#[tokio::test]
async fn stores_never_see_the_chunks_of_a_longer_or_a_shorter_prefix() {
    let server = RedisServer::start(&[]);
    let parts = ["key_prefix=a", "key_prefix=ab", "key_prefix=b", "namespace=a", "namespace=a&key_prefix=a"];
    let mut stores = Vec::new();
    for (n, part) in parts.iter().enumerate() {
        let store = connectors::open(&format!("{}?{part}", server.url("resp"))).await.unwrap();
        store.put(&key(1), MemoryObj::from(vec![n as u8 + 1])).await.unwrap();
        store.put(&key(10 + n), MemoryObj::from(vec![9])).await.unwrap();
        stores.push(store);
    }
    for (n, store) in stores.iter().enumerate() {
        assert_eq!(store.get(&key(1)).await.unwrap().as_deref(), Some(&[n as u8 + 1][..]));
        // The namespace `a` holds the names of the prefix within it, which are keys of a model `a@org/model`.
        let mut listed: Vec<_> = store.list("org").try_collect().await.unwrap();
        listed.sort();
        assert_eq!(listed, [key(1), key(10 + n)], "{}", parts[n]);
        for other in (0..parts.len()).filter(|other| *other != n) {
            assert!(!store.exists(&key(10 + other)).await.unwrap());
            assert!(!store.remove(&key(10 + other)).await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_chunk_lives_for_ttl_sec_and_a_read_renews_it_if_asked() {
    let server = RedisServer::start(&[]);
    let ttl = |n| server.cli(&["PTTL", key(n).as_str()]).integer().unwrap();
    let url = server.url("resp");
    let store = connectors::open(&format!("{url}?ttl_sec=1000")).await.unwrap();
    store.put(&key(1), MemoryObj::from(vec![1])).await.unwrap();
    let items: Vec<_> = (2..9).map(|n| (key(n), MemoryObj::from(vec![n as u8; 100_000]))).collect();
    assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
    for n in 1..9 {
        assert!((900_000..=1_000_000).contains(&ttl(n)), "{n}: {}", ttl(n));
        server.cli(&["EXPIRE", key(n).as_str(), "100"]);
    }
    assert_eq!(store.get(&key(1)).await.unwrap().as_deref(), Some(&[1][..]));
    assert!(ttl(1) <= 100_000, "a read renews nothing unless asked");

    let store = connectors::open(&format!("{url}?ttl_sec=1000&refresh_ttl=true")).await.unwrap();
    assert_eq!(store.get(&key(1)).await.unwrap().as_deref(), Some(&[1][..]));
    assert!(ttl(1) > 900_000);
    let keys: Vec<_> = (2..12).map(key).collect();
    let got: Vec<_> = store.batched_get(&keys).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(got.iter().flatten().count(), 7, "keys 2 to 8");
    assert!((2..9).all(|n| ttl(n) > 900_000));
    server.cli(&["SET", key(1).as_str(), "for ever"]);
    let mut into = connectors::MemoryObjMut::zeroed(8);
    assert_eq!(store.get_into(&key(1), &mut into).await.unwrap(), Some(8));
    assert!(ttl(1) > 900_000);
    assert_eq!(ttl(9), -2, "a missing chunk stays missing");
}

/// The server answers `GET` and `EXPIRE` of each key.
#[tokio::test]
async fn the_error_of_one_key_leaves_the_others_of_its_batch_their_own_chunks() {
    let server = RedisServer::start(&[]);
    let url = format!("{}?ttl_sec=1000&refresh_ttl=true&connections=1", server.url("resp"));
    let store = connectors::open(&url).await.unwrap();
    let chunk = |n: usize| vec![n as u8; 1000];
    let keys: Vec<_> = (0..40).map(key).collect();
    let items: Vec<_> = keys.iter().zip(0..).map(|(key, n)| (key.clone(), MemoryObj::from(chunk(n)))).collect();
    assert!(store.batched_put(&items).await.iter().all(Result::is_ok));
    let lists = [0, 1, 7, 20, 39];
    for n in lists {
        server.cli(&["DEL", key(n).as_str()]);
        server.cli(&["RPUSH", key(n).as_str(), "a list"]);
    }
    for _ in 0..3 {
        for (n, got) in store.batched_get(&keys).await.into_iter().enumerate() {
            match got {
                Err(e) => assert!(lists.contains(&n) && e.kind() == ErrorKind::Corrupt, "{n}: {e}"),
                Ok(got) => assert_eq!(got.as_deref(), Some(&chunk(n)[..]), "{n}"),
            }
        }
    }
}

/// A server that loads its data refuses both commands of a key, and then answers both of the next one.
#[tokio::test]
async fn a_server_that_refuses_some_keys_gives_the_others_their_own_chunks() {
    for refusal in ["LOADING Redis is loading the dataset in memory", "BUSY a script runs", "ERR no", "WRONGTYPE no"] {
        let port = kvconn_redis_server::fake::answering(move |words| {
            let refused = || Some(format!("-{refusal}\r\n").into_bytes());
            match words {
                [hello, ..] if hello == "HELLO" => Some(b"%1\r\n+proto\r\n:3\r\n".to_vec()),
                [_, name, ..] if name.contains("@0@a") => refused(),
                [get, name] if get == "GET" => Some(format!("${}\r\n{name}\r\n", name.len()).into_bytes()),
                [expire, ..] if expire == "EXPIRE" => Some(b":1\r\n".to_vec()),
                other => panic!("{other:?}"),
            }
        });
        let url = format!("resp://127.0.0.1:{port}?ttl_sec=1000&refresh_ttl=true&connections=1");
        let store = connectors::open(&url).await.unwrap();
        let names = (0..30).map(|n| format!("m@1@0@{}{n:04x}@half", if n % 3 == 0 { 'a' } else { 'b' }));
        let keys: Vec<connectors::CacheKey> = names.map(|name| name.parse().expect("a key")).collect();
        for (key, got) in keys.iter().zip(store.batched_get(&keys).await) {
            match got {
                Err(e) => assert!(key.as_str().contains("@0@a"), "{refusal}, {key}: {e}"),
                Ok(got) => assert_eq!(got.as_deref(), Some(key.as_str().as_bytes()), "{refusal}"),
            }
        }
    }
}

#[tokio::test]
async fn a_user_without_the_right_to_expire_reads_chunks_that_nothing_renews() {
    let server = RedisServer::start(&["--user", "u", "on", ">pw", "~*", "+@all", "-expire"]);
    let url = format!("resp://u:pw@{}?ttl_sec=1000&refresh_ttl=true", server.address());
    let store = connectors::open(&url).await.unwrap();
    store.put(&key(1), MemoryObj::from(vec![1])).await.unwrap();
    server.cli(&["PERSIST", key(1).as_str()]);
    assert_eq!(store.get(&key(1)).await.unwrap().as_deref(), Some(&[1][..]));
    assert_eq!(store.get(&key(2)).await.unwrap(), None);
    assert_eq!(server.cli(&["TTL", key(1).as_str()]).integer(), Some(-1));
}
