//! Reads by ranges, and writes as blocks.

use super::Container;
use super::emulated::{chunk, key, keys, open, reads_give_one_version};

const IN_PARTS: &str = "&parallel_from_bytes=6291456&part_bytes=5242880";
const LEN: usize = 12 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_large_chunk_comes_back_from_its_blocks() {
    let container = Container::new();
    let store = open(&container.url("", IN_PARTS)).await;
    let (mine, other) = (key("org/my_model@1@0@1f@half"), key("org_my_model@1@0@1f@half"));
    store.put(&mine, chunk(LEN, 3)).await.expect("a put");
    let found = store.get(&mine).await.expect("a get").expect("a hit");
    assert!(found.to_vec() == chunk(LEN, 3).to_vec());
    // A store that has read a large chunk asks for a range of small ones, too.
    for len in [1, 100, 5 << 20] {
        store.put(&other, chunk(len, 1)).await.expect("a put");
        assert!(
            store.get(&other).await.expect("a get").expect("a hit").to_vec() == chunk(len, 1).to_vec(),
            "{len} bytes"
        );
    }
    store.put(&mine, chunk(LEN, 3)).await.expect("a put");
    // The blob records its key, although it came in blocks.
    assert!(store.get(&other).await.expect("an answer").is_none());
    assert_eq!(keys(&store).await, [mine.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_by_ranges_gives_one_version() {
    let container = Container::new();
    let store = open(&container.url("", IN_PARTS)).await;
    reads_give_one_version(&store, store.clone(), LEN).await;
}
