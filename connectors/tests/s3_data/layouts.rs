//! `save_chunk_meta`: the layout beside the bytes.

use connectors::{ChunkLayout, Connector, Dtype, ErrorKind, LMCacheEngineConfig, MemoryFormat, MemoryObj, Shape};
use kvconn_cloud_servers::FakeS3;

use crate::{BUCKET, bytes, key, server, store, url_at};

fn layout() -> ChunkLayout {
    let shape = Shape::new(&[2, 3, 16, 8]).expect("a shape");
    ChunkLayout::new(MemoryFormat::Kv2ltd, shape, Dtype::Bfloat16).expect("a layout")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_layout_is_metadata_and_the_bytes_stay_the_chunks() {
    let fake = server();
    let with = store(&fake, "&save_chunk_meta=true").await;
    let without = store(&fake, "").await;
    let chunk = MemoryObj::from_vec(bytes(layout().len, 1), layout()).expect("a chunk");
    with.put(&key(1), chunk.clone()).await.expect("a put");
    let object = fake.object(BUCKET, key(1).as_str()).expect("an object");
    assert!(*object.bytes == *chunk);
    let entry: Vec<_> = object.metadata.iter().filter(|(name, _)| name.ends_with("kvconnlayout")).collect();
    // Length 1536, format, dtype, shape, each little-endian.
    assert!(entry.len() == 1 && entry[0].1.starts_with("00060000") && entry[0].1.len() == 56, "{entry:?}");
    for store in [&with, &without] {
        assert_eq!(store.get(&key(1)).await.expect("a get").expect("a chunk"), chunk);
    }
    // A raw put leaves no layout behind.
    without.put(&key(1), chunk.clone()).await.expect("a put");
    let raw = with.get(&key(1)).await.expect("a get").expect("a chunk");
    assert!(*raw == *chunk);
    assert_eq!(raw.layout(), &ChunkLayout::binary(chunk.len()));
}

/// No `get` can read the object of `key(1)`, so it is not a hit.
async fn is_missing_but_removable(store: &Connector, fake: &FakeS3) {
    let keys = [key(1), key(2)];
    assert!(!store.exists(&key(1)).await.expect("an answer"));
    assert!(store.batched_exists(&keys).await.into_iter().all(|answer| !answer.expect("an answer")));
    assert_eq!(store.batched_contains(&keys).await.expect("an answer"), 0);
    let removed: Vec<bool> =
        store.batched_remove(&keys).await.into_iter().map(|answer| answer.expect("an answer")).collect();
    assert_eq!(removed, [true, false]);
    assert!(fake.object(BUCKET, key(1).as_str()).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layerwise_mode_keeps_the_layout_of_each_layer() {
    let fake = server();
    let mut config = LMCacheEngineConfig::default();
    config.use_layerwise = true;
    let store =
        connectors::builder(&url_at(&fake.endpoint(), "")).config(config).open().await.expect("the store opens");
    let shape = Shape::new(&[16, 2, 8]).expect("a shape");
    let layout = ChunkLayout::new(MemoryFormat::KvT2d, shape, Dtype::Bfloat16).expect("a layout");
    let chunk = MemoryObj::from_vec(bytes(layout.len, 1), layout).expect("a chunk");
    let layer = "m@1@0@1f@half@3".parse().expect("the key of a layer");
    store.put(&layer, chunk.clone()).await.expect("a put");
    assert_eq!(store.get(&layer).await.expect("a get").expect("a chunk").layout(), chunk.layout());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layout_that_is_not_the_objects_is_corrupt() {
    let fake = server();
    let store = store(&fake, "").await;
    let chunk = MemoryObj::from_vec(bytes(layout().len, 1), layout()).expect("a chunk");
    crate::store(&fake, "&save_chunk_meta=true").await.put(&key(1), chunk.clone()).await.expect("a put");
    let object = fake.object(BUCKET, key(1).as_str()).expect("an object");
    let entry = &object.metadata.iter().find(|(name, _)| name.ends_with("kvconnlayout")).expect("an entry").1;
    for (bytes, entry) in [(&chunk[1..], entry.as_str()), (&chunk[..], "zz"), (&chunk[..], "000"), (&chunk[..], "")] {
        fake.put_object(BUCKET, key(1).as_str(), bytes.to_vec(), &[("kvconnlayout", entry)]);
        let e = store.get(&key(1)).await.expect_err("a wrong layout");
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{entry:?}: {e}");
        is_missing_but_removable(&store, &fake).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_over_the_limit_is_refused_both_ways() {
    let fake = server();
    let store = store(&fake, "&max_value_bytes=1000").await;
    let e = store.put(&key(1), bytes(1001, 1).into()).await.expect_err("too large");
    assert_eq!(e.kind(), ErrorKind::TooLarge, "{e}");
    fake.put_object(BUCKET, key(1).as_str(), bytes(1001, 1), &[]);
    let e = store.get(&key(1)).await.expect_err("too large");
    assert_eq!(e.kind(), ErrorKind::TooLarge, "{e}");
    is_missing_but_removable(&store, &fake).await;
    store.put(&key(1), bytes(1000, 1).into()).await.expect("a put");
    assert!(store.get(&key(1)).await.expect("a get").is_some());
}
