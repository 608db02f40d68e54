//! Chunks, and checks of stores on an emulator of a cloud.

use connectors::{CacheKey, Connector, MemoryObj};
use futures::TryStreamExt;

pub(crate) async fn open(url: &str) -> Connector {
    connectors::open(url).await.unwrap_or_else(|e| panic!("the store opens: {e}"))
}

pub(crate) fn key(text: &str) -> CacheKey {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

pub(crate) fn chunk(len: usize, seed: u8) -> MemoryObj {
    MemoryObj::from((0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect::<Vec<u8>>())
}

/// A chunk of text.
pub(crate) fn small(seed: u8) -> MemoryObj {
    MemoryObj::from(format!("the chunk {seed}").into_bytes())
}

pub(crate) async fn keys(connector: &Connector) -> Vec<String> {
    let mut all: Vec<String> = connector.list("").map_ok(|key| key.to_string()).try_collect().await.expect("it lists");
    all.sort();
    all
}

/// An object of another key with the same name is a miss. The store is empty before, and has one chunk afterwards.
pub(crate) async fn keys_that_share_a_name_differ(store: &Connector) {
    let (mine, other) = (key("org/my_model@1@0@1f@half"), key("org_my/model@1@0@1f@half"));
    store.put(&mine, small(1)).await.expect("a put");
    assert!(store.exists(&mine).await.expect("an answer"));
    assert!(!store.exists(&other).await.expect("an answer"));
    assert!(store.get(&other).await.expect("an answer").is_none());
    assert!(!store.remove(&other).await.expect("an answer"));
    assert_eq!(keys(store).await, [mine.as_str()]);
    store.put(&other, small(2)).await.expect("a put");
    assert!(store.get(&mine).await.expect("an answer").is_none());
    assert_eq!(keys(store).await, [other.as_str()]);
}

/// Reads of a chunk of `len` bytes give one version, while `writer` replaces it.
pub(crate) async fn reads_give_one_version(store: &Connector, writer: Connector, len: usize) {
    let key = key("m@1@0@1f@half");
    writer.put(&key, chunk(len, 0)).await.expect("a put");
    let written = key.clone();
    let writes = tokio::spawn(async move {
        for version in 1..6 {
            writer.put(&written, chunk(len, version)).await.expect("a put");
        }
    });
    let mut reads = 0;
    while !writes.is_finished() || reads == 0 {
        // A version that is replaced during the read is an error or a new try, and never a mixture.
        if let Ok(found) = store.get(&key).await {
            let found = found.expect("a hit").to_vec();
            assert!(found == chunk(len, found[0]).to_vec(), "two versions are mixed");
            reads += 1;
        }
    }
    writes.await.expect("the writes end");
}
