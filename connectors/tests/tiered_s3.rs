//! `tiered://` over S3: one request for many readers, and a front that stays within its bound.

use std::path::Path;
use std::time::Duration;

use connectors::{CacheKey, Connector, MemoryObj};
use futures::future::{join_all, try_join_all};
use kvconn_cloud_servers::{Credentials, FakeS3, Fault, Operation};

const CHUNK: usize = 256 << 10;
const CAPACITY: usize = 4 * CHUNK;
const KEYS: u32 = 16;

fn key(n: u32) -> CacheKey {
    format!("facebook/opt-125m@1@0@{n:x}@half").parse().unwrap()
}

fn chunk(n: u32) -> Vec<u8> {
    vec![n as u8; CHUNK]
}

fn s3() -> (FakeS3, String) {
    let fake = FakeS3::start();
    fake.bucket("chunks");
    let Credentials { access_key_id, secret_access_key, .. } = fake.credentials();
    let keys = format!("access_key_id={access_key_id}&secret_access_key={secret_access_key}");
    let url = format!("s3://chunks/kv?endpoint={}&region=us-east-1&{keys}", fake.endpoint());
    (fake, url)
}

/// Opens the store behind a front of `CAPACITY` bytes. Only the `&` of the inner URL is encoded.
async fn open(front: &str, back: &str) -> Connector {
    let url = format!("tiered://?front={front}?capacity={CAPACITY}&back={}", back.replace('&', "%26"));
    connectors::open(&url).await.unwrap()
}

/// A store on S3 with `KEYS` chunks, which another process wrote.
async fn filled(url: &str) {
    let connector = connectors::open(url).await.unwrap();
    let (connector, numbers) = (&connector, 0..KEYS);
    let puts = numbers.map(|n| async move { connector.put(&key(n), MemoryObj::from(chunk(n))).await });
    try_join_all(puts).await.unwrap();
}

/// The number of chunks that the server gave since the last call.
fn reads(fake: &FakeS3) -> usize {
    let reads = fake.requests().iter().filter(|r| r.operation == Operation::Get && r.status == Some(200)).count();
    fake.forget_requests();
    reads
}

async fn many_readers_share_one_read(front: &str) {
    let (fake, back) = s3();
    filled(&back).await;
    let connector = open(front, &back).await;
    fake.forget_requests();
    // So long that all readers have asked before the first answer.
    fake.always(Fault::delay(Duration::from_millis(500)).on([Operation::Get]));
    let (connector, one) = (&connector, key(1));
    for found in join_all((0..50).map(|_| connector.get(&one))).await {
        assert!(*found.unwrap().unwrap() == *chunk(1));
    }
    assert_eq!(reads(&fake), 1);
    assert!(*connector.get(&one).await.unwrap().unwrap() == *chunk(1), "from the front");
    assert_eq!(reads(&fake), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_of_a_chunk_share_one_request() {
    many_readers_share_one_read("memory://").await;
    let dir = tempfile::tempdir().unwrap();
    many_readers_share_one_read(&format!("fs://{}", dir.path().display())).await;
}

/// Reads all chunks in order, and gives the store.
async fn read_all(front: &str, back: &str) -> Connector {
    let connector = open(front, back).await;
    for n in 0..KEYS {
        assert!(*connector.get(&key(n)).await.unwrap().unwrap() == *chunk(n), "chunk {n}");
    }
    connector
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_front_in_memory_keeps_the_last_chunks_and_no_more() {
    let (fake, back) = s3();
    filled(&back).await;
    let connector = read_all("memory://", &back).await;
    reads(&fake);
    connector.get(&key(KEYS - 1)).await.unwrap().unwrap();
    assert_eq!(reads(&fake), 0, "the last chunk is in the front");
    for n in 0..KEYS {
        connector.get(&key(n)).await.unwrap().unwrap();
    }
    let (read, kept) = (reads(&fake), CAPACITY / CHUNK);
    assert!(read >= KEYS as usize - kept, "{read} reads of {KEYS} chunks with {kept} in the front");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_front_of_files_stays_within_its_capacity() {
    let (fake, back) = s3();
    filled(&back).await;
    let dir = tempfile::tempdir().unwrap();
    let connector = read_all(&format!("fs://{}", dir.path().display()), &back).await;
    let bytes = bytes_of_chunks(dir.path());
    assert!((CHUNK as u64..=CAPACITY as u64).contains(&bytes), "{bytes} of {CAPACITY}");
    reads(&fake);
    connector.get(&key(KEYS - 1)).await.unwrap().unwrap();
    assert_eq!(reads(&fake), 0, "the last chunk is in the front");
}

fn bytes_of_chunks(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    files.filter(|f| f.path().extension().is_some_and(|e| e == "data")).map(|f| f.metadata().unwrap().len()).sum()
}
