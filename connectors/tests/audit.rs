//! `audit://`: its log, the chunks that it refuses, and the reads that it does not judge.

mod controlled;

use std::cell::RefCell;
use std::io::Write;
use std::sync::{Arc, Once};

use connectors::{CacheKey, Connector, ErrorKind, LMCacheEngineConfig, MemoryObj, MemoryObjMut};
use controlled::{Control, control};
use futures::StreamExt;
use futures::future::{join, poll_immediate};

fn key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().unwrap()
}

fn chunk(seed: u8, len: usize) -> MemoryObj {
    MemoryObj::from((0..len).map(|i| (i % 251) as u8 ^ seed).collect::<Vec<_>>())
}

async fn audited(name: &str, options: &str) -> (Connector, Arc<Control>) {
    let url = format!("audit://?actual_remote_url=controlled%3A%2F%2F{name}{options}");
    (connectors::open(&url).await.unwrap(), control(name))
}

thread_local! {
    /// The log of this thread; each test has its own thread.
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes to this thread's log.
struct Here;

impl Write for Here {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.with_borrow_mut(|log| log.extend(bytes));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The events of this test.
struct Events;

impl Events {
    /// One subscriber for all tests: with one each, the start of a test can make another test miss an event.
    fn collect() -> Self {
        static SET: Once = Once::new();
        SET.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| Here).init());
        LOGGED.take();
        Self
    }

    /// Takes the events so far.
    fn take(&self) -> Vec<String> {
        let bytes = LOGGED.take();
        String::from_utf8(bytes).unwrap().lines().filter(|l| l.contains("kvconn::audit")).map(str::to_owned).collect()
    }
}

#[track_caller]
fn assert_says(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "no `{part}` in: {line}");
    }
}

#[tokio::test]
async fn the_store_behind_comes_from_lmcaches_configuration_or_from_the_url() {
    let extra = "extra_config: {audit_actual_remote_url: 'controlled://from-extra', audit_verify_checksum: true}";
    let both = "audit_actual_remote_url: controlled://from-config\n\
                extra_config: {audit_actual_remote_url: 'controlled://from-extra'}";
    let in_url = "audit://h:1?actual_remote_url=controlled%3A%2F%2Ffrom-url";
    for (url, yaml, name) in [
        ("audit://localhost:8080", "audit_actual_remote_url: controlled://from-config", "from-config"),
        ("audit://127.0.0.1:8080?verify=true", "audit_actual_remote_url: controlled://from-config", "from-config"),
        ("audit://localhost:8080", extra, "from-extra"),
        ("audit://localhost:8080", both, "from-extra"),
        (in_url, both, "from-url"),
        ("plugin://audit", "audit_actual_remote_url: controlled://from-config", "from-config"),
        (
            "external://h:0/kvconn.audit/?connector_name=AuditConnector&actual_remote_url=controlled://from-url",
            "{}",
            "from-url",
        ),
    ] {
        let config = LMCacheEngineConfig::from_yaml(yaml).unwrap();
        let connector = connectors::builder(url).config(config).open().await.unwrap();
        connector.put(&key(1), chunk(1, 10)).await.unwrap();
        assert!(control(name).chunks.lock().unwrap().remove(&key(1)).is_some(), "{url} with {yaml}");
        assert_eq!(connector.name(), "kvconn.audit/AuditConnector");
    }
}

#[tokio::test]
async fn an_error_of_the_store_behind_says_where_to_name_it_and_shows_no_password() {
    for (url, says) in [
        ("audit://h:1", "`audit_actual_remote_url`"),
        ("audit://?actual_remote_url=nothing", "option `actual_remote_url`"),
        ("audit://?actual_remote_url=redis%3A%2F%2Fu%3Ahunter2%40h%3A1%20", "option `actual_remote_url`"),
        ("audit://?actual_remote_url=nobody%3A%2F%2Fu%3Ahunter2%40h%3A1", "nobody"),
        ("audit://?actual_remote_uri=x", "did you mean `actual_remote_url`?"),
        ("audit://?actual_remote_url=memory%3A%2F%2F&checksum=md5", "blake3"),
        ("audit://?actual_remote_url=audit%3A%2F%2F", "does not name the store"),
    ] {
        let e = connectors::open(url).await.unwrap_err();
        assert!(e.to_string().contains(says) && !e.to_string().contains("hunter2"), "{url}: {e}");
    }
}

#[tokio::test]
async fn a_chunk_that_changed_is_corrupt_and_the_error_holds_both_checksums() {
    for (name, options) in [("changed-b", "&verify=true"), ("changed-x", "&verify_checksum=1&checksum=xxh3")] {
        for len in [1000, 3 << 20] {
            let (connector, behind) = audited(name, options).await;
            let events = Events::collect();
            connector.put(&key(1), chunk(1, len)).await.unwrap();
            assert_eq!(connector.get(&key(1)).await.unwrap().unwrap(), chunk(1, len));
            let right = events.take();
            behind.store(&key(1), chunk(2, len));

            let mut memory = MemoryObjMut::zeroed(len);
            let mut requests = [(key(1), MemoryObjMut::zeroed(len))];
            let errors = [
                connector.get(&key(1)).await.unwrap_err(),
                connector.get_into(&key(1), &mut memory).await.unwrap_err(),
                connector.batched_get(&[key(1)]).await.remove(0).unwrap_err(),
                connector.batched_get_into(&mut requests).await.remove(0).unwrap_err(),
            ];
            assert!(!memory.is_taken() && !requests[0].1.is_taken());
            let put = right[0].split_once("checksum=").unwrap().1.split(' ').next().unwrap();
            assert_eq!(put.len(), 8, "{right:?}");
            let wrong: Vec<String> = events.take().into_iter().filter(|e| e.contains("MISMATCH")).collect();
            assert_eq!(wrong.len(), 4);
            for (n, (e, event)) in errors.iter().zip(&wrong).enumerate() {
                assert_eq!(e.kind(), ErrorKind::Corrupt);
                let read = event.split_once(" checksum=").unwrap().1.split(' ').next().unwrap();
                assert!(read != put && read.len() == 8, "{event}");
                assert_says(&e.to_string(), &[put, read, key(1).as_str()]);
                let count = format!("mismatches={}", n + 1);
                assert_says(
                    event,
                    &["ERROR", &format!("expected={put}"), &count, &format!("size={len}"), key(1).as_str()],
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_of_a_file_is_found_wherever_it_is() {
    const LEN: usize = (3 << 20) + 77;
    for (dir, options) in
        [("/var/tmp", ""), ("/dev/shm", ""), ("/var/tmp", "%3Fuse_odirect=true%26save_chunk_meta=false")]
    {
        let dir = tempfile::tempdir_in(dir).unwrap();
        let path = dir.path().join("facebook-SEP-opt-125m@1@0@1@half.data");
        let url = format!("audit://?actual_remote_url=fs%3A%2F%2F{}{options}&verify=true", dir.path().display());
        let connector = connectors::open(&url).await.unwrap();
        connector.put(&key(1), chunk(1, LEN)).await.unwrap();
        let header = std::fs::read(&path).unwrap().len() - LEN;
        for flipped in [None, Some(0), Some(128 << 10), Some((1 << 20) + 5), Some(LEN - 78), Some(LEN - 1), None] {
            let mut file = std::fs::read(&path).unwrap();
            if let Some(at) = flipped {
                file[header + at] ^= 0x10;
                std::fs::write(&path, &file).unwrap();
            }
            let mut memory = MemoryObjMut::zeroed(LEN);
            let mut requests = [(key(1), MemoryObjMut::zeroed(LEN)), (key(1), MemoryObjMut::zeroed(LEN + 5))];
            let mut answers = vec![
                connector.get(&key(1)).await.map(|chunk| chunk.unwrap().len()),
                connector.get_into(&key(1), &mut memory).await.map(Option::unwrap),
            ];
            answers.extend(
                connector.batched_get(&[key(1)]).await.into_iter().map(|a| a.map(|chunk| chunk.unwrap().len())),
            );
            answers.extend(connector.batched_get_into(&mut requests).await.into_iter().map(|a| a.map(Option::unwrap)));
            for (n, answer) in answers.into_iter().enumerate() {
                match flipped {
                    None => assert_eq!(answer.unwrap(), LEN, "read {n}"),
                    Some(at) => assert_eq!(answer.unwrap_err().kind(), ErrorKind::Corrupt, "read {n}, byte {at}"),
                }
            }
            if let Some(at) = flipped {
                file[header + at] ^= 0x10;
                std::fs::write(&path, &file).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_audit_behind_another_raises_no_false_alarm() {
    const LEN: usize = (1 << 20) + 77;
    let encoded = |url: &str| url.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    for inner in ["verify=true", "verify=true&checksum=xxh3", "calc_checksum=true", "calc_checksum=false"] {
        for outer in ["verify=true", "verify=true&checksum=xxh3", "calc_checksum=false"] {
            let dir = tempfile::tempdir_in("/var/tmp").unwrap();
            let fs = format!("fs://{}", dir.path().display());
            let behind = format!("audit://?actual_remote_url={}&{inner}", encoded(&fs));
            let url = format!("audit://?actual_remote_url={}&{outer}", encoded(&behind));
            let connector = connectors::open(&url).await.unwrap();
            connector.put(&key(1), chunk(1, LEN)).await.unwrap();
            let read = connector.get(&key(1)).await.unwrap().unwrap();
            assert!(read == chunk(1, LEN), "{outer} before {inner}");
            let mut requests = [(key(1), MemoryObjMut::zeroed(LEN)), (key(1), MemoryObjMut::zeroed(LEN))];
            assert!(connector.batched_get_into(&mut requests).await.into_iter().all(|n| n.unwrap() == Some(LEN)));
            let [(_, mut memory), _] = requests;
            assert_eq!(connector.get_into(&key(1), &mut memory).await.unwrap(), Some(LEN));
            assert!(*memory == *chunk(1, LEN), "{outer} before {inner}");
        }
    }
}

#[tokio::test]
async fn without_verify_a_changed_chunk_is_returned_with_its_checksum_in_the_log() {
    let (connector, behind) = audited("calc", "&calc_checksum=true").await;
    let events = Events::collect();
    connector.put(&key(1), chunk(1, 10)).await.unwrap();
    behind.store(&key(1), chunk(2, 10));
    assert_eq!(connector.get(&key(1)).await.unwrap().unwrap(), chunk(2, 10));
    let events = events.take();
    assert_says(&events[0], &["operation=\"put\"", "SUCCESS", "size=10", " checksum="]);
    assert_says(&events[1], &["operation=\"get\"", "SUCCESS", "size=10", " checksum="]);
}

#[tokio::test]
async fn overlapping_puts_of_one_key_raise_no_false_alarm() {
    let (connector, behind) = audited("overlap", "&verify=true").await;
    connector.put(&key(1), chunk(0, 1000)).await.unwrap();
    for left in [1, 2] {
        behind.hold("put");
        let k = key(1);
        let (mut a, mut b) = (Box::pin(connector.put(&k, chunk(1, 1000))), Box::pin(connector.put(&k, chunk(2, 1000))));
        assert!(poll_immediate(&mut a).await.is_none() && poll_immediate(&mut b).await.is_none());
        assert!(connector.get(&key(1)).await.unwrap().is_some(), "while they are in flight");
        behind.release();
        let (a, b) = join(a, b).await;
        a.and(b).unwrap();
        behind.store(&key(1), chunk(left, 1000));
        assert_eq!(connector.get(&key(1)).await.unwrap().unwrap(), chunk(left, 1000));
    }
    behind.store(&key(1), chunk(3, 1000));
    assert_eq!(connector.get(&key(1)).await.unwrap_err().kind(), ErrorKind::Corrupt, "neither of them");
}

#[tokio::test]
async fn a_failed_or_dropped_put_raises_no_false_alarm() {
    let (connector, behind) = audited("undone", "&verify=true").await;
    connector.put(&key(1), chunk(0, 1000)).await.unwrap();
    behind.fail("put");
    connector.put(&key(1), chunk(1, 1000)).await.unwrap_err();
    behind.heal();
    behind.hold("put");
    let k = key(1);
    let mut dropped = Box::pin(connector.put(&k, chunk(2, 1000)));
    assert!(poll_immediate(&mut dropped).await.is_none());
    drop(dropped);
    behind.release();
    for left in [0, 1, 2] {
        behind.store(&key(1), chunk(left, 1000));
        assert_eq!(connector.get(&key(1)).await.unwrap().unwrap(), chunk(left, 1000));
    }
    connector.close().await.unwrap();
}

#[tokio::test]
async fn a_read_that_began_before_a_put_raises_no_false_alarm() {
    let (connector, behind) = audited("old-read", "&verify=true").await;
    connector.put(&key(1), chunk(1, 100)).await.unwrap();
    behind.hold("get");
    let k = key(1);
    let mut get = Box::pin(connector.get(&k));
    assert!(poll_immediate(&mut get).await.is_none());
    connector.put(&key(1), chunk(2, 100)).await.unwrap();
    behind.release();
    assert_eq!(get.await.unwrap().unwrap(), chunk(1, 100));
}

#[tokio::test]
async fn chunks_of_unknown_removed_and_forgotten_keys_are_not_judged() {
    let (connector, behind) = audited("others", "&verify=true&max_checksums=2").await;
    behind.store(&key(1), chunk(1, 10));
    assert!(connector.get(&key(1)).await.unwrap().is_some());
    connector.put(&key(2), chunk(2, 10)).await.unwrap();
    connector.remove(&key(2)).await.unwrap();
    behind.store(&key(2), chunk(9, 10));
    assert!(connector.get(&key(2)).await.unwrap().is_some());
    let items = [3, 4, 5].map(|n| (key(n), chunk(n as u8, 10)));
    connector.batched_put(&items).await.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    for n in 3..6 {
        behind.store(&key(n), chunk(99, 10));
    }
    let answers = connector.batched_get(&[key(3), key(4), key(5)]).await;
    let verdicts: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(verdicts, [true, false, false], "two are remembered");
    connector.batched_remove(&[key(4)]).await.remove(0).unwrap();
    behind.store(&key(4), chunk(99, 10));
    assert!(connector.get(&key(4)).await.is_ok());
}

#[tokio::test]
async fn every_operation_is_logged_with_its_outcome_and_excluded_ones_are_not() {
    for (name, excluded) in [("logged", ""), ("excluded", "&exclude_cmds=exists,get,batched_async_contains,unheard_of")]
    {
        let (connector, behind) = audited(name, excluded).await;
        let events = Events::collect();
        let mut memory = MemoryObjMut::zeroed(10);
        connector.put(&key(1), chunk(1, 10)).await.unwrap();
        connector.exists(&key(1)).await.unwrap();
        connector.get(&key(1)).await.unwrap();
        connector.get(&key(2)).await.unwrap();
        connector.get_into(&key(1), &mut memory).await.unwrap();
        connector.batched_exists(&[key(1), key(2)]).await;
        connector.batched_contains(&[key(1), key(2)]).await.unwrap();
        connector.batched_get(&[key(1), key(2)]).await;
        assert_eq!(connector.get_prefix(&[key(1), key(2)]).await.unwrap().len(), 1);
        assert_eq!(connector.list("").count().await, 1);
        assert_eq!(connector.list_entries("").next().await.unwrap().unwrap().key, key(1));
        connector.ping().await.unwrap();
        behind.fail("remove");
        connector.remove(&key(1)).await.unwrap_err();
        behind.heal();
        behind.hold("put");
        let k = key(1);
        let mut put = Box::pin(connector.put(&k, chunk(1, 10)));
        assert!(poll_immediate(&mut put).await.is_none());
        drop(put);
        connector.close().await.unwrap();
        assert_eq!(behind.count("close"), 1);

        let of = |line: &str, field: &str| {
            let rest = line.split_once(&format!(" {field}=\"")).unwrap_or_else(|| panic!("no {field} in {line}")).1;
            rest.split('"').next().unwrap().to_owned()
        };
        let seen: Vec<String> =
            events.take().iter().map(|line| format!("{} {}", of(line, "operation"), of(line, "outcome"))).collect();
        let mut expected = vec![
            "put SUCCESS",
            "exists SUCCESS",
            "get SUCCESS",
            "get MISS",
            "get_into SUCCESS",
            "batched_exists SUCCESS",
            "batched_contains SUCCESS",
            "batched_get SUCCESS",
            "get_prefix SUCCESS",
            "list SUCCESS",
            "list_entries DROPPED",
            "ping SUCCESS",
            "remove FAILED",
            "put DROPPED",
            "close SUCCESS",
        ];
        if !excluded.is_empty() {
            expected.retain(|e| !["exists", "get", "batched_contains"].contains(&e.split(' ').next().unwrap()));
        }
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn an_audit_has_the_capabilities_of_the_store_behind() {
    let audit = connectors::open("audit://?actual_remote_url=memory%3A%2F%2F%3Fcapacity%3D1000").await.unwrap();
    let memory = connectors::open("memory://?capacity=1000").await.unwrap();
    assert_eq!(audit.capabilities(), memory.capabilities());
    let e = audit.put(&key(1), chunk(1, 2000)).await.unwrap_err();
    assert_eq!((e.kind(), e.connector()), (ErrorKind::TooLarge, Some("kvconn.memory/MemoryConnector")));
}
